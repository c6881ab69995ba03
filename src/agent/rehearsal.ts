/**
 * Walks the way of a first request once while nobody waits, so that Node has compiled what lies along it: a webtask of
 * our own is loaded, and answers requests that the thread sends to itself. All of it is made for the rehearsal and
 * thrown away with it; nothing that a webtask gets to see has been part of it.
 */
import type { Socket } from 'node:net'
import { encodeInvocation, INVOCATION_HEADER } from '../protocol/invocation.ts'
import type { WebtaskSource } from '../protocol/messages.ts'
import { type Connections, openConnections } from './connections.ts'
import { loadWebtask } from './load.ts'
import { NativePromise } from './natives.ts'
import { type Program, runWebtask } from './run.ts'
import { createService } from './serve.ts'

const { createServer } = process.getBuiltinModule('node:net')
const { threadId } = process.getBuiltinModule('node:worker_threads')

/** A load that somebody waits for while the sandbox starts comes earlier than this, and finds the processor free (ms). */
const AFTER_MS = 50
/** The second one finds what the first one leaves behind. */
const REQUESTS = 2

const SOURCE: WebtaskSource = {
  container: '',
  name: null,
  code: 'module.exports = (ctx, cb) => cb(null, ctx.id)',
  url: null,
  secrets: {},
  params: {},
  meta: {},
  parseBody: 2,
  mergeBody: false,
  token: null,
}
const REQUEST = `GET / HTTP/1.1\r\nhost: x\r\n${INVOCATION_HEADER}: ${encodeInvocation('0', { base: '', format: 1 })}\r\n\r\n`

export interface Rehearsal {
  /** To be called before there is any code: undoes what has begun, and resolves when none of it is left. */
  stop(): Promise<void>
}

export function rehearseLater({ afterMs = AFTER_MS } = {}): Rehearsal {
  let stage: Stage | undefined
  const timer = setTimeout(() => {
    stage = openStage()
  }, afterMs)
  return {
    async stop() {
      clearTimeout(timer)
      await stage?.clear()
    },
  }
}

interface Stage {
  clear(): Promise<void>
}

function openStage(): Stage {
  const askers = new Set<Socket>()
  let connections: Connections | undefined
  let cleared: Promise<void> | undefined
  const server = createServer(ask)
  server.on('error', clear)
  loadWebtask({ source: SOURCE, packagesDir: '/' }).then((webtask) => {
    if (cleared || 'status' in webtask) return
    const program: Program = { webtask, source: SOURCE, parsedBodyBytes: 0 }
    const service = createService({ run: (request) => runWebtask(program, request), onQuiet() {} })
    // A name without a file, in the sandbox's own network: the file system there is read-only.
    const path = `\0webtask-rehearsal-${process.pid}-${threadId}`
    server.listen(path, () => {
      if (!cleared) connections = openConnections({ gateway: '', path, worker: '', run: 0, limit: 1, server: service.server })
    })
  })

  function ask(socket: Socket): void {
    askers.add(socket)
    let asked = 0
    socket.on('error', () => {})
    socket.on('close', () => askers.delete(socket))
    // First comes the greeting of the connection, then an answer in one piece to each request.
    socket.on('data', () => {
      if (asked++ < REQUESTS) socket.write(REQUEST)
      else void clear()
    })
  }

  function clear(): Promise<void> {
    return (cleared ??= close())
  }

  async function close(): Promise<void> {
    const gone = [...askers].map((socket) => new NativePromise((resolve) => void socket.once('close', resolve)))
    for (const socket of askers) socket.destroy()
    const hungUp = connections?.close()
    // Last: the loop closes what was closed last first, and nobody says when a listener is gone.
    server.close()
    await NativePromise.all([...gone, hungUp])
  }

  return { clear }
}
