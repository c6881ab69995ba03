import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { createLog } from '../../src/log.ts'
import type { Redis } from '../../src/redis.ts'
import type { AgentLink } from '../../src/sandbox/agent-link.ts'
import { EngineFailure, type ContainerBody, type ContainerDriver } from '../../src/sandbox/driver.ts'
import { createFleet, type Fleet } from '../../src/sandbox/fleet.ts'
import { createHouseholds, type Entry, type Households } from '../../src/sandbox/households.ts'
import type { LifecycleQueue } from '../../src/sandbox/lifecycle.ts'
import { createPlacing, type Placing } from '../../src/sandbox/placing.ts'
import { createReconcile, type Reconcile } from '../../src/sandbox/reconcile.ts'
import { createRenewal, type Renewal } from '../../src/sandbox/renewal.ts'
import type { EndCause } from '../../src/sandbox/sandbox.ts'
import { classKey } from '../../src/sandbox/spec.ts'
import { createSandboxStore, type SandboxNews, type SandboxStore } from '../../src/sandbox/store.ts'
import { createUpkeep, type Upkeep } from '../../src/sandbox/upkeep.ts'
import type { TenantId } from '../../src/tenant/tenant-id.ts'

/** What goes wrong with the engine's next verb: it fails before or after it did it, or whoever asked dies there. */
export type EngineFault = 'fails' | 'loses' | 'dies before' | 'dies after'

interface Made {
  readonly id: string
  readonly sandbox: string
  readonly name: string
  readonly labels: Record<string, string>
  running: boolean
  paused: boolean
  /** Tenants that were served there, as the world saw it. */
  readonly tenants: Set<TenantId>
}

export interface Gateway {
  readonly name: string
  readonly households: Households
  readonly placing: Placing
  readonly upkeep: Upkeep
  readonly renewal: Renewal
  readonly entries: Map<string, Entry>
}

const CLASS = { image: 'sha256:x', runtime: 'runc', memoryMib: 512, cpuMillis: 1000, pids: 64, tmpMib: 8, workerHeapMib: 64 } as const
export const MAKE = classKey(CLASS)
const SILENT = createLog('silent', 'test')

/** The pool's own parts around a real Redis and an engine that is only a table: everything can die at every step. */
export interface World extends AsyncDisposable {
  readonly store: SandboxStore
  readonly engine: Map<string, Made>
  readonly gateways: Map<string, Gateway>
  readonly max: number
  fleet: Fleet
  reconcile: Reconcile
  nextFault: { verb: 'create' | 'start' | 'remove'; fault: EngineFault } | undefined
  clock: number
  startOrchestrator(): Promise<void>
  startGateway(name: string): void
  /** What Redis knew is gone. */
  flush(): Promise<void>
}

