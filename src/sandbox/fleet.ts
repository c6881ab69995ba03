import { randomBytes } from 'node:crypto'
import { chmod, mkdir, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Log } from '../log.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { ContainerDriver } from './driver.ts'
import { egressDirectory, sandboxDirectory } from './rendezvous.ts'
import { transition, type EndCause, type Sandbox } from './sandbox.ts'
import type { Seat } from './seat.ts'
import { classOf, LABEL, sandboxSpec, specDigest, type SandboxClass } from './spec.ts'
import type { SandboxStore } from './store.ts'

export interface FleetOptions {
  readonly driver: ContainerDriver
  readonly store: SandboxStore
  readonly log: Log
  readonly deployment: string
  /** Holds one rendezvous directory per sandbox; the same path for us and for the engine. */
  readonly runDir: string
  /** What the settings make of a sandbox; plans change parts of it. */
  readonly class: SandboxClass
  readonly sandboxesMax: number
  readonly now: () => number
}

/** A container of ours, as the engine has it. */
export interface Live {
  readonly id: string
  readonly container: string
  readonly running: boolean
  readonly paused: boolean
  readonly make: string
  /** What its uid comes from. */
  readonly slot: number
}

/** All sandboxes of a deployment, and what is done to one: each act leaves record, container and directories in agreement. */
export interface Fleet {
  /** Makes one, for a seat or for the stock. `full` when the deployment may have no more. */
  provision(wanted: { seat: Seat | null; tenant: TenantId | null; make: string }): Promise<'made' | 'exists' | 'full'>
  /** Container, directories and record go, in this order: what is recorded can always be found and cleaned. */
  discard(id: string, container: string | undefined, cause: EndCause): Promise<void>
  retire(id: string, cause: EndCause): Promise<void>
  /** Freezes or thaws a container as its record says. */
  settle(id: string): Promise<void>
  /** A container died: says why and clears it away. */
  died(container: string): Promise<void>
  /** What the engine has of ours. */
  live(): Promise<Live[]>
  /** Notes one that was found running. */
  found(live: Live): void
  /** Provisions under way here. */
  readonly underway: ReadonlySet<string>
  /** What runs, as far as it is known here. */
  known(): { id: string; container: string; make: string; paused: boolean }[]
  /** Removes the directories of all but these and what is recorded. */
  sweep(keep: ReadonlySet<string>): Promise<void>
  /** Containers and directories go, whatever the records say. */
  removeAll(): Promise<void>
  /** Digest of what would be made of that class today. */
  specOf(make: string): string
}

