import type { Log } from '../log.ts'
import type { Entry, Households } from './households.ts'
import type { LifecycleQueue } from './lifecycle.ts'
import type { Placing } from './placing.ts'
import type { EndCause } from './sandbox.ts'
import type { SandboxNews, SandboxStore } from './store.ts'

export interface RenewalOptions {
  readonly store: SandboxStore
  readonly queue: LifecycleQueue
  readonly log: Log
  readonly gateway: string
  readonly households: Households
  readonly placing: Placing
  readonly now: () => number
  /** How long one renewal may wait for a fresh sandbox (ms); later it is tried again. */
  readonly waitMs: number
  /** The old one has no request of ours any more. */
  left(entry: Entry): void
}

/** Puts fresh sandboxes on seats, under load and without a request lost: the old one serves until the fresh one is there, and then finishes. */
export interface Renewal {
  /** Replaces a sandbox by one of that class, made from that template if one is named. Does nothing while that is under way. */
  renew(entry: Entry, wanted: { make: string; spec?: string; cause: EndCause }): void
  /** Its seat has a fresh one already: this gateway's requests move there. */
  follow(entry: Entry, cause: EndCause): void
  heard(news: SandboxNews): void
}

/** Looks for a free prewarmed sandbox again after this long (ms). */
const AGAIN_MS = 500

export function createRenewal(options: RenewalOptions): Renewal {
  const { store, queue, log, households, now } = options
  const underway = new Set<string>()
  const fresh = new Set<() => void>()

  function prewarmed(make: string, spec: string | undefined): Entry[] {
    return [...households.entries.values()].filter(
      (entry) => entry.tenant === null && entry.make === make && (spec === undefined || entry.spec === spec) && entry.link.connected,
    )
  }

  function aFreshOne(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer)
        fresh.delete(settle)
        if (signal.aborted) reject(signal.reason as Error)
        else resolve()
      }
      const timer = setTimeout(settle, AGAIN_MS)
      fresh.add(settle)
    })
  }

  function leave(entry: Entry, cause: EndCause): void {
    households.unserve(entry)
    entry.leaving = cause
    if (entry.inFlight === 0) options.left(entry)
  }

  async function replace(entry: Entry, { make, spec, cause }: { make: string; spec?: string; cause: EndCause }): Promise<void> {
    const signal = AbortSignal.timeout(options.waitMs)
    const { seat, tenant } = entry
    for (let isAsked = false; seat !== null && tenant !== null && households.serving.get(seat) === entry;) {
      const candidates = prewarmed(make, spec).map(({ id }) => id)
      const result = await store.renew(seat, { old: entry.id, gateway: options.gateway, cause, at: now(), candidates })
      if (result.kind === 'lost') return
      if (result.kind === 'none') {
        if (!isAsked) await queue.replenish(make)
        isAsked = true
        await aFreshOne(signal)
        continue
      }
      const successor = households.entries.get(result.id)!
      if (await options.placing.settle(successor, { seat, tenant, make, signal })) {
        await store.publish({ kind: 'adopted', id: successor.id, make })
        await store.publish({ kind: 'renewed', id: entry.id, seat })
        log.info({ sandbox: entry.id, successor: successor.id, tenant, cause }, 'sandbox.renewed')
      }
      // Without a successor the next request finds another: the old one drains in any case.
      return leave(entry, cause)
    }
  }

  function follow(entry: Entry, cause: EndCause): void {
    const { seat, tenant, make } = entry
    if (seat === null || tenant === null || households.serving.get(seat) !== entry || underway.has(entry.id)) return
    underway.add(entry.id)
    options.placing
      .place({ seat, tenant, make })
      .catch((error: Error) => log.warn({ sandbox: entry.id, reason: error.message }, 'platform.failed'))
      .finally(() => {
        underway.delete(entry.id)
        leave(entry, cause)
      })
  }

  return {
    renew(entry, wanted) {
      if (underway.has(entry.id) || entry.leaving !== undefined) return
      underway.add(entry.id)
      replace(entry, wanted)
        .catch((error: Error) => log.warn({ sandbox: entry.id, reason: error.message }, 'platform.failed'))
        .finally(() => underway.delete(entry.id))
    },
    follow,
    heard(news) {
      if (news.kind === 'started' && news.seat === null) for (const settle of fresh) settle()
      if (news.kind === 'renewed') {
        const entry = households.entries.get(news.id)
        if (entry !== undefined) follow(entry, 'recycled')
      }
    },
  }
}
