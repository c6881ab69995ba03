/**
 * Lets every TCP connection of the thread go out through the egress role. All of Node's clients end in
 * `net.Socket.prototype.connect` (`tls`, `http`, `https`, `http2`, `fetch`, `WebSocket`), so this one method is replaced.
 *
 * The socket waits, as it would for the network, while another one, the carrier, talks with the egress role; then it is given
 * the carrier's handle. That is how Node's own "happy eyeballs" gives a socket the handle that won, TLS included.
 */
import { GO, type Connected, parseConnectReply, parseEndedReply } from '../../protocol/egress.ts'
import { boundId } from './bound.ts'
import { ask } from './exchange.ts'
import { brokenError, connectError, unreachable, type Target } from './failures.ts'
import { connectAsBefore, net, type Socket } from './natives.ts'

/** The parts of a handle that we touch. */
interface Handle {
  reading: boolean
  readStop(): number
  close(): void
  getpeername?(out: object): number
}
type Insides = Socket & {
  _handle: Handle | null
  _parent: { connecting: boolean } | null
  _host: string | null
  _peername: object | null
  _sockname: object | null
  _undestroy(): void
  _unrefTimer(): void
  connecting: boolean
}
type Options = Record<string, unknown>
type Lookup = (host: string, options: object, done: (error: Error | null, found: unknown, family?: unknown) => void) => void

const GO_BYTE = Buffer.of(GO)
/** Sockets whose connection goes through the egress role. */
const ours = new WeakSet<Socket>()

export function installConnect(socketPath: string): void {
  const proto = net.Socket.prototype
  const reinitialize = Object.getOwnPropertySymbols(proto).find((symbol) => symbol.description === 'kReinitializeHandle')
  if (reinitialize === undefined) throw new Error('This Node keeps the handles of its sockets elsewhere: the way out cannot be installed')
  const adopt = (socket: Insides, handle: Handle) => (socket as unknown as Record<symbol, (handle: Handle) => void>)[reinitialize]!(handle)

  proto.connect = function connect(this: Insides, ...args: unknown[]) {
    const normalized = normalize(args)
    const options = normalized[0] as Options
    if (!isTcp(this, options)) return connectAsBefore.apply(this, args as [unknown])
    const done = normalized[1]
    if (done !== null) this.once('connect', done as () => void)
    // A socket that is used again, as Node allows.
    if (this.destroyed) {
      this._handle = null
      this._peername = null
      this._undestroy()
    }
    this._unrefTimer()
    this.connecting = true
    ours.add(this)
    const target = { host: String(options['host'] || 'localhost'), port: Number(options['port']) }
    if (net.isIP(target.host) === 0) this._host = target.host
    if (typeof options['lookup'] === 'function' && net.isIP(target.host) === 0) lookUpFirst(this, options, target)
    else goOut(this, target)
    return this
  } as typeof proto.connect

  const resetAsBefore = proto.resetAndDestroy
  proto.resetAndDestroy = function resetAndDestroy(this: Insides) {
    return ours.has(this) ? this.destroy() : resetAsBefore.call(this)
  }

  function goOut(socket: Insides, target: Target, name = target.host): void {
    const carrier = ask(socketPath, {
      request: { kind: 'connect', host: target.host, port: target.port, ...boundId() },
      on: {
        failed: () => settle(unreachable(target, net.isIP(target.host) !== 0)),
        replied: (value, answered) => {
          const reply = parseConnectReply(value)
          if (reply?.ok) return settle(reply, answered as Insides)
          answered.destroy()
          settle(reply ?? unreachable(target, true))
        },
      },
    })
    const giveUp = () => void carrier.destroy()
    socket.once('close', giveUp)

    function settle(reply: NonNullable<ReturnType<typeof parseConnectReply>>, answered?: Insides): void {
      socket.off('close', giveUp)
      if (socket.destroyed || !socket.connecting) return void carrier.destroy()
      if (!reply.ok) return void socket.destroy(connectError(reply, { host: target.host, port: target.port }))
      if (net.isIP(name) === 0) socket.emit('lookup', null, reply.address, reply.family, name)
      if (!socket.connecting) return void carrier.destroy()
      connected(socket, reply, answered!)
    }
  }

  function connected(socket: Insides, reply: Connected, carrier: Insides): void {
    carrier.write(GO_BYTE)
    const handle = carrier._handle!
    handle.readStop()
    handle.reading = false
    carrier._handle = null
    handle.getpeername = (out) => {
      Object.assign(out, { address: reply.address, family: reply.family === 6 ? 'IPv6' : 'IPv4', port: reply.port })
      return 0
    }
    countFromHere(handle)
    // Taking a handle makes a socket as new, which would undo an `end` that was called while it was connecting.
    socket._undestroy = () => {}
    adopt(socket, handle)
    delete (socket as Partial<Insides>)._undestroy
    watchEnd(socket, reply.id)
    socket.connecting = false
    socket._sockname = null
    socket._peername = null
    socket._unrefTimer()
    socket.emit('connect')
    socket.emit('ready')
    if (!socket.isPaused()) socket.read(0)
  }

  /** When the stream ends, asks how: what looks like the end may be a connection that broke half-way. */
  function watchEnd(socket: Insides, id: number): void {
    const push = socket.push
    socket.push = function (chunk: unknown, encoding?: BufferEncoding) {
      if (chunk !== null) return push.call(this, chunk, encoding)
      socket.push = push
      // The end is only told apart while there is somebody to tell.
      if (socket.destroyed) return push.call(this, null)
      const end = (code: string | null) => {
        if (socket.destroyed) return
        if (code !== null) return void socket.destroy(brokenError(code))
        socket.push(null)
        socket.read(0)
      }
      ask(socketPath, {
        request: { kind: 'ended', id },
        on: {
          failed: () => end('ECONNRESET'),
          replied(value, carrier) {
            carrier.destroy()
            const reply = parseEndedReply(value)
            end(reply === undefined ? 'ECONNRESET' : reply.broken)
          },
        },
      })
      return false
    }
  }

  /** The code looks up names itself: what it finds is what is connected to. */
  function lookUpFirst(socket: Insides, options: Options, target: Target): void {
    const family = options['family'] === 'IPv4' ? 4 : options['family'] === 'IPv6' ? 6 : options['family']
    const all = family !== 4 && family !== 6 && options['autoSelectFamily'] !== false
    const lookup = options['lookup'] as Lookup
    lookup(target.host, { family, hints: options['hints'] ?? 0, ...(all ? { all } : {}) }, (error, found) => {
      if (!socket.connecting) return
      const first: unknown = Array.isArray(found) ? found[0]?.address : found
      if (error) return void process.nextTick(() => socket.destroy(error))
      if (typeof first === 'string' && net.isIP(first) !== 0) return goOut(socket, { host: first, port: target.port }, target.host)
      process.nextTick(() => socket.destroy(Object.assign(new TypeError(`Invalid IP address: ${String(first)}`), { code: 'ERR_INVALID_IP_ADDRESS' })))
    })
  }
}