export function createFleet(options: FleetOptions): Fleet {
  const { driver, store, log, deployment, runDir, now } = options
  const label = `${LABEL.deployment}=${deployment}`
  const underway = new Set<string>()
  const slots = new Map<string, number>()
  const containers = new Map<string, { readonly container: string; readonly paused: boolean; readonly make: string }>()
  const specs = new Map<string, string>()

  function takeSlot(id: string): number {
    const taken = new Set(slots.values())
    let slot = 0
    while (taken.has(slot)) slot += 1
    slots.set(id, slot)
    return slot
  }

  function specOf(make: string): string {
    let spec = specs.get(make)
    if (spec === undefined) specs.set(make, (spec = specDigest(classOf(make, options.class))))
    return spec
  }

  async function provision({
    seat,
    tenant,
    make,
  }: {
    seat: Seat | null
    tenant: TenantId | null
    make: string
  }): Promise<'made' | 'exists' | 'full'> {
    const kind = classOf(make, options.class)
    const id = randomBytes(6).toString('hex')
    const began = now()
    const starting = { id, state: 'starting', tenant, seat, generation: 0, createdAt: began, make, spec: specOf(make) } as const
    // Before it is recorded: whoever sees the record must not take it for one that was left behind.
    underway.add(id)
    let name: string | undefined
    try {
      const registered = await store.register(starting, options.sandboxesMax)
      if (registered !== 'registered') return registered
      name = `webtask-${deployment}-${id}`
      await startContainer(kind, { id, name, starting })
      const started = transition(starting, { kind: 'started' })
      if (started === undefined || (await store.swap(starting, started)) !== 'swapped')
        throw new Error('The record changed while the container started')
      await store.publish({ kind: 'started', id, seat })
      log.info({ sandbox: id, tenant, make, ms: now() - began }, 'sandbox.provisioned')
      return 'made'
    } catch (error) {
      // By name: the engine may have made it and its answer been lost.
      if (name !== undefined) await discard(id, name, 'platform')
      throw error
    } finally {
      underway.delete(id)
    }
  }

  async function startContainer(
    kind: SandboxClass,
    { id, name, starting }: { id: string; name: string; starting: Sandbox & { state: 'starting' } },
  ): Promise<void> {
    const directory = sandboxDirectory(runDir, id)
    await mkdir(directory, { recursive: true, mode: 0o755 })
    await mkdir(egressDirectory(runDir, id), { recursive: true })
    // The egress role may be another user, who can put a socket there but cannot put another directory in its place.
    await chmod(egressDirectory(runDir, id), 0o777)
    const { tenant, seat, make, spec } = starting
    await store.publish({ kind: 'starting', id, tenant, seat, make, spec })
    const body = sandboxSpec({ id, deployment, slot: takeSlot(id), directory, egressDirectory: egressDirectory(runDir, id), class: kind })
    const container = await driver.create(name, body)
    containers.set(id, { container, paused: false, make })
    await driver.start(container)
  }

  /** Under way for the same sandbox once: its death is news to us while we are the cause of it. */
  const discarding = new Map<string, Promise<void>>()

  function discard(id: string, container: string | undefined, cause: EndCause): Promise<void> {
    let underway = discarding.get(id)
    if (underway === undefined) discarding.set(id, (underway = clearAway(id, container, cause).finally(() => discarding.delete(id))))
    return underway
  }

  async function clearAway(id: string, container: string | undefined, cause: EndCause): Promise<void> {
    if (container !== undefined) {
      await driver.kill(container)
      await driver.remove(container)
    }
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

  /** Sandboxes that have directories. */
  async function directories(): Promise<Set<string>> {
    const names = await Promise.all(['s', 'e'].map((folder) => readdir(path.join(runDir, folder)).catch(() => [])))
    return new Set(names.flat().filter((name) => /^[0-9a-f]{12}$/.test(name)))
  }

  async function live(): Promise<Live[]> {
    const all = await driver.list(label)
    return all
      .filter(({ labels }) => labels[LABEL.part] === 'sandbox')
      .map(({ id, labels, running, paused }) => ({
        container: id,
        id: labels[LABEL.sandbox] ?? '',
        running,
        paused,
        make: labels[LABEL.make] ?? '',
        slot: Number(labels[LABEL.slot]),
      }))
  }

  return {
    provision,
    discard,
    async retire(id, cause) {
      const record = await store.read(id)
      const draining = record && transition(record, { kind: 'retired', cause, at: now() })
      if (record && draining) await store.swap(record, draining)
      const container = containers.get(id)?.container ?? (await live()).find((one) => one.id === id)?.container
      await discard(id, container, cause)
      log.info({ sandbox: id, cause }, 'sandbox.retired')
    },
    async settle(id) {
      // The record may change while the engine works, so it is asked again.
      for (;;) {
        const known = containers.get(id)
        const record = await store.read(id)
        if (known === undefined || (record?.state !== 'paused' && record?.state !== 'warm') || (record.state === 'paused') === known.paused) return
        await (known.paused ? driver.unpause(known.container) : driver.pause(known.container))
        containers.set(id, { ...known, paused: !known.paused })
      }
    },
    async died(container) {
      const exit = await driver.exitOf(container)
      const id = exit?.labels[LABEL.sandbox]
      if (exit === undefined || id === undefined) return
      const record = await store.read(id)
      // Our own removals have said so in the record.
      const cause: EndCause = record?.state === 'draining' ? record.cause : exit.oomKilled ? 'memory' : 'crash'
      log.info({ sandbox: id, cause, exitCode: exit.exitCode }, 'sandbox.ended')
      await discard(id, container, cause)
    },
    live,
    found(one) {
      if (!containers.has(one.id)) containers.set(one.id, one)
      if (Number.isSafeInteger(one.slot)) slots.set(one.id, one.slot)
    },
    underway,
    known: () => [...containers].map(([id, one]) => ({ id, ...one })),
    async sweep(keep) {
      for (const id of await directories())
        // Asked once more: it may have been made since `keep` was put together.
        if (!keep.has(id) && !underway.has(id) && (await store.read(id)) === undefined) await removeDirectories(id)
    },
    async removeAll() {
      await Promise.all((await live()).map(({ container }) => driver.remove(container)))
      for (const id of await directories()) await removeDirectories(id)
    },
    specOf,
  }
}
