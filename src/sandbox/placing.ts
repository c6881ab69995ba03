import { WebtaskError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { AgentLink } from './agent-link.ts'
import type { Entry, Households } from './households.ts'
import type { LifecycleQueue } from './lifecycle.ts'
import type { Seat } from './seat.ts'
import type { SandboxNews, SandboxStore } from './store.ts'

/** Gives sandboxes their way out. `attach` is awaited before the first load, and must not fail or take long. */
export interface WayOut {
  attach(id: string, tenant: TenantId): Promise<void>
  detach(id: string): void
}

export interface Wanted {
  readonly seat: Seat
  readonly tenant: TenantId
  readonly make: string
}

export interface PlacingOptions {
  readonly store: SandboxStore
  readonly queue: LifecycleQueue
  readonly log: Log
  readonly gateway: string
  readonly waitMs: number
  readonly now: () => number
  readonly egress?: WayOut | undefined
  readonly households: Households
  /** Connects to a sandbox, or is already. */
  open(id: string, about: { tenant: TenantId | null; seat: Seat | null; make: string; spec: string }): Promise<Entry>
  /** The deployment is full: so many seats of this gateway wait for room. */
  makeRoom(seats: number): void
}

export interface Placing {
  /** Finds or makes the sandbox of a seat. Shared by all who ask, so that no single caller's leaving ends it. */
  place(wanted: Wanted): Promise<Entry>
  isPlacing(seat: Seat): boolean
  /** Uses a sandbox for its seat once it is connected and has its way out; false when it ended instead. */
  settle(entry: Entry, place: Wanted & { signal: AbortSignal }): Promise<boolean>
  heard(news: SandboxNews): void
}

/** News can be lost: whoever waits looks again after this long (ms). */
const LOOK_AGAIN_MS = 1_000
/** And whoever waits for room (ms). */
const ROOM_AGAIN_MS = 250

type Heard = Extract<SandboxNews, { kind: 'started' | 'failed' | 'ended' }> | undefined

export function createPlacing(options: PlacingOptions): Placing {
  const { store, queue, log, now, households } = options
  const placing = new Map<Seat, Promise<Entry>>()
  const listeners = new Map<Seat, Set<(news: Heard) => void>>()
  /** Seats that wait for others to go. */
  const crowded = new Set<Seat>()

  /** What is told of the seat next; undefined when nothing is in time or the wait is given up. Never rejects: nobody may be awaiting it then. */
  function newsOf(seat: Seat, { signal, ms }: { signal: AbortSignal; ms: number }): Promise<Heard> {
    return new Promise((resolve) => {
      const set = listeners.get(seat) ?? new Set()
      listeners.set(seat, set)
      const settle = (news: Heard) => {
        clearTimeout(timer)
        signal.removeEventListener('abort', abort)
        set.delete(settle)
        if (set.size === 0) listeners.delete(seat)
        resolve(news)
      }
      const abort = () => settle(undefined)
      const timer = setTimeout(settle, ms, undefined)
      signal.addEventListener('abort', abort, { once: true })
      set.add(settle)
    })
  }

  /** Connected ones of that class that belong to nobody, as far as is known here. */
  function candidates(make: string): string[] {
    return [...households.entries.values()]
      .filter((entry) => entry.tenant === null && entry.make === make && entry.link.connected)
      .map((entry) => entry.id)
  }

  async function settle(entry: Entry, { seat, tenant, signal }: Wanted & { signal: AbortSignal }): Promise<boolean> {
    entry.tenant = tenant
    entry.seat = seat
    entry.idleSince = now()
    // One that is connected has its directories: the way out is made while the news goes round.
    const attached = entry.link.connected ? options.egress?.attach(entry.id, tenant) : undefined
    if (!(await connects(entry.link, signal))) return false
    await (attached ?? options.egress?.attach(entry.id, tenant))
    households.serve(entry, { tenant, seat })
    return true
  }

  /** False when the sandbox ended instead: then another must be found. */
  async function connects(link: AgentLink, signal: AbortSignal): Promise<boolean> {
    try {
      await link.whenConnected(signal)
      return true
    } catch (error) {
      signal.throwIfAborted()
      log.info({ sandbox: link.id, reason: (error as Error).message }, 'sandbox.ended')
      return false
    }
  }

  async function find(wanted: Wanted, signal: AbortSignal): Promise<Entry> {
    const { seat, tenant, make } = wanted
    const began = now()
    for (let isMade = false; ;) {
      signal.throwIfAborted()
      const adoption = await store.adopt(seat, { tenant, gateway: options.gateway, candidates: candidates(make) })
      if (adoption.kind !== 'none' && adoption.kind !== 'starting') {
        // What is sent to it meanwhile waits in its sockets until it is thawed.
        if (adoption.kind === 'resumed') await queue.resume(adoption.id)
        const entry = await options.open(adoption.id, { tenant, seat, make, spec: '' })
        if (adoption.kind === 'adopted') {
          log.info({ sandbox: adoption.id, tenant }, 'sandbox.adopted')
          void store.publish({ kind: 'adopted', id: adoption.id, make }).catch(() => {})
        }
        if (!(await settle(entry, { ...wanted, signal }))) continue
        if (adoption.kind === 'adopted') record('adopted')
        else if (isMade) record('made')
        return entry
      }
      const news = newsOf(seat, { signal, ms: LOOK_AGAIN_MS })
      if (adoption.kind === 'none') await queue.provision(wanted)
      isMade ||= adoption.kind === 'none'
      const heard = await news
      if (heard?.kind !== 'failed') continue
      if (!heard.full)
        throw new WebtaskError('pool_exhausted', 'No sandbox could be started', { retryAfterSeconds: 2, cause: new Error(heard.reason) })
      crowded.add(seat)
      options.makeRoom(crowded.size)
      // Woken as soon as somebody has gone.
      await newsOf(seat, { signal, ms: ROOM_AGAIN_MS })
    }

    function record(how: 'adopted' | 'made'): void {
      void store.recordStart({ at: began, make, how, ms: now() - began }).catch(() => {})
    }
  }

  async function placeNew(wanted: Wanted): Promise<Entry> {
    const signal = AbortSignal.timeout(options.waitMs)
    try {
      return await find(wanted, signal)
    } catch (error) {
      if (signal.aborted) {
        const why = crowded.has(wanted.seat) ? 'all sandboxes of the deployment are in use' : 'no sandbox was ready'
        throw new WebtaskError('pool_exhausted', `Waited ${options.waitMs} ms in vain: ${why}`, { retryAfterSeconds: 2, cause: error })
      }
      if (error instanceof WebtaskError) throw error
      throw new WebtaskError('unavailable', 'The sandbox records cannot be reached', { retryAfterSeconds: 1, cause: error })
    } finally {
      crowded.delete(wanted.seat)
    }
  }

  return {
    place(wanted) {
      let underway = placing.get(wanted.seat)
      if (underway === undefined) {
        underway = placeNew(wanted).finally(() => placing.delete(wanted.seat))
        placing.set(wanted.seat, underway)
      }
      return underway
    },
    isPlacing: (seat) => placing.has(seat),
    settle,
    heard(news) {
      if ((news.kind === 'started' && news.seat !== null) || news.kind === 'failed')
        for (const settle of listeners.get(news.seat!) ?? []) settle(news)
      if (news.kind !== 'ended') return
      // One that went makes room for one that waits; and its own seat needs another.
      const seat = households.entries.get(news.id)?.seat
      for (const waiting of seat === null || seat === undefined ? crowded : [seat, ...crowded])
        for (const settle of listeners.get(waiting) ?? []) settle(news)
    },
  }
}
