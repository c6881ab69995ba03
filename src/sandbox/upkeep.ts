import type { Log } from '../log.ts'
import type { Entry, Households } from './households.ts'
import type { LifecycleQueue } from './lifecycle.ts'
import type { WayOut } from './placing.ts'
import { toEvict } from './policy.ts'
import { transition, type EndCause, type Sandbox } from './sandbox.ts'
import type { SandboxStore } from './store.ts'

export interface UpkeepOptions {
  readonly store: SandboxStore
  readonly queue: LifecycleQueue
  readonly log: Log
  readonly gateway: string
  /** A sandbox without requests for this long is frozen, and for that long retired (ms). */
  readonly pauseMs: number
  readonly idleMs: number
  /** Unix milliseconds. */
  readonly now: () => number
  readonly egress?: WayOut | undefined
  readonly households: Households
  /** Its tenant is promised that it is kept running. */
  isKept(entry: Entry): boolean
  kill(entry: Entry, cause: EndCause): void
}

/** How a gateway gives up what it does not need and takes over what nobody looks after. The record decides: other gateways act on it too. */
export interface Upkeep {
  sweep(): Promise<void>
  /** It uses the processor: if nothing of ours runs there, it is given up until the next request. */
  rest(id: string): Promise<void>
  /** Gives up an idle sandbox at once. */
  giveUp(entry: Entry, cause: EndCause): Promise<boolean>
  /** Lets the longest idle go so that `count` others find room. */
  makeRoom(count: number): Promise<void>
  /** The last request of this gateway there has ended: give it up for good. */
  leave(entry: Entry): Promise<void>
  /** Records one again that Redis lost, if requests of this gateway go there or still run there. False when it has no claim on it. */
  restore(id: string): Promise<boolean>
  inherit(records: readonly Sandbox[], living: ReadonlySet<string>): Promise<void>
}

/** Nothing of ours runs in a sandbox for this long before work in it counts as work after the answer (ms). */
const REST_MS = 700
/** What was used within this time does not make room for others (ms). */
const SETTLED_MS = 1_000

export function createUpkeep(options: UpkeepOptions): Upkeep {
  const { store, queue, log, now, households } = options
  /** Told to make room and not yet gone. */
  const evicted = new Set<string>()

  const isIdle = (entry: Entry, ms: number) =>
    entry.seat !== null && entry.inFlight === 0 && now() - entry.idleSince >= ms && households.serving.get(entry.seat) === entry

  /** Gives up a sandbox, unless a request came meanwhile; the last gateway to do so retires it. */
  async function release(entry: Entry, cause: EndCause, ms: number): Promise<boolean> {
    const record = await store.read(entry.id)
    if (record?.state !== 'warm' || !isIdle(entry, ms)) return false
    const next = transition(record, { kind: 'released', gateway: options.gateway, cause, at: now() })
    if (next === undefined) return false
    // From here on a new request goes through the record, so none can slip onto what is being retired.
    households.unserve(entry)
    if ((await store.swap(record, next)) !== 'swapped') return false
    if (next.state === 'draining') options.kill(entry, cause)
    else options.egress?.detach(entry.id)
    return true
  }

  /** Gives up a sandbox until its next request; the last gateway to do so has it frozen. */
  async function pause(entry: Entry, ms: number): Promise<void> {
    const record = await store.read(entry.id)
    const next = record && transition(record, { kind: 'rested', gateway: options.gateway, at: now() })
    if (record === undefined || next === undefined || !isIdle(entry, ms)) return
    households.unserve(entry)
    if ((await store.swap(record, next)) !== 'swapped' || next.state !== 'paused') return
    log.info({ sandbox: entry.id, tenant: next.tenant }, 'sandbox.paused')
    await queue.pause(next.id)
  }

  return {
    async sweep() {
      for (const entry of households.entries.values()) {
        if (!isIdle(entry, Math.min(options.pauseMs, options.idleMs)) || options.isKept(entry)) continue
        if (isIdle(entry, options.idleMs)) await release(entry, 'idle', options.idleMs)
        else await pause(entry, options.pauseMs)
      }
    },
    async rest(id) {
      const entry = households.entries.get(id)
      if (entry !== undefined && isIdle(entry, REST_MS)) await pause(entry, REST_MS)
    },
    giveUp: (entry, cause) => release(entry, cause, 0),
    async makeRoom(count) {
      for (const id of evicted) if (!households.entries.has(id)) evicted.delete(id)
      const candidates = [...households.serving.values()].map((entry) => ({
        id: entry.id,
        inFlight: entry.inFlight,
        idleSince: entry.idleSince,
        isKept: evicted.has(entry.id) || options.isKept(entry),
      }))
      for (const id of toEvict(candidates, { count: count - evicted.size, now: now(), restMs: SETTLED_MS })) {
        evicted.add(id)
        if (!(await release(households.entries.get(id)!, 'evicted', SETTLED_MS))) evicted.delete(id)
      }
    },
    /** A sandbox that is connected is there, whatever the records say; only its seat may be somebody else's by now. */
    async restore(id) {
      const entry = households.entries.get(id)
      if (entry === undefined || !entry.link.connected || entry.tenant === null || entry.seat === null) return false
      const { tenant, seat, make, spec, bornAt, leaving } = entry
      // A generation that no record of it has had: what was decided before the loss cannot land.
      const base = { id, tenant, users: [options.gateway], generation: now(), createdAt: bornAt, make, spec }
      const isServing = households.serving.get(seat) === entry
      if (!isServing && entry.inFlight === 0) return false
      const result = await store.restore(
        isServing ? { ...base, state: 'warm', seat } : { ...base, state: 'draining', cause: leaving ?? 'recycled', since: now() },
      )
      if (result === 'restored') log.warn({ sandbox: id, tenant }, 'sandbox.restored')
      return result !== 'taken'
    },
    async leave(entry) {
      const cause = entry.leaving ?? 'recycled'
      const record = await store.read(entry.id)
      if (record?.state !== 'draining') return
      const next = transition(record, { kind: 'released', gateway: options.gateway, cause, at: now() })
      // Somebody else's change came between: the next sweep of the records tries again.
      if (next?.state !== 'draining' || (await store.swap(record, next)) !== 'swapped') return
      if (next.users.length === 0) options.kill(entry, cause)
    },
    /**
     * Takes over what no living gateway uses: after a crash nobody else would ever retire it. Those who may only have been out of touch
     * get time to say that they live: we judge nobody until we have been in touch ourselves for a while.
     */
    async inherit(records, living) {
      for (const record of records) {
        const entry = households.entries.get(record.id)
        if (entry === undefined || (record.state !== 'warm' && record.state !== 'draining')) continue
        const dead = record.users.filter((user) => !living.has(user))
        if (record.state === 'draining') {
          if (entry.inFlight > 0 || dead.length < record.users.length) continue
          const next = transition(record, { kind: 'retired', cause: record.cause, at: now() })
          if (next === undefined || (await store.swap(record, next)) === 'swapped') options.kill(entry, record.cause)
          continue
        }
        const isOurs = households.serving.get(record.seat) === entry
        if (isOurs ? record.users.includes(options.gateway) : dead.length < record.users.length) continue
        const next = transition(record, { kind: 'inherited', gateway: options.gateway, dead })
        if (next === undefined || (await store.swap(record, next)) !== 'swapped') continue
        if (isOurs) continue
        log.info({ sandbox: record.id, tenant: record.tenant }, 'sandbox.inherited')
        entry.idleSince = now()
        households.serve(entry, record)
        void options.egress?.attach(record.id, record.tenant)
      }
    },
  }
}
