/**
 * Finds the gateways: dials a control connection to every `*.sock` in the rendezvous directory and keeps trying.
 * The directory is polled because gVisor's mounts do not deliver inotify.
 */
import type { Socket } from 'node:net'
import { createFrameReader, encodeFrame, MAX_FRAME_TO_AGENT, MAX_FRAME_TO_GATEWAY } from '../protocol/frame.ts'
import { type FromAgent, PROTOCOL_VERSION } from '../protocol/messages.ts'

// Through `import`, Node evaluates every lazy export of these modules: promises, streams and a line reader nobody asked for.
const { readdirSync } = process.getBuiltinModule('node:fs')
const { connect } = process.getBuiltinModule('node:net')

const EAGER_POLL_MS = 10
const EAGER_FOR_MS = 2000
const CALM_POLL_MS = 250
/** Without any gateway for this long the platform is gone: secrets must not live on in memory that nobody looks after (ms). */
const ABANDONED_MS = 120_000
/** A gateway that reads slower than this much behind (bytes) loses output lines rather than our memory. */
const MAX_UNSENT_OUTPUT = 1024 * 1024

/** A control connection that is up. */
export interface Gateway {
  /** The socket's file name: what workers call this gateway. */
  readonly name: string
  readonly path: string
  send(frame: FromAgent): void
  /** For frames that may be lost: false when the gateway is too far behind to take it. */
  offer(frame: FromAgent): boolean
}

export interface RendezvousEvents {
  onOpen(gateway: Gateway): void
  onFrame(gateway: Gateway, frame: unknown): void
  onClose(gateway: Gateway): void
}

export function watchRendezvous(dir: string, events: RendezvousEvents): void {
  const dialled = new Set<string>()
  let eagerUntil = performance.now() + EAGER_FOR_MS
  let connected = 0
  let aloneSince = performance.now()

  function dial(name: string): void {
    dialled.add(name)
    const path = `${dir}/${name}`
    const socket = connect(path)
    const gateway = gatewayOn(socket, { name, path })
    let open = false
    const reader = createFrameReader(MAX_FRAME_TO_AGENT)
    socket.on('connect', () => {
      open = true
      connected++
      gateway.send({ kind: 'hello', role: 'control', version: PROTOCOL_VERSION })
      events.onOpen(gateway)
    })
    socket.on('data', (chunk) => {
      let frames: unknown[]
      try {
        frames = reader.push(chunk as Buffer)
      } catch {
        // Not a frame: nothing after it can be read either.
        socket.destroy()
        return
      }
      for (const frame of frames) events.onFrame(gateway, frame)
    })
    // A socket file whose owner died refuses: it is tried again at the next poll.
    socket.on('error', () => {})
    socket.on('close', () => {
      dialled.delete(name)
      if (!open) return
      connected--
      aloneSince = performance.now()
      eagerUntil = aloneSince + EAGER_FOR_MS
      events.onClose(gateway)
    })
  }

  function poll(): void {
    try {
      for (const name of readdirSync(dir)) if (isGatewaySocket(name) && !dialled.has(name)) dial(name)
    } catch {
      // The directory is not mounted yet.
    }
    const now = performance.now()
    if (connected === 0 && now - aloneSince > ABANDONED_MS) process.exit(0)
    setTimeout(poll, now < eagerUntil ? EAGER_POLL_MS : CALM_POLL_MS)
  }
  poll()
}

/** The directory may also hold the egress role's socket, which speaks another protocol. */
function isGatewaySocket(name: string): boolean {
  return name.endsWith('.sock') && !name.startsWith('egress')
}

function gatewayOn(socket: Socket, { name, path }: { name: string; path: string }): Gateway {
  const send = (frame: FromAgent): void => {
    const bytes = encodeFrame(frame)
    // Only code that forges our own messages gets here; the gateway would hang up on all of its neighbours.
    if (bytes.length <= MAX_FRAME_TO_GATEWAY) socket.write(bytes)
  }
  return {
    name,
    path,
    send,
    offer(frame) {
      if (socket.writableLength > MAX_UNSENT_OUTPUT) return false
      send(frame)
      return true
    },
  }
}
