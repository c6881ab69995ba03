import type { Log } from '../log.ts'
import { WebtaskError } from '../errors.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import { openAgentLink, type AgentLink, type AgentLinkOptions } from './agent-link.ts'
import type { LifecycleQueue } from './lifecycle.ts'
import { sandboxDirectory } from './rendezvous.ts'
import type { EndCause } from './sandbox.ts'
import type { SandboxNews, SandboxStore } from './store.ts'
import { createUpkeep, type Entry, type WayOut } from './upkeep.ts'

export interface PoolOptions {
  readonly store: SandboxStore
  readonly queue: LifecycleQueue
  readonly log: Log
  readonly gateway: string
  readonly runDir: string
  readonly waitMs: number
  readonly idleMs: number
  readonly tenantConcurrency: number
  readonly now: () => number
  readonly link: Omit<AgentLinkOptions, 'id' | 'directory' | 'gateway' | 'on' | 'log' | 'now'>
  readonly egress?: WayOut | undefined
  readonly on: {
    output(tenant: TenantId, output: Parameters<AgentLinkOptions['on']['output']>[0]): void
    call(tenant: TenantId, call: Parameters<AgentLinkOptions['on']['call']>[0]): Promise<string>
  }
}

/** The right to send one request to a tenant's sandbox, until disposed. */
export interface Lease extends Disposable {
  readonly link: AgentLink
}

/** The gateway's view of the sandboxes: who is connected, whose it is, what runs there. A warm `acquire` is memory alone;
 * `left` gives a signal of the caller's leaving, and is asked only when there is something to wait for. */
export interface Pool extends AsyncDisposable {
  acquire(tenant: TenantId, left: () => AbortSignal): Promise<Lease> | Lease
  /** The sandbox must go now: its agent does not obey or its tenant broke it. */
  kill(link: AgentLink, cause: EndCause): void
  heard(news: SandboxNews): void
  /** Reads all records again: at start, and after news may have been missed. */
  resync(): Promise<void>
  readonly size: { readonly warm: number; readonly prewarmed: number; readonly inFlight: number }
}

const SWEEP_MS = 1_000
/** News can be lost: whoever waits looks again after this long (ms). */
const LOOK_AGAIN_MS = 1_000

/** Beats further apart than this mean that Redis was away, for others too (ms). */
const IN_TOUCH_MS = 15_000