/** False for what Node connects, or refuses, by itself: paths, adopted handles, arguments that make no sense. */
function isTcp(socket: Insides, options: Options): boolean {
  const { path, port, host, lookup } = options
  if (path !== undefined && path !== null && path !== '') return false
  if (socket._parent?.connecting || (socket._handle !== null && isBound(socket))) return false
  const validPort =
    (typeof port === 'number' || (typeof port === 'string' && port.trim() !== '')) && Number.isInteger(+port) && +port >= 0 && +port <= 65_535
  const validHost = host === undefined || host === null || host === '' || (typeof host === 'string' && !host.includes('\0'))
  return validPort && validHost && (lookup === undefined || lookup === null || typeof lookup === 'function')
}

/** The exchange with the egress role is not among the bytes of the connection. */
function countFromHere(handle: Handle): void {
  for (const name of ['bytesRead', 'bytesWritten'] as const) {
    const count = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Object.getPrototypeOf(handle)), name)?.get
    if (count === undefined) continue
    const before = count.call(handle) as number
    Object.defineProperty(handle, name, { get: () => (count.call(handle) as number) - before })
  }
}

/** A handle that is there before `connect`, other than that of a TLS socket, was put there by code: it is none of ours. */
const isBound = (socket: Insides): boolean => !('encrypted' in socket) && !socket.destroyed && !ours.has(socket)

/** `connect(options, done)`, `connect(port, host, done)` and what `net.connect` has normalized already. */
function normalize(args: unknown[]): readonly unknown[] {
  const [first] = args
  if (Array.isArray(first) && Object.getOwnPropertySymbols(first).length > 0) return first
  return (net as unknown as { _normalizeArgs(args: unknown[]): unknown[] })._normalizeArgs(args)
}
