import type { Log } from '../log.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { AgentLink } from './agent-link.ts'
import type { LifecycleQueue } from './lifecycle.ts'
import { transition, type EndCause, type Sandbox } from './sandbox.ts'
import type { SandboxStore } from './store.ts'

/** Gives sandboxes their way out. `attach` is awaited before the first load, and must not fail or take long. */
export interface WayOut {
  attach(id: string, tenant: TenantId): Promise<void>
  detach(id: string): void
}

/** What a gateway knows of a sandbox beside its record. */
export interface Entry {
  readonly link: AgentLink
  tenant: TenantId | null
  inFlight: number
  idleSince: number
}

export interface UpkeepOptions {
  readonly store: SandboxStore
  readonly queue: LifecycleQueue
  readonly log: Log
  readonly gateway: string
  /** A sandbox without requests for this long is retired (ms). */
  readonly idleMs: number
  /** Unix milliseconds. */
  readonly now: () => number
  readonly egress?: WayOut | undefined
  /** Those that this gateway is connected to, and those that its requests go to. */
  readonly entries: ReadonlyMap<string, Entry>
  readonly byTenant: Map<TenantId, Entry>
  kill(entry: Entry, cause: EndCause): void
}

/** How a gateway gives up what it does not need and takes over what nobody looks after. The record decides: other gateways act on it too. */
export interface Upkeep {
  sweep(): Promise<void>
  rest(id: string): Promise<void>
  inherit(records: readonly Sandbox[], living: ReadonlySet<string>): Promise<void>
}

/** Nothing of ours runs in a sandbox for this long before work in it counts as work after the answer (ms). */
const REST_MS = 700

export function createUpkeep(options: UpkeepOptions): Upkeep {
  const { store, queue, log, now, entries, byTenant } = options

  /** Retires what nobody uses: the record decides, so that another gateway's use keeps it. */
  async function sweep(): Promise<void> {
    for (const entry of entries.values()) {
      if (entry.tenant === null || entry.inFlight > 0 || now() - entry.idleSince < options.idleMs || byTenant.get(entry.tenant) !== entry) continue
      const record = await store.read(entry.link.id)
      if (record?.state !== 'warm' || entry.inFlight > 0) continue
      const next = transition(record, { kind: 'released', gateway: options.gateway })
      if (next === undefined) continue
      // From here on a new request goes through the record, so none can slip onto what is being retired.
      byTenant.delete(entry.tenant)
      if ((await store.swap(record, next)) !== 'swapped') continue
      if (next.state === 'draining') options.kill(entry, 'idle')
      else options.egress?.detach(entry.link.id)
    }
  }

  /**
   * What goes on after the answers is not free: a sandbox in which nothing of ours runs, but which uses the processor, is given up
   * until its next request; when all gateways have done so it is frozen.
   */
  async function rest(id: string): Promise<void> {
    const entry = entries.get(id)
    const isIdle = () =>
      entry !== undefined &&
      entry.tenant !== null &&
      entry.inFlight === 0 &&
      now() - entry.idleSince >= REST_MS &&
      byTenant.get(entry.tenant) === entry
    if (!isIdle()) return
    const record = await store.read(id)
    const next = record && transition(record, { kind: 'rested', gateway: options.gateway, at: now() })
    if (record === undefined || next === undefined || !isIdle()) return
    byTenant.delete(entry!.tenant!)
    if ((await store.swap(record, next)) !== 'swapped' || next.state !== 'paused') return
    log.info({ sandbox: id, tenant: next.tenant }, 'sandbox.paused')
    await queue.pause(next, options.idleMs)
  }

  /**
   * Takes over what no living gateway uses: after a crash nobody else would ever retire it. Those who may only have been out of touch
   * get time to say that they live: we judge nobody until we have been in touch ourselves for a while.
   */
  async function inherit(records: readonly Sandbox[], living: ReadonlySet<string>): Promise<void> {
    for (const record of records) {
      if (record.state !== 'warm') continue
      const entry = entries.get(record.id)
      const dead = record.users.filter((user) => !living.has(user))
      const isOurs = entry !== undefined && byTenant.get(record.tenant) === entry
      if (entry === undefined || (isOurs ? record.users.includes(options.gateway) : dead.length < record.users.length)) continue
      const next = transition(record, { kind: 'inherited', gateway: options.gateway, dead })
      if (next === undefined || (await store.swap(record, next)) !== 'swapped') continue
      if (isOurs) continue
      log.info({ sandbox: record.id, tenant: record.tenant }, 'sandbox.inherited')
      entry.tenant = record.tenant
      entry.idleSince = now()
      byTenant.set(record.tenant, entry)
      void options.egress?.attach(record.id, record.tenant)
    }
  }

  return { sweep, rest, inherit }
}
