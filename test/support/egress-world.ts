/** The egress role's relay in this process, for one sandbox, and what it reported. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { BoundSecrets } from '../../src/egress/bound-secrets.ts'
import { parseOpenedPlaces, parseOutboundRules } from '../../src/egress/outbound-rules.ts'
import { createRelay, type Closed, type Relay, type RelayOptions } from '../../src/egress/relay.ts'
import { createUsage, type UsageLimits } from '../../src/egress/usage.ts'
import { createWayOut, type WayOut } from '../../src/egress/way-out.ts'
import type { Names } from '../../src/egress/names.ts'
import { createFrameReader, encodeFrame } from '../../src/protocol/frame.ts'
import { MAX_EGRESS_REPLY } from '../../src/protocol/egress.ts'

export const SANDBOX = 'aaaaaaaaaaaa'

export interface World extends AsyncDisposable {
  /** What the agent is given as the directory of the way out. */
  readonly directory: string
  readonly socketPath: string
  readonly events: Closed[]
  readonly relay: Relay
  readonly wayOut: WayOut
  /** One exchange as the sandbox would make it: the reply, and the connection. */
  ask(request: object): Promise<{ reply: any; socket: Socket }>
}

export interface WorldOptions {
  readonly opened?: string
  readonly rules?: string
  readonly limits?: Partial<UsageLimits>
  readonly names?: Partial<Names>
  readonly dial?: RelayOptions['dial']
  readonly relayLimits?: RelayOptions['limits']
  readonly bound?: readonly BoundSecrets[]
  readonly authorities?: string
  /** False leaves the sandbox without a way out. */
  readonly attached?: boolean
}

export async function startWorld(options: WorldOptions = {}): Promise<World> {
  const root = mkdtempSync(path.join(tmpdir(), 'wt-egress-'))
  const directory = path.join(root, SANDBOX)
  mkdirSync(directory)
  const events: Closed[] = []
  const silent: Names = { addresses: async () => [], openedAddresses: async () => [], records: async () => [] }
  const relay = createRelay({
    names: { ...silent, ...options.names },
    opened: parseOpenedPlaces(options.opened ?? ''),
    usage: createUsage({ connections: 100, perSecond: 1000, bytesPerHour: 2 ** 40, ...options.limits }),
    now: () => performance.now(),
    closed: (event) => events.push(event),
    finished: () => {},
    ...(options.dial ? { dial: options.dial } : {}),
    ...(options.relayLimits ? { limits: options.relayLimits } : {}),
    authorities: options.authorities,
  })
  const wayOut = createWayOut({ directory: root, relay, graceMs: 100, most: 100 })
  const rules = parseOutboundRules(options.rules ?? 'deny *:25, allow *:*')
  if (options.attached !== false) await wayOut.attach(relay, { sandbox: SANDBOX, tenant: 'acme', rules, bound: options.bound ?? [] })
  const socketPath = path.join(directory, 'egress.sock')
  return {
    directory,
    socketPath,
    events,
    relay,
    wayOut,
    async ask(request) {
      const socket = connect({ path: socketPath, allowHalfOpen: true })
      const reader = createFrameReader(MAX_EGRESS_REPLY)
      const { promise, resolve, reject } = Promise.withResolvers<unknown>()
      const hear = (chunk: string | Buffer) => {
        const [reply] = reader.push(chunk as Buffer)
        if (reply === undefined) return
        socket.off('data', hear).pause()
        resolve(reply)
      }
      socket.on('data', hear)
      socket.on('error', reject)
      socket.on('close', () => reject(new Error('Closed without a reply')))
      socket.write(encodeFrame(request))
      return { reply: await promise, socket }
    },
    async [Symbol.asyncDispose]() {
      await wayOut[Symbol.asyncDispose]()
      rmSync(root, { recursive: true, force: true })
    },
  }
}

export interface Listener extends AsyncDisposable {
  readonly port: number
  readonly server: Server
  /** Connections that reached it. */
  readonly reached: () => number
}

/** A server on loopback that counts who reaches it. */
export async function listenTcp(
  serve: (socket: Socket) => void = (socket) => socket.pipe(socket),
  server: Server = createServer({ allowHalfOpen: true }),
  host = '127.0.0.1',
): Promise<Listener> {
  let reached = 0
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    reached += 1
    sockets.add(socket)
    socket.on('error', () => {}).once('close', () => sockets.delete(socket))
  })
  if (server.listenerCount('connection') === 1 && !('setSecureContext' in server) && !('maxHeadersCount' in server)) server.on('connection', serve)
  server.listen(0, host)
  await once(server, 'listening')
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    server,
    reached: () => reached,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
