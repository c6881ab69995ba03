import { randomBytes } from 'node:crypto'
import { chmod, mkdir, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Log } from '../log.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { ContainerDriver } from './driver.ts'
import { startLifecycleWorker, type LifecycleQueue } from './lifecycle.ts'
import { watchBurning } from './burning.ts'
import { drift } from './policy.ts'
import { egressDirectory, sandboxDirectory } from './rendezvous.ts'
import { transition, type EndCause, type Sandbox } from './sandbox.ts'
import { LABEL, sandboxSpec, type SandboxClass } from './spec.ts'
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
  readonly prewarmed: number
  readonly sandboxesMax: number
  /** Remove all sandboxes when disposed. */
  readonly removeOnStop: boolean
  readonly now: () => number
}

export interface Orchestrator extends AsyncDisposable {
  /** A prewarmed sandbox found its tenant: make the next. */
  heard(news: SandboxNews): void
}

/** Pause between two looks at what Docker has and what the records say (ms), jittered by up to half. */
const RECONCILE_MS = 15_000
/** A record that says `starting` for longer than this belongs to a provision that died (ms). */
const STARTING_TTL_MS = 60_000

/**
 * Makes and removes sandboxes, keeps the prewarmed ones at their number, and makes records and Docker agree.
 * Reconciles before it resolves, so that nothing is offered that does not exist.
 */
