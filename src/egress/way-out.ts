/**
 * The sandboxes that have a way out. A sandbox is served when a gateway has attached it, on a socket in a directory that no other
 * sandbox can see; so whoever connects there is that sandbox, and the gateway has said whose it is.
 */
import { once } from 'node:events'
import { chmod, rm, stat } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import path from 'node:path'
import { WebtaskError } from '../errors.ts'
import { EGRESS_SOCKET } from '../protocol/egress.ts'
import { RELAY_LIMITS } from './limits.ts'
import type { BoundSecrets } from './bound-secrets.ts'
import type { OutboundRules } from './outbound-rules.ts'
import type { Client, Relay } from './relay.ts'

/** One gateway. While it holds a sandbox, and for a while after it went away, the sandbox is served. */
export type Holder = object

export interface Attachment {
  readonly sandbox: string
  readonly tenant: string
  readonly rules: OutboundRules
  /** Of the webtasks that this gateway has loaded there. */
  readonly bound?: readonly BoundSecrets[]
}

export interface WayOut extends AsyncDisposable {
  /** Serves a sandbox, or goes on serving it under new rules. Throws `forbidden` when it belongs to another tenant, `not_found` when it has no directory. */
  attach(holder: Holder, attachment: Attachment): Promise<void>
  /** The sandbox ended, or this gateway gave it up. */
  detach(holder: Holder, sandbox: string): void
  /** The gateway is gone: what it alone held is given up unless it is attached again within the grace. */
  release(holder: Holder): void
  /** Who hears of what a sandbox used: one gateway, so that sums over gateways are right. */
  holderOf(sandbox: string): Holder | undefined
  readonly served: number
}

interface Entry {
  attachment: Attachment
  /** With the bound secrets of each. */
  readonly holders: Map<Holder, readonly BoundSecrets[]>
  /** Those of the last one, while nobody has come after it. */
  left: readonly BoundSecrets[]
  readonly sockets: Set<Socket>
  readonly server: Server
  readonly ready: Promise<void>
  grace: NodeJS.Timeout | undefined
}

/** `directory` holds one directory per sandbox; `graceMs` is how long a sandbox is served without any gateway; `most` its connections at once. */
export function createWayOut(options: { directory: string; relay: Relay; graceMs: number; most: number }): WayOut {
  const { relay } = options
  const entries = new Map<string, Entry>()
  const most = options.most + RELAY_LIMITS.pendingConnections

  function listen(attachment: Attachment): Entry {
    const sockets = new Set<Socket>()
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      if (sockets.size >= most) return void socket.destroy()
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
      relay.serve(socket, () => clientOf(attachment.sandbox))
    })
    const ready = open(server, attachment.sandbox)
    const entry: Entry = { attachment, holders: new Map(), left: [], sockets, server, ready, grace: undefined }
    entries.set(attachment.sandbox, entry)
    return entry
  }

  function clientOf(sandbox: string): Client | undefined {
    const entry = entries.get(sandbox)
    return entry && { ...entry.attachment, bound: [...entry.holders.values(), entry.left].flat() }
  }

  async function open(server: Server, sandbox: string): Promise<void> {
    const folder = path.join(options.directory, sandbox)
    // Made by the orchestrator before the container: one made here would not be the one that is mounted.
    const isThere = await stat(folder).then(
      (found) => found.isDirectory(),
      () => false,
    )
    if (!isThere) throw new WebtaskError('not_found', `Cannot attach sandbox "${sandbox}": it has no directory`)
    const file = path.join(folder, EGRESS_SOCKET)
    await rm(file, { force: true })
    // Given up while the disk was asked.
    if (entries.get(sandbox)?.server !== server) throw new WebtaskError('unavailable', `Cannot attach sandbox "${sandbox}": it was detached`)
    server.listen(file)
    await once(server, 'listening')
    // Connecting needs write permission on the socket, and the sandbox runs under a uid of its own.
    await chmod(file, 0o666)
  }

  function close(sandbox: string): void {
    const entry = entries.get(sandbox)
    if (entry === undefined) return
    entries.delete(sandbox)
    clearTimeout(entry.grace)
    entry.server.close()
    for (const running of relay.running) if (running.client.sandbox === sandbox) running.cut('detached')
    for (const socket of entry.sockets) socket.destroy()
  }

  return {
    async attach(holder, attachment) {
      const { sandbox, tenant } = attachment
      const known = entries.get(sandbox)
      if (known !== undefined && known.attachment.tenant !== tenant)
        throw new WebtaskError('forbidden', `Cannot attach sandbox "${sandbox}": it belongs to another tenant`)
      const entry = known ?? listen(attachment)
      clearTimeout(entry.grace)
      entry.attachment = attachment
      entry.holders.set(holder, attachment.bound ?? [])
      entry.left = []
      try {
        await entry.ready
      } catch (error) {
        if (entries.get(sandbox) === entry) close(sandbox)
        throw error
      }
    },
    detach(holder, sandbox) {
      const entry = entries.get(sandbox)
      entry?.holders.delete(holder)
      if (entry?.holders.size === 0) close(sandbox)
    },
    release(holder) {
      for (const [sandbox, entry] of entries) {
        const bound = entry.holders.get(holder)
        if (!entry.holders.delete(holder) || entry.holders.size > 0) continue
        entry.left = bound ?? []
        entry.grace = setTimeout(() => close(sandbox), options.graceMs)
        entry.grace.unref()
      }
    },
    holderOf: (sandbox) => entries.get(sandbox)?.holders.keys().next().value,
    get served() {
      return entries.size
    },
    async [Symbol.asyncDispose]() {
      const closed = [...entries.values()].filter(({ server }) => server.listening).map(({ server }) => once(server, 'close'))
      for (const sandbox of entries.keys()) close(sandbox)
      await Promise.all(closed)
    },
  }
}
