import { once } from 'node:events'
import { link, rename, rm } from 'node:fs/promises'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Where something listens: a unix socket, or a port of the loopback interface. */
export type Place = { readonly path: string } | { readonly port: number }

export interface Faults {
  /** Each piece arrives so much later, in both directions; up to `jitterMs` more, by chance. The order of bytes stays. */
  readonly latencyMs: number
  readonly jitterMs: number
  /** Connections are made, and no byte passes. What comes waits, in bounds, and passes when this ends. */
  readonly stalled: boolean
  /** Nobody can connect; connections that exist stay. */
  readonly refusing: boolean
  /** Of each connection and direction. */
  readonly bytesPerSecond: number
  /** Answers of the target: are thrown away, or end the connection where the first byte would come. */
  readonly answers: 'pass' | 'lost' | 'cut'
}

export interface FaultProxy extends AsyncDisposable {
  /** Where it listens. */
  readonly place: Place
  readonly connections: number
  /** Changes some faults, for connections that exist too. Resolves when new ones meet them. */
  set(faults: Partial<Faults>): Promise<void>
  /** No faults any more. */
  heal(): Promise<void>
  /** Breaks all connections that exist. */
  reset(): void
}

const NONE: Faults = { latencyMs: 0, jitterMs: 0, stalled: false, refusing: false, bytesPerSecond: Infinity, answers: 'pass' }
/** Bytes of one direction that are on their way; with more the sender has to wait. */
const ON_THE_WAY = 1 << 20
/** With limited bandwidth, bytes go in pieces of so much time (ms). */
const SLICE_MS = 20

/** Stands between two parts and forwards bytes, with whatever is wrong with networks on demand. Listens on a free port unless told where. */
export async function startFaultProxy({ target, listen = { port: 0 } }: { target: Place; listen?: Place }): Promise<FaultProxy> {
  const pairs = new Set<Pair>()
  let faults = NONE
  let changed = Promise.withResolvers<void>()
  let place = listen
  let server: net.Server | undefined

  const world: World = { faults: () => faults, changed: () => changed.promise }

  function accept(client: net.Socket): void {
    const pair = createPair({ client, target, world, ended: () => pairs.delete(pair) })
    pairs.add(pair)
  }

  async function open(): Promise<void> {
    if ('path' in place) await rm(place.path, { force: true })
    const opened = net.createServer({ allowHalfOpen: true, noDelay: true }, accept)
    opened.listen('path' in place ? place.path : { port: place.port, host: '127.0.0.1' })
    await once(opened, 'listening')
    server = opened
    if ('port' in place) place = { port: (opened.address() as net.AddressInfo).port }
  }

  /** Stops listening without waiting for connections. The file of a unix socket stays, so that whoever connects is refused. */
  async function shut(): Promise<void> {
    const file = 'path' in place ? place.path : undefined
    if (file !== undefined) await link(file, `${file}.kept`)
    server?.close()
    server = undefined
    if (file !== undefined) await rename(`${file}.kept`, file)
  }

  async function set(some: Partial<Faults>): Promise<void> {
    faults = { ...faults, ...some }
    changed.resolve()
    changed = Promise.withResolvers<void>()
    if (faults.refusing && server !== undefined) await shut()
    if (!faults.refusing && server === undefined) await open()
  }

  function reset(): void {
    for (const pair of pairs) pair.destroy()
  }

  await open()
  return {
    get place() {
      return place
    },
    get connections() {
      return pairs.size
    },
    set,
    heal: () => set(NONE),
    reset,
    async [Symbol.asyncDispose]() {
      server?.close()
      reset()
      changed.resolve()
      if ('path' in place) await rm(place.path, { force: true })
    },
  }
}

/** What all connections ask again and again. */
interface World {
  faults(): Faults
  changed(): Promise<void>
}

/** One connection of a client, and ours to the target for it. */
interface Pair {
  destroy(): void
}

function createPair({ client, target, world, ended }: { client: net.Socket; target: Place; world: World; ended: () => void }): Pair {
  const far = net.connect({ ...target, allowHalfOpen: true, noDelay: true })
  const broken = new AbortController()
  const destroy = () => {
    broken.abort()
    for (const socket of [client, far]) {
      // Only TCP knows a reset; closing a unix socket is all there is.
      if (socket.remoteAddress === undefined) socket.destroy()
      else socket.resetAndDestroy()
    }
    ended()
  }
  // One end that breaks takes the other along; one that has ended may still have bytes on their way.
  for (const socket of [client, far]) socket.on('error', destroy)
  const about = { world, broken: broken.signal, cut: destroy }
  Promise.all([carry({ ...about, from: client, to: far, isAnswer: false }), carry({ ...about, from: far, to: client, isAnswer: true })]).then(
    ended,
    destroy,
  )
  return { destroy }
}

interface Way {
  readonly from: net.Socket
  readonly to: net.Socket
  readonly world: World
  readonly isAnswer: boolean
  readonly broken: AbortSignal
  cut(): void
}

/** Carries the bytes of one direction, and its end. Each piece is delayed by itself, so that latency does not cost bandwidth. */
async function carry({ from, to, world, isAnswer, broken, cut }: Way): Promise<void> {
  const { faults } = world
  const pieces: { readonly bytes: Buffer | null; readonly due: number }[] = []
  const over = new Promise<void>((resolve) => broken.addEventListener('abort', () => resolve(), { once: true }))
  let onTheWay = 0
  let wake = Promise.withResolvers<void>()
  const push = (bytes: Buffer | null) => {
    const { latencyMs, jitterMs } = faults()
    pieces.push({ bytes, due: performance.now() + latencyMs + jitterMs * Math.random() })
    onTheWay += bytes?.length ?? 0
    if (onTheWay > ON_THE_WAY) from.pause()
    wake.resolve()
  }
  from.on('data', push).once('end', () => push(null))
  while (!broken.aborted) {
    const piece = pieces.shift()
    if (piece === undefined) {
      wake = Promise.withResolvers<void>()
      await Promise.race([wake.promise, over])
      continue
    }
    const wait = piece.due - performance.now()
    if (wait > 0) await sleep(wait, undefined, { signal: broken })
    while (faults().stalled && !broken.aborted) await Promise.race([world.changed(), over])
    if (piece.bytes === null) return void to.end()
    const { answers } = faults()
    if (isAnswer && answers === 'cut') return cut()
    if (!isAnswer || answers === 'pass') await pour(piece.bytes, { to, faults })
    onTheWay -= piece.bytes.length
    if (onTheWay <= ON_THE_WAY) from.resume()
  }
}

/** Writes bytes as fast as they may go and the receiver takes them. */
async function pour(bytes: Buffer, { to, faults }: { to: net.Socket; faults: () => Faults }): Promise<void> {
  for (let rest = bytes; rest.length > 0 && !to.destroyed;) {
    const { bytesPerSecond } = faults()
    const size = Math.min(rest.length, Math.max(1, Math.floor((bytesPerSecond * SLICE_MS) / 1000)))
    if (!to.write(rest.subarray(0, size))) await drained(to)
    if (bytesPerSecond !== Infinity) await sleep((size / bytesPerSecond) * 1000)
    rest = rest.subarray(size)
  }
}

/** Resolves when the socket takes more or is closed, and leaves no listener behind. */
function drained(socket: net.Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done).off('close', done)
      resolve()
    }
    socket.once('drain', done).once('close', done)
  })
}
