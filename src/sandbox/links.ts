import { WebtaskError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import { openAgentLink, type AgentCall, type AgentLink, type AgentLinkOptions, type AgentOutput } from './agent-link.ts'
import type { Entry, Households } from './households.ts'
import type { LifecycleQueue } from './lifecycle.ts'
import type { WayOut } from './placing.ts'
import { sandboxDirectory } from './rendezvous.ts'
import type { EndCause } from './sandbox.ts'
import type { Seat } from './seat.ts'

export interface LinksOptions {
  readonly queue: LifecycleQueue
  readonly log: Log
  readonly gateway: string
  readonly runDir: string
  readonly now: () => number
  readonly link: Omit<AgentLinkOptions, 'id' | 'directory' | 'gateway' | 'on' | 'log' | 'now'>
  readonly egress?: WayOut | undefined
  readonly households: Households
  readonly on: {
    output(tenant: TenantId, output: AgentOutput): void
    call(call: AgentCall, token: string | null): Promise<string>
    connected(id: string): void
  }
}

/** What is known of a sandbox before it is connected. */
export interface OpenAbout {
  readonly tenant: TenantId | null
  readonly seat: Seat | null
  readonly make: string
  readonly spec: string
}

/** The sandboxes that this gateway is, or will be, connected to: each is waited for once, and cleared away whole. */
export interface Links extends AsyncDisposable {
  open(id: string, about: OpenAbout): Promise<Entry>
  drop(id: string, cause: EndCause): void
  /** The sandbox must go now. */
  kill(link: AgentLink, cause: EndCause): void
}

export function createLinks(options: LinksOptions): Links {
  const { queue, log, households } = options
  const opening = new Map<string, Promise<Entry>>()
  const never = new AbortController().signal
  let closed = false

  function open(id: string, about: OpenAbout): Promise<Entry> {
    const known = households.entries.get(id)
    if (known !== undefined) return Promise.resolve(known)
    let underway = opening.get(id)
    if (underway === undefined) {
      if (closed) return Promise.reject(new WebtaskError('unavailable', 'The gateway is stopping', { retryAfterSeconds: 1 }))
      underway = openNew(id, about).finally(() => opening.delete(id))
      opening.set(id, underway)
    }
    return underway
  }

  async function openNew(id: string, { tenant, seat, make, spec }: OpenAbout): Promise<Entry> {
    const { gateway, now } = options
    const link = await openAgentLink({
      ...options.link,
      id,
      directory: sandboxDirectory(options.runDir, id),
      gateway,
      now,
      log,
      on: {
        output: (output) => entry.tenant !== null && options.on.output(entry.tenant, output),
        call: options.on.call,
        stuck: () => kill(link, 'timeout'),
        exhausted: () => kill(link, 'exhausted'),
        hostile: () => {
          log.warn({ sandbox: id, tenant: entry.tenant }, 'sandbox.misbehaved')
          kill(link, 'crash')
        },
      },
    })
    const entry: Entry = { id, link, make, spec, bornAt: now(), tenant, seat, inFlight: 0, uses: 0, idleSince: now(), leaving: undefined }
    households.add(entry)
    link.whenConnected(never).then(
      () => options.on.connected(id),
      () => {
        // It ended before.
      },
    )
    return entry
  }

  function drop(id: string, cause: EndCause): void {
    const entry = households.entries.get(id)
    if (entry === undefined) return
    households.remove(entry)
    options.egress?.detach(id)
    entry.link.finish(cause)
    Promise.resolve(entry.link[Symbol.asyncDispose]()).catch((error: Error) => log.warn({ sandbox: id, reason: error.message }, 'platform.failed'))
  }

  function kill(link: AgentLink, cause: EndCause): void {
    drop(link.id, cause)
    queue.retire(link.id, cause).catch((error: Error) => log.error({ sandbox: link.id, reason: error.message }, 'platform.failed'))
  }

  return {
    open,
    drop,
    kill,
    async [Symbol.asyncDispose]() {
      closed = true
      // What is being opened at this moment is not among the entries yet.
      await Promise.allSettled(opening.values())
      await Promise.all([...households.entries.values()].map((entry) => entry.link[Symbol.asyncDispose]()))
    },
  }
}