export function createPool(options: PoolOptions): Pool {
  const { store, queue, log, now } = options
  const entries = new Map<string, Entry>()
  const opening = new Map<string, Promise<Entry>>()
  const byTenant = new Map<TenantId, Entry>()
  const placing = new Map<TenantId, Promise<Entry>>()
  const listeners = new Map<TenantId, Set<(news: SandboxNews | undefined) => void>>()
  let inFlight = 0
  let closed = false
  /** When this gateway last said that it lives. */
  let lastBeat: number | undefined

  function open(id: string, tenant: TenantId | null): Promise<Entry> {
    const known = entries.get(id)
    if (known !== undefined) return Promise.resolve(known)
    let underway = opening.get(id)
    if (underway === undefined) {
      if (closed) return Promise.reject(new WebtaskError('unavailable', 'The gateway is stopping', { retryAfterSeconds: 1 }))
      underway = openNew(id, tenant).finally(() => opening.delete(id))
      opening.set(id, underway)
    }
    return underway
  }

  async function openNew(id: string, tenant: TenantId | null): Promise<Entry> {
    const link = await openAgentLink({
      ...options.link,
      id,
      directory: sandboxDirectory(options.runDir, id),
      gateway: options.gateway,
      now,
      log,
      on: {
        output: (output) => entry.tenant !== null && options.on.output(entry.tenant, output),
        call: (call) =>
          entry.tenant === null ? Promise.reject(new WebtaskError('forbidden', 'This sandbox has no tenant')) : options.on.call(entry.tenant, call),
        stuck: () => kill(link, 'timeout'),
        exhausted: () => kill(link, 'evicted'),
        hostile: () => {
          log.warn({ sandbox: id, tenant: entry.tenant }, 'sandbox.misbehaved')
          kill(link, 'crash')
        },
      },
    })
    const entry: Entry = { link, tenant, inFlight: 0, idleSince: now() }
    entries.set(id, entry)
    return entry
  }

  function drop(id: string, cause: EndCause): void {
    const entry = entries.get(id)
    if (entry === undefined) return
    entries.delete(id)
    options.egress?.detach(id)
    if (entry.tenant !== null && byTenant.get(entry.tenant) === entry) byTenant.delete(entry.tenant)
    entry.link.finish(cause)
    Promise.resolve(entry.link[Symbol.asyncDispose]()).catch((error: Error) => log.warn({ sandbox: id, reason: error.message }, 'platform.failed'))
  }

  function kill(link: AgentLink, cause: EndCause): void {
    drop(link.id, cause)
    queue.retire(link.id, cause).catch((error: Error) => log.error({ sandbox: link.id, reason: error.message }, 'platform.failed'))
  }

  function lease(entry: Entry): Lease {
    if (entry.inFlight >= options.tenantConcurrency) {
      throw new WebtaskError('quota_exceeded', `The tenant has ${entry.inFlight} requests running at once, its limit; wait for one to finish`, {
        retryAfterSeconds: 1,
      })
    }
    entry.inFlight += 1
    inFlight += 1
    let held = true
    return {
      link: entry.link,
      [Symbol.dispose]() {
        if (!held) return
        held = false
        entry.inFlight -= 1
        inFlight -= 1
        if (entry.inFlight === 0) entry.idleSince = now()
      },
    }
  }

  /** Waits for news about this tenant, or looks again after a while in case some was lost. */
  function newsOf(tenant: TenantId, signal: AbortSignal): Promise<SandboxNews | undefined> {
    return new Promise((resolve, reject) => {
      const set = listeners.get(tenant) ?? new Set()
      listeners.set(tenant, set)
      const settle = (news: SandboxNews | undefined) => {
        clearTimeout(timer)
        signal.removeEventListener('abort', abort)
        set.delete(settle)
        if (set.size === 0) listeners.delete(tenant)
        resolve(news)
      }
      const abort = () => {
        settle(undefined)
        reject(signal.reason as Error)
      }
      const timer = setTimeout(settle, LOOK_AGAIN_MS, undefined)
      signal.addEventListener('abort', abort, { once: true })
      set.add(settle)
    })
  }

  /** Finds or makes the tenant's sandbox. Shared by all its callers, so no single caller's leaving ends it. */
  async function place(tenant: TenantId): Promise<Entry> {
    const signal = AbortSignal.timeout(options.waitMs)
    try {
      for (;;) {
        const candidates = [...entries.values()].filter((entry) => entry.tenant === null && entry.link.connected).map((entry) => entry.link.id)
        const adoption = await store.adopt(tenant, { gateway: options.gateway, candidates })
        if (adoption.kind === 'adopted' || adoption.kind === 'existing' || adoption.kind === 'resumed') {
          // What is sent to it meanwhile waits in its sockets until it is thawed.
          if (adoption.kind === 'resumed') await queue.resume(adoption.id)
          const entry = await open(adoption.id, tenant)
          entry.tenant = tenant
          entry.idleSince = now()
          // One that is connected has its directories: the way out is made while the news goes round.
          const attached = entry.link.connected ? options.egress?.attach(adoption.id, tenant) : undefined
          if (adoption.kind === 'adopted') {
            log.info({ sandbox: adoption.id, tenant }, 'sandbox.adopted')
            await store.publish({ kind: 'adopted', id: adoption.id })
          }
          if (await connects(entry.link, signal)) {
            await (attached ?? options.egress?.attach(adoption.id, tenant))
            byTenant.set(tenant, entry)
            return entry
          }
          continue
        }
        const news = newsOf(tenant, signal)
        if (adoption.kind === 'none') await queue.provision(tenant)
        const heard = await news
        if (heard?.kind === 'failed')
          throw new WebtaskError('pool_exhausted', 'No sandbox could be started', { retryAfterSeconds: 2, cause: new Error(heard.reason) })
      }
    } catch (error) {
      if (signal.aborted)
        throw new WebtaskError('pool_exhausted', `No sandbox was ready within ${options.waitMs} ms`, { retryAfterSeconds: 2, cause: error })
      if (error instanceof WebtaskError) throw error
      throw new WebtaskError('unavailable', 'The sandbox records cannot be reached', { retryAfterSeconds: 1, cause: error })
    }
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

  async function acquireCold(tenant: TenantId, signal: AbortSignal): Promise<Lease> {
    let underway = placing.get(tenant)
    if (underway === undefined) {
      underway = place(tenant).finally(() => placing.delete(tenant))
      placing.set(tenant, underway)
    }
    const left = Promise.withResolvers<never>()
    const leave = () => left.reject(signal.reason)
    signal.addEventListener('abort', leave, { once: true })
    try {
      return lease(await Promise.race([underway, left.promise]))
    } finally {
      signal.removeEventListener('abort', leave)
    }
  }

  const upkeep = createUpkeep({ ...options, entries, byTenant, kill: (entry, cause) => kill(entry.link, cause) })
  const timer = setInterval(() => {
    upkeep.sweep().catch((error: Error) => log.debug({ reason: error.message }, 'platform.failed'))
  }, SWEEP_MS)
  timer.unref()

  return {
    acquire(tenant, left) {
      const entry = byTenant.get(tenant)
      if (entry !== undefined && entry.link.connected) return lease(entry)
      if (closed) throw new WebtaskError('unavailable', 'The gateway is stopping', { retryAfterSeconds: 1 })
      return acquireCold(tenant, left())
    },
    kill,
    heard(news) {
      if (news.kind === 'starting')
        open(news.id, news.tenant).catch((error: Error) => log.warn({ sandbox: news.id, reason: error.message }, 'platform.failed'))
      if (news.kind === 'burning') upkeep.rest(news.id).catch((error: Error) => log.debug({ reason: error.message }, 'platform.failed'))
      if (news.kind === 'ended') {
        const tenant = entries.get(news.id)?.tenant ?? null
        drop(news.id, news.cause)
        if (tenant !== null) for (const settle of listeners.get(tenant) ?? []) settle(news)
      }
      if ((news.kind === 'started' && news.tenant !== null) || news.kind === 'failed')
        for (const settle of listeners.get(news.tenant as TenantId) ?? []) settle(news)
    },
    async resync() {
      // Before the records are read: what opens meanwhile must not look like a ghost.
      const known = [...entries.keys()]
      const records = await store.list()
      const live = new Set(records.filter((record) => record.state !== 'draining' && record.state !== 'removed').map((record) => record.id))
      for (const id of known) if (!live.has(id)) drop(id, 'platform')
      for (const record of records) if (live.has(record.id)) await open(record.id, 'tenant' in record ? record.tenant : null)
      const living = await store.beat(options.gateway)
      const inTouchSince = lastBeat
      lastBeat = now()
      if (inTouchSince !== undefined && lastBeat - inTouchSince < IN_TOUCH_MS) await upkeep.inherit(records, living)
    },
    get size() {
      return {
        warm: byTenant.size,
        prewarmed: [...entries.values()].filter((entry) => entry.tenant === null && entry.link.connected).length,
        inFlight,
      }
    },
    async [Symbol.asyncDispose]() {
      closed = true
      clearInterval(timer)
      // What is being opened at this moment is not among the entries yet.
      await Promise.allSettled(opening.values())
      await Promise.all([...entries.values()].map((entry) => entry.link[Symbol.asyncDispose]()))
    },
  }
}
