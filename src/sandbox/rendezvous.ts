import { chmod, mkdir, rm } from 'node:fs/promises'
import net from 'node:net'
import path from 'node:path'
import { parseFromAgent, type FromAgent } from '../protocol/messages.ts'

type Hello = Extract<FromAgent, { kind: 'hello' }>

/** Connections of one sandbox at once; more are closed as they come. A sandbox may have no more open files. */
const MAX_CONNECTIONS = 1_024
/** Those of them that have not said what they are: a worker dials this many at once at most. */
const MAX_SILENT = 160
/** A hello is one short frame; more is not a hello. */
const MAX_HELLO_BYTES = 1024
const HELLO_TIMEOUT_MS = 5_000

export interface RendezvousEvents {
  /** A connection said what it is; nothing of what follows its hello has been read. */
  arrived(hello: Hello, socket: net.Socket): void
  /** A connection broke the protocol and was destroyed. */
  misbehaved(reason: string): void
}

/** Where a sandbox's sockets live: the same path for the platform and for the engine that mounts it. */
export function sandboxDirectory(runDir: string, id: string): string {
  return path.join(runDir, 's', id)
}

/** Holds the socket of a sandbox's way out, which the egress role makes. */
export function egressDirectory(runDir: string, id: string): string {
  return path.join(runDir, 'e', id)
}

/**
 * Listens in a sandbox's rendezvous directory, where its agent dials in. Whoever connects there *is* that sandbox:
 * the directory is mounted into no other container, and read-only.
 */
export async function listenRendezvous(options: { directory: string; gateway: string; on: RendezvousEvents }): Promise<AsyncDisposable> {
  const file = path.join(options.directory, `${options.gateway}.sock`)
  const sockets = new Set<net.Socket>()
  let silent = 0
  const server = net.createServer((socket) => {
    if (silent >= MAX_SILENT) {
      socket.destroy()
      return options.on.misbehaved('Too many connections without a hello')
    }
    sockets.add(socket)
    silent += 1
    socket.once('close', () => sockets.delete(socket))
    readHello(socket, { ...options.on, heard: () => (silent -= 1) })
  })
  server.maxConnections = MAX_CONNECTIONS
  server.on('drop', () => options.on.misbehaved('Too many connections'))
  await mkdir(options.directory, { recursive: true, mode: 0o755 })
  await rm(file, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(file, resolve)
  })
  // Connecting needs write permission on the socket, and the sandbox runs under a uid of its own.
  await chmod(file, 0o666)
  return {
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
      await rm(file, { force: true })
    },
  }
}

/** Reads exactly the hello frame, so that the bytes after it stay in the socket for whoever takes it over. */
function readHello(socket: net.Socket, on: RendezvousEvents & { heard(): void }): void {
  let size: number | undefined
  const refuse = (reason: string) => {
    finish()
    socket.destroy()
    on.misbehaved(reason)
  }
  const timer = setTimeout(() => refuse('No hello in time'), HELLO_TIMEOUT_MS)
  const finish = () => {
    on.heard()
    clearTimeout(timer)
    socket.off('readable', read).off('close', finish).off('error', ignore)
  }
  const ignore = () => {
    // 'close' follows and ends the wait.
  }
  const read = () => {
    if (size === undefined) {
      const head = socket.read(4) as Buffer | null
      if (head === null) return
      size = head.readUInt32BE()
      if (size > MAX_HELLO_BYTES || size === 0) return refuse('The hello is too long')
    }
    const body = socket.read(size) as Buffer | null
    if (body === null) return
    let hello: FromAgent | undefined
    try {
      hello = parseFromAgent(JSON.parse(body.toString()))
    } catch {
      // Not JSON: refused below like any other hello that is none.
    }
    if (hello?.kind !== 'hello') return refuse('The first frame is not a hello')
    finish()
    on.arrived(hello, socket)
  }
  socket.on('readable', read).once('close', finish).on('error', ignore)
}