export async function createWorld(redis: Redis, max: number): Promise<World> {
  const prefix = `test:${randomBytes(6).toString('hex')}`
  const runDir = await mkdtemp(path.join(os.tmpdir(), 'wt-world-'))
  const engine = new Map<string, Made>()
  const gateways = new Map<string, Gateway>()
  const real = createSandboxStore(redis, prefix)
  const store: SandboxStore = { ...real, publish: async (news) => hear(news) }
  const now = () => world.clock

  async function verb<T>(name: 'create' | 'start' | 'remove', act: () => T): Promise<T> {
    const { nextFault } = world
    if (nextFault?.verb !== name) return act()
    world.nextFault = undefined
    if (nextFault.fault === 'fails') throw new EngineFailure('fails')
    if (nextFault.fault === 'dies before') return new Promise(() => {})
    act()
    if (nextFault.fault === 'loses') throw new EngineFailure('loses')
    return new Promise(() => {})
  }
  const find = (idOrName: string) => engine.get(idOrName) ?? [...engine.values()].find(({ name }) => name === idOrName)
  const driver = {
    create: (name: string, body: ContainerBody) =>
      verb('create', () => {
        const labels = body['Labels'] as Record<string, string>
        const made = {
          id: randomBytes(8).toString('hex'),
          sandbox: labels['webtask.sandbox']!,
          name,
          labels,
          running: false,
          paused: false,
          tenants: new Set<TenantId>(),
        }
        engine.set(made.id, made)
        return made.id
      }),
    start: (id: string) => verb('start', () => void (find(id)!.running = true)),
    pause: async (id: string) => void (find(id)!.paused = true),
    unpause: async (id: string) => void (find(id)!.paused = false),
    kill: async (id: string) => {
      const one = engine.get(id)
      if (one !== undefined) one.running = false
    },
    remove: (id: string) => verb('remove', () => void engine.delete(find(id)?.id ?? '')),
    list: async () => [...engine.values()].map((one) => ({ id: one.id, labels: one.labels, running: one.running, paused: one.paused })),
  } as unknown as ContainerDriver

  function hear(news: SandboxNews): void {
    for (const gateway of gateways.values()) {
      if (news.kind === 'starting') openFor(gateway)(news.id, news)
      gateway.placing.heard(news)
      gateway.renewal.heard(news)
      const entry = news.kind === 'ended' ? gateway.entries.get(news.id) : undefined
      if (entry !== undefined) gateway.households.remove(entry)
    }
  }

  const retire = async (id: string, cause: EndCause) => world.fleet.retire(id, cause).catch(() => {})
  const queue = {
    async provision(wanted: Parameters<LifecycleQueue['provision']>[0]) {
      const work = world.fleet.provision(wanted).then(
        (made) => void (made === 'full' && hear({ kind: 'failed', seat: wanted.seat, reason: 'full', full: true })),
        (error: Error) => hear({ kind: 'failed', seat: wanted.seat, reason: error.message, full: false }),
      )
      void work
    },
    replenish: async (make: string) => void world.fleet.provision({ seat: null, tenant: null, make }).catch(() => {}),
    pause: async ({ id }: { id: string }) => world.fleet.settle(id),
    resume: async (id: string) => world.fleet.settle(id),
    retire,
  } as unknown as LifecycleQueue

  const openFor =
    (gateway: Gateway) =>
    (id: string, about: { tenant: TenantId | null; seat: Entry['seat']; make: string; spec: string }): Entry => {
      const known = gateway.entries.get(id)
      if (known !== undefined) return known
      const isThere = () => [...engine.values()].some((one) => one.sandbox === id && one.running)
      const link = {
        id,
        get connected() {
          return isThere()
        },
        whenConnected: async () => {
          if (!isThere()) throw new Error('It ended')
        },
      } as unknown as AgentLink
      const entry: Entry = { ...about, id, link, bornAt: now(), inFlight: 0, uses: 0, idleSince: now(), leaving: undefined }
      gateway.households.add(entry)
      return entry
    }

  const world: World = {
    store,
    engine,
    gateways,
    max,
    fleet: undefined as unknown as Fleet,
    reconcile: undefined as unknown as Reconcile,
    nextFault: undefined,
    clock: 1_000_000,
    async startOrchestrator() {
      world.fleet = createFleet({ driver, store, log: SILENT, deployment: 'model', runDir, class: CLASS, sandboxesMax: max, now })
      world.reconcile = createReconcile({ fleet: world.fleet, store, log: SILENT, drainMs: 60_000, now })
      await world.reconcile.boot()
    },
    startGateway(name) {
      const households = createHouseholds()
      const gateway = { name, households, entries: households.entries } as unknown as { -readonly [Key in keyof Gateway]: Gateway[Key] }
      const common = { store, queue, log: SILENT, gateway: name, now, households, waitMs: 400 }
      gateway.placing = createPlacing({
        ...common,
        open: async (id, about) => openFor(gateway)(id, about),
        makeRoom: (seats) => void gateway.upkeep.makeRoom(seats),
      })
      const kill = (entry: Entry, cause: EndCause) => {
        households.remove(entry)
        void retire(entry.id, cause)
      }
      gateway.upkeep = createUpkeep({ ...common, pauseMs: 1_000, idleMs: 5_000, isKept: () => false, kill })
      gateway.renewal = createRenewal({ ...common, placing: gateway.placing, left: (entry) => void gateway.upkeep.leave(entry) })
      gateways.set(name, gateway)
    },
    async flush() {
      const keys = await redis.keys(`${prefix}:*`)
      if (keys.length > 0) await redis.del(...keys)
    },
    async [Symbol.asyncDispose]() {
      await rm(runDir, { recursive: true, force: true })
    },
  }
  await world.startOrchestrator()
  return world
}
