import { mkdir } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import type { Log } from '../log.ts'
import { createBoots } from './boots.ts'
import { createBudgetedDriver } from './budgeted.ts'
import { watchBurning } from './burning.ts'
import { cgroupMemoryBytes } from './cgroup.ts'
import type { ContainerDriver } from './driver.ts'
import { createFleet } from './fleet.ts'
import { startLifecycleWorker, type LifecycleJob, type LifecycleQueue } from './lifecycle.ts'
import { isWorn } from './policy.ts'
import { createReconcile, SUSPECT_MS } from './reconcile.ts'
import { transition, type EndCause, type Sandbox } from './sandbox.ts'
import { classKey, LABEL, type SandboxClass } from './spec.ts'
import { createStock } from './stock.ts'
import type { SandboxNews, SandboxStore } from './store.ts'

export interface OrchestratorOptions {
  readonly driver: ContainerDriver
  readonly store: SandboxStore
  readonly queue: LifecycleQueue
  readonly log: Log
  readonly redisUrl: string
  readonly prefix: string
  readonly deployment: string
  /** Holds one rendezvous directory per sandbox; the same path for us and for the engine. */
  readonly runDir: string
  readonly class: SandboxClass
  readonly runtimes: readonly string[]
  readonly prewarmed: { readonly min: number; readonly max: number }
  readonly sandboxesMax: number
  /** Sandboxes older than this, or with more of their memory in use, are replaced. */
  readonly ageMs: number
  readonly memoryHighPercent: number
  /** What is frozen is retired after so long (ms). */
  readonly frozenMs: number
  /** What drains has this long (ms). */
  readonly drainMs: number
  /** Remove all sandboxes when disposed. */
  readonly removeOnStop: boolean
  readonly now: () => number
}

export interface Orchestrator extends AsyncDisposable {
  heard(news: SandboxNews): void
}

/** Pause between two looks at what Docker has and what the records say (ms), jittered by up to half. */
const RECONCILE_MS = 5_000
/** Pause between two looks for sandboxes that have served their time (ms), and how many are told so at once. */
const WEAR_MS = 2_000
const WORN_AT_ONCE = 2

/**
 * Makes and removes sandboxes, keeps the prewarmed ones at their number, and makes records and Docker agree.
 * Reconciles before it resolves, so that nothing is offered that does not exist.
 */
