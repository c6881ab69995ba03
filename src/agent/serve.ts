/** The HTTP server of a worker: every request that a gateway sends on one of the worker's connections. */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { decodeInvocation, INVOCATION_HEADER } from '../protocol/invocation.ts'
import { type Line, lineOf } from './connections.ts'
import { runIn, type WebtaskRequest } from './request.ts'

// Through `import`, Node evaluates every lazy export of the module: 20 ms and 10 MB for a web client nobody asked for.
const { createServer } = process.getBuiltinModule('node:http')
const MAX_HEADER_BYTES = 64 * 1024

export interface Service {
  readonly server: Server
  readonly running: ReadonlySet<WebtaskRequest>
}

export interface ServiceEvents {
  run(request: WebtaskRequest): void
  /** A request is over and no other is running. */
  onQuiet(): void
}

export function createService({ run, onQuiet }: ServiceEvents): Service {
  const running = new Set<WebtaskRequest>()
  const server = createServer({ maxHeaderSize: MAX_HEADER_BYTES, requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0, noDelay: false }, handle)
  // Deadlines are the gateway's business.
  server.timeout = 0

  function handle(req: IncomingMessage, res: ServerResponse): void {
    const line = lineOf(req.socket)
    const id = line && takeInvocation(req, line)
    if (!line?.circumstances || line.retired || id === undefined) return void req.socket.destroy()
    // The gateway says the date of an answer to its caller.
    res.sendDate = false
    const request: WebtaskRequest = { id, gateway: line.gateway, invocation: { ...line.circumstances, id }, req, res, answered: false }
    running.add(request)
    line.scope.request = request
    line.busy(true)
    res.once('close', () => {
      running.delete(request)
      if (line.scope.request === request) line.scope.request = undefined
      line.busy(false)
      if (running.size === 0) onQuiet()
    })
    runIn({ request }, () => run(request))
  }

  return { server, running }
}

/** Reads the gateway's word on this request, and what it changes for the line, and removes it from wherever code could find it. Returns the request's id. */
function takeInvocation(req: IncomingMessage, line: Line): string | undefined {
  const raw = req.rawHeaders
  let id: string | undefined
  for (let i = raw.length - 2; i >= 0; i -= 2) {
    if (raw[i]!.length !== INVOCATION_HEADER.length || raw[i]!.toLowerCase() !== INVOCATION_HEADER) continue
    try {
      const told = decodeInvocation(raw[i + 1]!)
      id = told.id
      if (told.changed) line.circumstances = told.changed
    } catch {
      return undefined
    }
    raw.splice(i, 2)
  }
  // Node's own checks have filled this in already. Cheap when it is the last header that was sent.
  delete req.headers[INVOCATION_HEADER]
  return id
}
