import type { Log } from '../log.ts'
import type { Fleet } from './fleet.ts'
import { drift } from './policy.ts'
import type { Sandbox } from './sandbox.ts'
import type { SandboxStore } from './store.ts'

/** A record that says `starting` for longer than this belongs to a provision that died (ms). */
export const STARTING_TTL_MS = 60_000
/** What runs without a record for this long is an orphan (ms): a Redis that lost its data gets back from the gateways what they use. */
export const SUSPECT_MS = 6_000

export interface ReconcileOptions {
  readonly fleet: Fleet
  readonly store: SandboxStore
  readonly log: Log
  /** What drains has this long before it goes all the same (ms). */
  readonly drainMs: number
  readonly now: () => number
}

/** Makes records and engine agree: the engine is what is, the records are what should be. Orphans are killed, ghosts forgotten. */
export interface Reconcile {
  run(): Promise<void>
  /** Something runs that no record knows; it is judged at the next look. */
  readonly hasSuspects: boolean
  /** At boot nothing is under way, so a half-made sandbox is an orphan at once. */
  boot(): Promise<void>
}

export function createReconcile(options: ReconcileOptions): Reconcile {
  const { fleet, store, log, now } = options
  /** Since when each of those that run has been without a record. */
  const suspects = new Map<string, number>()

  /** True for one that was found without a record before, and long enough ago. */
  function isOrphan(id: string): boolean {
    const since = suspects.get(id) ?? now()
    suspects.set(id, since)
    return now() - since >= SUSPECT_MS
  }

  function shouldRun(record: Sandbox): boolean {
    if (record.state === 'draining') return record.users.length > 0 && now() - record.since < options.drainMs
    return record.state === 'prewarmed' || record.state === 'warm' || record.state === 'paused'
  }

  async function run(): Promise<void> {
    // Records first: what is made meanwhile then looks like an orphan, and is asked about once more, not like a ghost.
    const records = await store.list()
    const live = await fleet.live()
    const isUnfinished = (record: Sandbox) =>
      fleet.underway.has(record.id) || (record.state === 'starting' && now() - record.createdAt <= STARTING_TTL_MS)
    const settled = records.filter((record) => !isUnfinished(record))
    const unfinished = new Set(records.filter(isUnfinished).map(({ id }) => id))
    const keep = new Map(settled.filter(shouldRun).map((record) => [record.id, record]))
    const { orphans, ghosts } = drift(new Set(keep.keys()), new Set(live.filter(({ running }) => running).map(({ id }) => id)))
    const doomed = live.filter(({ id, running }) => !fleet.underway.has(id) && !unfinished.has(id) && (orphans.includes(id) || !running))
    const causeOf = (id: string) => {
      const record = records.find((one) => one.id === id)
      return record?.state === 'draining' ? record.cause : 'platform'
    }
    for (const id of suspects.keys()) if (!orphans.includes(id)) suspects.delete(id)
    let killed = 0
    for (const { id, container, running } of doomed) {
      const record = running ? await store.read(id) : undefined
      if (record !== undefined && shouldRun(record)) continue
      if (running && record === undefined && !isOrphan(id)) continue
      suspects.delete(id)
      killed += 1
      await fleet.discard(id, container, causeOf(id))
    }
    const gone = [...ghosts, ...settled.filter(({ id }) => !keep.has(id)).map(({ id }) => id)].filter((id) => !doomed.some((one) => one.id === id))
    for (const id of gone) await fleet.discard(id, undefined, causeOf(id))
    for (const one of live) {
      if (!keep.has(one.id) || !one.running) continue
      fleet.found(one)
      await fleet.settle(one.id)
    }
    await fleet.sweep(new Set([...keep.keys(), ...unfinished, ...suspects.keys()]))
    if (killed + gone.length > 0) log.info({ orphans: killed, ghosts: gone.length }, 'reconcile.done')
  }

  return {
    run,
    get hasSuspects() {
      return suspects.size > 0
    },
    async boot() {
      const live = await fleet.live()
      for (const record of await store.list())
        if (record.state === 'starting') await fleet.discard(record.id, live.find(({ id }) => id === record.id)?.container, 'platform')
      await run()
    },
  }
}