export async function startOrchestrator(options: OrchestratorOptions): Promise<Orchestrator> {
  const { store, queue, log, deployment, runDir, now } = options
  const boots = createBoots()
  const driver = createBudgetedDriver(options.driver, { now: () => performance.now(), processors: availableParallelism(), booted: boots.over })
  const label = `${LABEL.deployment}=${deployment}`
  const standardMake = classKey(options.class)
  const fleet = createFleet({ ...options, driver })
  const stock = createStock({ store, queue, standardMake, bounds: options.prewarmed, most: options.sandboxesMax, now })
  const reconcile = createReconcile({ fleet, store, log, drainMs: options.drainMs, now })
  let stopping = false

  /** Whose place a new one may take: prewarmed ones of a class that is not wanted, then what is frozen for longest. */
  async function evict(make: string): Promise<boolean> {
    const records = await store.list()
    const paused = records.filter((record) => record.state === 'paused').toSorted((a, b) => a.pausedAt - b.pausedAt)
    for (const record of [...records.filter((one) => one.state === 'prewarmed' && one.make !== make), ...paused]) {
      const draining = transition(record, { kind: 'retired', cause: 'evicted', at: now() })
      if (draining === undefined || (await store.swap(record, draining)) !== 'swapped') continue
      await fleet.retire(record.id, 'evicted')
      return true
    }
    return false
  }

  async function provision(job: Extract<LifecycleJob, { kind: 'provision' }>): Promise<void> {
    if (stopping) return
    const { seat, make } = job
    try {
      if (seat !== null) stock.wanted(make)
      let result = await fleet.provision(job)
      while (result === 'full' && seat !== null && (await evict(make))) result = await fleet.provision(job)
      if (result !== 'full' || seat === null) return
      await store.publish({ kind: 'crowded', wanted: 1 })
      await store.publish({ kind: 'failed', seat, reason: `All ${options.sandboxesMax} sandboxes are in use`, full: true })
    } finally {
      if (seat === null) stock.filled(make)
    }
  }

  async function handle(job: LifecycleJob): Promise<void> {
    if (job.kind === 'provision') return provision(job)
    if (job.kind === 'settle') return fleet.settle(job.id)
    await fleet.retire(job.id, job.cause)
    await topUp()
  }

  async function topUp(): Promise<void> {
    if (!stopping) await stock.topUp()
  }

  /** Those that have served their time or that nobody came back to: gateways replace what is in use, the rest just goes. */
  async function wear(): Promise<void> {
    const used = new Map<string, number>()
    for (const { id, container } of fleet.known()) used.set(id, (await cgroupMemoryBytes(container)) ?? 0)
    const isTooFull = (record: Sandbox) => {
      const limit = Number(record.make.split('-')[1]) * 1024 * 1024
      return (used.get(record.id) ?? 0) > (limit * options.memoryHighPercent) / 100
    }
    const records = await store.list()
    const worn = records.filter(
      (record) =>
        isWorn(record, { spec: fleet.specOf(record.make), ageMs: options.ageMs, now: now() }) ||
        ((record.state === 'warm' || record.state === 'paused') && isTooFull(record)),
    )
    for (const record of worn.filter(({ state }) => state === 'warm').slice(0, WORN_AT_ONCE))
      await store.publish({ kind: 'worn', id: record.id, spec: fleet.specOf(record.make) })
    for (const record of worn) if (record.state === 'prewarmed' || record.state === 'paused') await retire(record, 'recycled')
    // Looked for, not queued beforehand: most that are frozen are thawed or make room long before their time.
    for (const record of records) if (record.state === 'paused' && now() - record.pausedAt >= options.frozenMs) await retire(record, 'idle')
  }

  async function retire(record: Sandbox, cause: EndCause): Promise<void> {
    const draining = transition(record, { kind: 'retired', cause, at: now() })
    if (draining !== undefined && (await store.swap(record, draining)) === 'swapped') await queue.retire(record.id, cause)
  }

  function guarded(act: () => Promise<void>): void {
    act().catch((error: Error) => log.warn({ reason: error.message }, 'platform.failed'))
  }

  /** Acts again and again until disposed, the next time after the last has ended. */
  function repeat(ms: () => number, act: () => Promise<void>): Disposable {
    let timer: NodeJS.Timeout
    const later = () => {
      timer = setTimeout(() => {
        act()
          .catch((error: Error) => log.warn({ reason: error.message }, 'platform.failed'))
          .finally(() => !stopping && later())
      }, ms())
    }
    later()
    return { [Symbol.dispose]: () => clearTimeout(timer) }
  }

  await mkdir(path.join(runDir, 's'), { recursive: true, mode: 0o711 })
  await mkdir(path.join(runDir, 'e'), { recursive: true, mode: 0o711 })
  await store.tellEngine({ runtimes: options.runtimes })
  await stock.remember()
  await reconcile.boot()
  const stack = new AsyncDisposableStack()
  let engineLost = false
  stack.use(
    driver.watch(label, {
      died: (container) =>
        guarded(async () => {
          await fleet.died(container)
          await topUp()
        }),
      gap: () => {
        if (engineLost) log.info({}, 'engine.found')
        engineLost = false
        guarded(reconcile.run)
      },
      lost: (reason) => {
        if (!engineLost) log.warn({ reason }, 'engine.lost')
        engineLost = true
      },
    }),
  )
  stack.use(
    startLifecycleWorker({
      redisUrl: options.redisUrl,
      prefix: options.prefix,
      handle,
      failed: (job, error) => {
        log.warn({ kind: job.kind, reason: error.message }, 'provision.failed')
        if (job.kind === 'provision' && job.seat !== null)
          guarded(() => store.publish({ kind: 'failed', seat: job.seat!, reason: error.message, full: false }))
      },
    }),
  )
  stack.use(
    repeat(
      () => (reconcile.hasSuspects ? SUSPECT_MS : RECONCILE_MS * (1 + Math.random() / 2)),
      async () => {
        // Redis may have lost it.
        await store.tellEngine({ runtimes: options.runtimes })
        await reconcile.run()
        await topUp()
      },
    ),
  )
  stack.use(repeat(() => WEAR_MS, wear))
  stack.use(
    watchBurning({
      running: () => fleet.known().filter(({ paused }) => !paused),
      cpuNanos: (container) => driver.cpuNanos(container),
      burning: (id) => guarded(() => store.publish({ kind: 'burning', id })),
    }),
  )
  await topUp()

  return {
    heard(news) {
      if (news.kind === 'connected') boots.dialledIn(fleet.known().find(({ id }) => id === news.id)?.container ?? '')
      if (news.kind !== 'adopted') return
      stock.wanted(news.make)
      guarded(topUp)
    },
    async [Symbol.asyncDispose]() {
      stopping = true
      await stack.disposeAsync()
      if (!options.removeOnStop) return
      const records: Sandbox[] = await store.list().catch(() => [])
      await fleet.removeAll()
      await Promise.all(records.map((record) => store.forget(record.id).catch(() => false)))
    },
  }
}
