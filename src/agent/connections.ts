/**
 * A worker's connections to one gateway: dialled by the worker, then served as HTTP with the gateway as the client.
 * They grow before they are all busy, so that a burst finds them waiting, and shrink again when it is over.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { encodeFrame } from '../protocol/frame.ts'
import { type Circumstances, RETIRED_RESPONSE } from '../protocol/invocation.ts'
import { NativePromise } from './natives.ts'
import { runIn, type Scope } from './request.ts'

const { connect } = process.getBuiltinModule('node:net')

const LEAST = 4
/** With this many connected a worker may be announced. */
const ENOUGH = 2
const IDLE_MS = 10_000
const REDIAL_MS = 50

interface Connection {
  readonly socket: Socket
  readonly scope: Scope
  connected: boolean
  /** When it last finished a request; undefined while it runs one. */
  idleSince: number | undefined
}

export interface Connections {
  readonly gateway: string
  /** Resolves when enough stand for the first requests. */
  readonly ready: Promise<void>
  /** The gateway has requests waiting: have this many connections until it stops asking. */
  widen(connections: number): void
  /** Gives up the idle ones, and says so on them; resolves when that is said. Those with a request stay until it is answered. */
  retire(): Promise<void>
  /** Resolves when none of them is left. */
  close(): Promise<void>
}

/** How many connections there should be with `busy` of them busy and `asked` for by the gateway. */
export function wantedConnections(busy: number, asked: number, limit: number): number {
  return Math.min(limit, Math.max(LEAST, asked, busy + Math.max(ENOUGH, busy)))
}

/** The connection that a request came on. */
export interface Line {
  readonly gateway: string
  readonly scope: Scope
  /** True when the platform has given this connection up: what comes on it is not run. */
  readonly retired: boolean
  /** What the gateway said last on it; undefined before the first request. */
  circumstances: Circumstances | undefined
  busy(isBusy: boolean): void
}

const lines = new WeakMap<Socket, Line>()
export const lineOf = (socket: Socket): Line | undefined => lines.get(socket)

export interface ConnectionsOptions {
  readonly gateway: string
  readonly path: string
  readonly worker: string
  readonly run: number
  readonly limit: number
  readonly server: Server
  /** How long a surplus connection stays (milliseconds). */
  readonly idleMs?: number
}

export function openConnections({ gateway, path, worker, run, limit, server, idleMs = IDLE_MS }: ConnectionsOptions): Connections {
  const open = new Set<Connection>()
  const hello = encodeFrame({ kind: 'hello', role: 'worker', worker, run })
  const ready = NativePromise.withResolvers<void>()
  let busy = 0
  let asked = 0
  let askedAt = -Infinity
  let connected = 0
  let closed = false
  let redial: NodeJS.Timeout | undefined

  function grow(): void {
    if (closed) return
    for (let missing = wantedConnections(busy, asked, limit) - open.size; missing > 0; missing--) dial()
  }

  function dial(): void {
    const scope: Scope = { request: undefined }
    // The connection is made inside its scope, so that whatever happens on it is known to belong to its request.
    runIn(scope, () => {
      const socket = connect(path)
      const connection: Connection = { socket, scope, connected: false, idleSince: undefined }
      open.add(connection)
      lines.set(socket, createLine(connection))
      socket.on('error', () => {})
      socket.on('connect', () => {
        connection.connected = true
        connection.idleSince = performance.now()
        socket.write(hello)
        server.emit('connection', socket)
        if (++connected >= Math.min(ENOUGH, limit)) ready.resolve()
      })
      socket.on('close', () => {
        open.delete(connection)
        if (connection.connected && connection.idleSince === undefined) busy--
        if (closed) return
        // Not at once: the gateway may be on its way out.
        redial ??= setTimeout(() => {
          redial = undefined
          grow()
        }, REDIAL_MS)
      })
    })
  }

  function createLine(connection: Connection): Line {
    return {
      gateway,
      scope: connection.scope,
      circumstances: undefined,
      get retired() {
        return !open.has(connection)
      },
      busy(isBusy) {
        const wasBusy = connection.idleSince === undefined
        connection.idleSince = isBusy ? undefined : performance.now()
        if (isBusy === wasBusy || !open.has(connection)) return
        busy += isBusy ? 1 : -1
        if (isBusy) grow()
      },
    }
  }

  /** A request may be on its way at this very moment: the answer tells the gateway that it was not run. */
  function giveUp(connection: Connection): Promise<void> {
    open.delete(connection)
    const said = NativePromise.withResolvers<void>()
    connection.socket.once('close', said.resolve)
    connection.socket.end(RETIRED_RESPONSE, said.resolve)
    return said.promise
  }

  const shrinker = setInterval(() => {
    const limitTime = performance.now() - idleMs
    if (askedAt < limitTime) asked = 0
    let surplus = open.size - wantedConnections(busy, asked, limit)
    for (const connection of open) {
      if (surplus <= 0) return
      if (connection.idleSince === undefined || connection.idleSince > limitTime) continue
      surplus--
      void giveUp(connection)
    }
  }, idleMs / 4).unref()

  grow()
  return {
    gateway,
    ready: ready.promise,
    widen(wanted) {
      asked = Math.max(asked, wanted)
      askedAt = performance.now()
      grow()
    },
    async retire() {
      closed = true
      clearInterval(shrinker)
      clearTimeout(redial)
      for (const { socket, connected: isConnected } of open) if (!isConnected) socket.destroy()
      const idle = [...open].filter((connection) => connection.idleSince !== undefined)
      await NativePromise.all(idle.map(giveUp))
    },
    async close() {
      closed = true
      clearInterval(shrinker)
      clearTimeout(redial)
      const gone = [...open].map(({ socket }) => new NativePromise((resolve) => void socket.once('close', resolve)))
      for (const { socket } of open) socket.destroy()
      await NativePromise.all(gone)
    },
  }
}