export async function startOrchestrator(options: OrchestratorOptions): Promise<Orchestrator> {
  const { driver, store, queue, log, deployment, runDir, now } = options
  const label = `${LABEL.deployment}=${deployment}`
  /** Provisions under way here: reconcile leaves them alone. */
  const underway = new Set<string>()
  const slots = new Map<string, number>()
  /** What runs, as far as we made or saw it. */
  const containers = new Map<string, { readonly container: string; readonly paused: boolean }>()
  /** When each replenishment under way was asked for; one that is never heard of again stops counting. */
  const replenishing: number[] = []
  let stopping = false

  async function sandboxes(): Promise<{ container: string; id: string; running: boolean; paused: boolean }[]> {
    const all = await driver.list(label)
    return all
      .filter(({ labels }) => labels[LABEL.part] === 'sandbox')
      .map(({ id, labels, running, paused }) => ({ container: id, id: labels[LABEL.sandbox] ?? '', running, paused }))
  }

  function takeSlot(id: string): number {
    const taken = new Set(slots.values())
    let slot = 0
    while (taken.has(slot)) slot += 1
    slots.set(id, slot)
    return slot
  }

  async function provision(tenant: TenantId | null): Promise<void> {
    if (stopping) return
    const id = randomBytes(6).toString('hex')
    const began = now()
    const starting = { id, state: 'starting', tenant, generation: 0, createdAt: began } as const
    const registered = await store.register(starting, options.sandboxesMax)
    if (registered === 'exists') return
    if (registered === 'full') throw new Error(`All ${options.sandboxesMax} sandboxes are in use`)
    underway.add(id)
    let container: string | undefined
    try {
      const directory = sandboxDirectory(runDir, id)
      await mkdir(directory, { recursive: true, mode: 0o755 })
      await mkdir(egressDirectory(runDir, id), { recursive: true })
      // The egress role may be another user, who can put a socket there but cannot put another directory in its place.
      await chmod(egressDirectory(runDir, id), 0o777)
      await store.publish({ kind: 'starting', id, tenant })
      container = await driver.create(
        `webtask-${deployment}-${id}`,
        sandboxSpec({ id, deployment, slot: takeSlot(id), directory, egressDirectory: egressDirectory(runDir, id), class: options.class }),
      )
      await driver.start(container)
      containers.set(id, { container, paused: false })
      const started = transition(starting, { kind: 'started' })
      if (started === undefined || (await store.swap(starting, started)) !== 'swapped')
        throw new Error('The record changed while the container started')
      await store.publish({ kind: 'started', id, tenant })
      log.info({ sandbox: id, tenant, ms: now() - began }, 'sandbox.provisioned')
    } catch (error) {
      await discard(id, container, 'platform')
      throw error
    } finally {
      underway.delete(id)
    }
  }

  /** Container first, then directory, then record: what is recorded can always be found and cleaned. */
  async function discard(id: string, container: string | undefined, cause: EndCause): Promise<void> {
    if (container !== undefined) await driver.remove(container)
    await removeDirectories(id)
    slots.delete(id)
    containers.delete(id)
    await store.forget(id)
    await store.publish({ kind: 'ended', id, cause })
  }

  async function removeDirectories(id: string): Promise<void> {
    await rm(sandboxDirectory(runDir, id), { recursive: true, force: true })
    await rm(egressDirectory(runDir, id), { recursive: true, force: true })
  }

  async function retire(id: string, cause: EndCause): Promise<void> {
    const record = await store.read(id)
    const draining = record && transition(record, { kind: 'retired', cause })
    if (record && draining) await store.swap(record, draining)
    const found = (await sandboxes()).find((sandbox) => sandbox.id === id)
    await discard(id, found?.container, cause)
    log.info({ sandbox: id, cause }, 'sandbox.retired')
    await topUp()
  }

  /** Freezes or thaws a container as its record says; the record may change while the engine works, so it is asked again. */
  async function settle(id: string): Promise<void> {
    for (;;) {
      const live = containers.get(id)
      const record = await store.read(id)
      if (live === undefined || (record?.state !== 'paused' && record?.state !== 'warm') || (record.state === 'paused') === live.paused) return
      await (live.paused ? driver.unpause(live.container) : driver.pause(live.container))
      containers.set(id, { ...live, paused: !live.paused })
    }
  }

  /** A container that died: say why, then clear it away. Our own removals have said so in the record. */
  async function died(container: string): Promise<void> {
    const exit = await driver.exitOf(container)
    const id = exit?.labels[LABEL.sandbox]
    if (exit === undefined || id === undefined) return
    const record = await store.read(id)
    const cause: EndCause = record?.state === 'draining' ? record.cause : exit.oomKilled ? 'memory' : 'crash'
    log.info({ sandbox: id, cause, exitCode: exit.exitCode }, 'sandbox.ended')
    await discard(id, container, cause)
    await topUp()
  }

  async function topUp(): Promise<void> {
    if (stopping) return
    const idle = (await store.list()).filter(
      (record) => record.state === 'prewarmed' || (record.state === 'starting' && record.tenant === null),
    ).length
    while (replenishing.length > 0 && now() - replenishing[0]! > STARTING_TTL_MS) replenishing.shift()
    const missing = Math.max(0, options.prewarmed - idle - replenishing.length)
    // Counted before anything is awaited, so that two calls at once do not ask twice.
    for (let i = 0; i < missing; i += 1) replenishing.push(now())
    for (let i = 0; i < missing; i += 1) await queue.replenish()
  }

  /** Docker is what is, Redis is what should be: kill orphans, forget ghosts. */
  async function reconcile(): Promise<void> {
    const running = await sandboxes()
    const records = await store.list()
    const settled = records.filter(
      (record) => !underway.has(record.id) && (record.state !== 'starting' || now() - record.createdAt > STARTING_TTL_MS),
    )
    const keep = new Map(
      settled
        .filter((record) => record.state === 'prewarmed' || record.state === 'warm' || record.state === 'paused')
        .map((record) => [record.id, record]),
    )
    const { orphans, ghosts } = drift(new Set(keep.keys()), new Set(running.filter((sandbox) => sandbox.running).map((sandbox) => sandbox.id)))
    const unfinished = new Set(records.filter((record) => record.state === 'starting' && !settled.includes(record)).map((record) => record.id))
    const doomed = running.filter(
      (sandbox) => !underway.has(sandbox.id) && !unfinished.has(sandbox.id) && (orphans.includes(sandbox.id) || !sandbox.running),
    )
    for (const sandbox of doomed) await discard(sandbox.id, sandbox.container, 'platform')
    const gone = [...ghosts, ...settled.filter((record) => !keep.has(record.id)).map((record) => record.id)]
    for (const id of gone) await discard(id, undefined, 'platform')
    for (const { id, container, paused } of running) {
      if (!keep.has(id)) continue
      if (!containers.has(id)) containers.set(id, { container, paused })
      await settle(id)
    }
    await sweepDirectories(new Set([...keep.keys(), ...underway, ...unfinished]))
    if (doomed.length + gone.length > 0) log.info({ orphans: doomed.length, ghosts: gone.length }, 'reconcile.done')
  }

  async function sweepDirectories(live: ReadonlySet<string>): Promise<void> {
    const names = await Promise.all(['s', 'e'].map((folder) => readdir(path.join(runDir, folder)).catch(() => [])))
    for (const name of new Set(names.flat())) if (/^[0-9a-f]{12}$/.test(name) && !live.has(name) && !underway.has(name)) await removeDirectories(name)
  }

  /** At boot nothing is under way, so a half-made sandbox is an orphan at once; slots of the living are taken. */
  async function adoptRunning(): Promise<void> {
    for (const record of await store.list()) {
      if (record.state !== 'starting') continue
      const found = (await sandboxes()).find((sandbox) => sandbox.id === record.id)
      await discard(record.id, found?.container, 'platform')
    }
    await reconcile()
    for (const { labels } of await driver.list(label)) {
      const [id, slot] = [labels[LABEL.sandbox], Number(labels[LABEL.slot])]
      if (id !== undefined && Number.isSafeInteger(slot)) slots.set(id, slot)
    }
  }

  function guarded(act: () => Promise<void>): void {
    act().catch((error: Error) => log.warn({ reason: error.message }, 'platform.failed'))
  }

  await mkdir(path.join(runDir, 's'), { recursive: true, mode: 0o711 })
  await mkdir(path.join(runDir, 'e'), { recursive: true, mode: 0o711 })
  await adoptRunning()
  const stack = new AsyncDisposableStack()
  let engineLost = false
  stack.use(
    driver.watch(label, {
      died: (container) => guarded(() => died(container)),
      gap: () => {
        if (engineLost) log.info({}, 'engine.found')
        engineLost = false
        guarded(reconcile)
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
      handle: async (job) => {
        if (job.kind === 'retire') return retire(job.id, job.cause)
        if (job.kind === 'settle') return settle(job.id)
        if (job.kind === 'expire') {
          const record = await store.read(job.id)
          return record?.state === 'paused' && record.generation === job.generation ? retire(job.id, 'idle') : undefined
        }
        try {
          await provision(job.tenant)
        } finally {
          if (job.tenant === null) replenishing.shift()
        }
      },
      failed: (job, error) => {
        log.warn({ kind: job.kind, reason: error.message }, 'provision.failed')
        if (job.kind === 'provision' && job.tenant !== null)
          guarded(() => store.publish({ kind: 'failed', tenant: job.tenant!, reason: error.message }))
      },
    }),
  )
  let timer: NodeJS.Timeout
  const tick = () => {
    timer = setTimeout(
      () => {
        guarded(async () => {
          await reconcile()
          await topUp()
        })
        tick()
      },
      RECONCILE_MS * (1 + Math.random() / 2),
    )
  }
  tick()
  stack.defer(() => clearTimeout(timer))
  stack.use(
    watchBurning({
      runtime: options.class.runtime,
      running: () => [...containers].filter(([, { paused }]) => !paused).map(([id, { container }]) => ({ id, container })),
      cpuNanos: (container) => driver.cpuNanos(container),
      burning: (id) => guarded(() => store.publish({ kind: 'burning', id })),
    }),
  )
  await topUp()

  return {
    heard(news) {
      if (news.kind === 'adopted') guarded(topUp)
    },
    async [Symbol.asyncDispose]() {
      stopping = true
      await stack.disposeAsync()
      if (!options.removeOnStop) return
      const records: Sandbox[] = await store.list().catch(() => [])
      await Promise.all((await sandboxes()).map((sandbox) => driver.remove(sandbox.container)))
      await Promise.all(records.map((record) => store.forget(record.id).catch(() => false)))
      await sweepDirectories(new Set())
    },
  }
}
