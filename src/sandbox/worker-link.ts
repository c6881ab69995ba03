import type net from 'node:net'
import { Client } from 'undici'
import type { Circumstances } from '../protocol/invocation.ts'
import type { WorkerEnd } from '../protocol/messages.ts'

/** One connection to a worker thread, one request at a time. Give it back by `release`, or break it by `destroy`. */
export interface WorkerConnection {
  readonly client: Client
  /** What the worker was told last on it. */
  said: Circumstances | undefined
  /** The request that runs on it now, with the token on which its code may act. */
  running: RunningRequest | undefined
  release(): void
  destroy(): void
}

export interface RunningRequest {
  readonly id: string
  readonly token: string | null
}

/** The gateway's end of one worker thread: its idle connections and who waits for one. */
export interface WorkerLink {
  readonly key: string
  readonly run: number
  /** Requests running there. */
  readonly busy: number
  /** When it last began or finished a request (Unix ms). */
  readonly usedAt: number
  /** True once it takes no new requests. */
  readonly closed: boolean
  /** A free connection, at once when there is one; otherwise rejects when the caller has `left` or the worker goes first. */
  connect(left: () => AbortSignal): WorkerConnection | Promise<WorkerConnection>
  /** The request of this id, while it runs there. */
  running(id: string): RunningRequest | undefined
  /** The worker dialled in. */
  arrived(socket: net.Socket): void
  /** No new requests; the running ones go on. */
  close(): void
  /** The worker is gone; the agent said how, or nobody will. */
  finish(end: WorkerEnd | undefined): void
  /** Resolves when the worker is gone. */
  readonly gone: Promise<WorkerEnd | undefined>
}

export class WorkerGone extends Error {}

/** `isOpen` knows before the socket's 'close' event, which comes only at the end of the event loop's turn. */
type Lendable = WorkerConnection & { lent: boolean; isOpen(): boolean }

export interface WorkerLinkOptions {
  readonly key: string
  readonly run: number
  readonly maxHeaderBytes: number
  readonly now: () => number
  /** Asks the worker for so many connections in all. */
  widen(connections: number): void
}

/** Connections that a worker dials by itself. */
const LEAST = 4

export function createWorkerLink(options: WorkerLinkOptions): WorkerLink {
  const idle: Lendable[] = []
  const live = new Set<Lendable>()
  const waiting = new Set<{ give(connection: WorkerConnection): void; fail(error: Error): void }>()
  const gone = Promise.withResolvers<WorkerEnd | undefined>()
  let busy = 0
  let usedAt = options.now()
  let closed = false
  let asked = 0

  function lend(connection: Lendable): WorkerConnection {
    connection.lent = true
    busy += 1
    usedAt = options.now()
    return connection
  }

  function giveBack(connection: Lendable): void {
    if (!connection.lent) return
    connection.lent = false
    connection.running = undefined
    busy -= 1
    usedAt = options.now()
  }

  /**
   * Asks for twice as many as there are, at most: a crowd before code that answers at once is through before all of it could have dialled.
   * Once per size: while the asked-for connections are on their way, asking again helps nobody.
   */
  function askForMore(): void {
    const wanted = Math.min(live.size + waiting.size, Math.max(2 * live.size, LEAST))
    if (wanted <= asked && live.size < asked) return
    asked = wanted
    options.widen(wanted)
  }

  function offer(connection: Lendable): void {
    if (!live.has(connection) || !connection.isOpen()) return
    for (const waiter of waiting) {
      waiting.delete(waiter)
      return waiter.give(lend(connection))
    }
    idle.push(connection)
  }

  function forget(connection: Lendable): void {
    live.delete(connection)
    // The worker has fewer than we asked for: what was asked no longer holds.
    asked = 0
    const at = idle.indexOf(connection)
    if (at >= 0) idle.splice(at, 1)
  }

  function arrived(socket: net.Socket): void {
    if (closed) return void socket.destroy()
    let handed = false
    // Until its first request nobody else reads the connection, and what comes unasked is the worker's farewell.
    const farewell = () => connection.destroy()
    socket.on('readable', farewell)
    const client = new Client('http://worker', {
      // The client gets this socket and never another: a lost connection is lost.
      connect: (_options, callback) => {
        const lost = handed || socket.destroyed
        handed = true
        socket.off('readable', farewell)
        // Not in this turn: the client would not see that it is connected until something else wakes it.
        if (lost) process.nextTick(callback, new WorkerGone('The connection to the worker is gone'), null)
        else process.nextTick(callback, null, socket)
      },
      pipelining: 1,
      // The gateway's own deadline ends what takes too long.
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: 2 ** 31 - 1,
      keepAliveMaxTimeout: 2 ** 31 - 1,
      maxHeaderSize: options.maxHeaderBytes,
    })
    const connection: Lendable = {
      client,
      said: undefined,
      running: undefined,
      lent: false,
      isOpen: () => !socket.destroyed,
      release: () => {
        giveBack(connection)
        if (closed) connection.destroy()
        else offer(connection)
      },
      destroy: () => {
        giveBack(connection)
        forget(connection)
        socket.destroy()
        client.destroy().catch(() => {})
      },
    }
    socket.on('error', () => {
      // 'close' follows.
    })
    socket.once('close', () => forget(connection))
    live.add(connection)
    offer(connection)
    if (waiting.size > 0) askForMore()
  }

  function close(): void {
    closed = true
    for (const connection of idle.splice(0)) connection.destroy()
    for (const waiter of waiting) waiter.fail(new WorkerGone('The worker ended before the request reached it'))
    waiting.clear()
  }

  return {
    key: options.key,
    run: options.run,
    gone: gone.promise,
    get busy() {
      return busy
    },
    get usedAt() {
      return usedAt
    },
    get closed() {
      return closed
    },
    connect(left) {
      // A worker that shrinks hangs up on many at once: those still in the list must not use up a request's attempts.
      for (let connection = idle.pop(); connection !== undefined; connection = idle.pop()) if (connection.isOpen()) return lend(connection)
      if (closed) throw new WorkerGone('The worker ended before the request reached it')
      const signal = left()
      return new Promise((resolve, reject) => {
        const waiter = {
          give(given: WorkerConnection) {
            signal.removeEventListener('abort', leave)
            resolve(given)
          },
          fail(error: Error) {
            signal.removeEventListener('abort', leave)
            reject(error)
          },
        }
        const leave = () => {
          waiting.delete(waiter)
          reject(signal.reason as Error)
        }
        if (signal.aborted) return leave()
        signal.addEventListener('abort', leave, { once: true })
        waiting.add(waiter)
        askForMore()
      })
    },
    running(id) {
      for (const { running } of live) if (running?.id === id) return running
      return undefined
    },
    arrived,
    close,
    finish(end) {
      close()
      for (const connection of live) connection.destroy()
      gone.resolve(end)
    },
  }
}
