import { writeFile } from 'node:fs/promises'
import { createServer, STATUS_CODES, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { Server as NetServer, type AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { getRequestListener, RequestError } from '@hono/node-server'
import { WebtaskError } from '../errors.ts'
import { createConnections } from './connections.ts'
import { sendProblem, toProblem, type Problem } from './problem.ts'

/** Longest a caller may take to send a request's headers (ms); bodies are bounded by the invocation's own deadline. */
const HEADERS_TIMEOUT_MS = 15_000
const KEEP_ALIVE_MS = 65_000
/** How often connections are looked at for headers that do not arrive (ms). */
const LOOK_MS = 5_000
/** What is left of a body may still come for so long after its answer (ms); then the connection goes, and with it whoever only held it. */
const LEFTOVER_MS = 5_000
const MAX_HEADERS = 200

export interface ListeningServer extends AsyncDisposable {
  readonly port: number
  /**
   * No new connections; resolves when the running requests have ended, or after `ms`. Callers hear with their next answer that the
   * connection closes, and one that is quiet is closed only after a moment, so that no request meets a closing connection.
   */
  drain(ms: number): Promise<void>
}

export interface ListenOptions {
  readonly host: string
  readonly port: number
  /** Share the port with others that ask for it. */
  readonly reusePort?: boolean
  readonly headerMaxBytes: number
  readonly newRequestId: () => string
}

/** A Hono app on a port. Rejects with a message that says what to do when the port is taken. */
export async function listenHttp(
  app: { fetch(request: Request, env: unknown): Response | Promise<Response> },
  options: ListenOptions,
): Promise<ListeningServer> {
  const { newRequestId } = options
  const listener = getRequestListener((request, env) => app.fetch(request, env), {
    overrideGlobalObjects: false,
    // HTTP/1.0 needs no Host.
    hostname: 'localhost',
    errorHandler: (error) => unreadable(error, newRequestId()),
  })
  // Node itself would answer a missing Host and an unknown expectation without a body.
  const limits = {
    maxHeaderSize: options.headerMaxBytes,
    requestTimeout: 0,
    headersTimeout: HEADERS_TIMEOUT_MS,
    connectionsCheckingInterval: LOOK_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    requireHostHeader: false,
  }
  const connections = createConnections()
  const server = createServer(limits, (incoming, outgoing) => {
    connections.answering(incoming.socket, outgoing)
    if (incoming.httpVersionMajor < 1) return answer(outgoing, 'HTTP/0.9 is not spoken here')
    const hosts = incoming.headersDistinct.host?.length ?? 0
    if (hosts > 1) return answer(outgoing, 'There is more than one Host header')
    if (hosts === 0 && incoming.httpVersion === '1.1') return answer(outgoing, 'The Host header is missing')
    incoming.url = pathOf(incoming.url ?? '/')
    if (incoming.headers['content-length'] !== undefined || incoming.headers['transfer-encoding'] !== undefined)
      outgoing.once('finish', () => {
        if (!incoming.complete) setTimeout(() => incoming.complete || incoming.socket.destroy(), LEFTOVER_MS).unref()
      })
    void listener(incoming, outgoing)
  })
  server.maxHeadersCount = MAX_HEADERS
  server.on('connection', connections.opened)
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code === 'ECONNRESET') socket.destroy()
    else refuse(socket, toProblem(meaningOf(error), newRequestId()))
  })
  server.on('checkExpectation', (incoming: IncomingMessage, outgoing: ServerResponse) =>
    answer(outgoing, `Cannot meet the expectation "${incoming.headers.expect}"`),
  )
  server.on('connect', (_incoming, socket) =>
    refuse(socket, toProblem(new WebtaskError('method_not_allowed', 'CONNECT is not allowed: this is no proxy'), newRequestId())),
  )

  function answer(outgoing: ServerResponse, message: string): void {
    sendProblem(outgoing, toProblem(new WebtaskError('bad_request', message), newRequestId()))
  }

  if (options.reusePort === true) await handOverUnaccepted()
  await listening(server, options)
  const { port } = server.address() as AddressInfo

  async function drain(ms: number): Promise<void> {
    // Not the HTTP server's own: that would close quiet connections at once, whatever is on its way on them.
    const closed = new Promise<void>((resolve) => void NetServer.prototype.close.call(server, () => resolve()))
    using closing = connections.close()
    void closing
    const late = setTimeout(() => server.closeAllConnections(), ms)
    await closed
    clearTimeout(late)
  }
  return { port, drain, [Symbol.asyncDispose]: () => drain(0) }
}

/** A request target as a path with its query. Clients configured with a trailing slash send `//api/…`, and proxies the whole URL. */
function pathOf(target: string): string {
  if (target.startsWith('/') && target[1] !== '/') return target
  const path = target.replace(/^https?:\/\/[^/?]*/i, '').replace(/^\/+/, '/')
  return path.startsWith('/') ? path : `/${path}`
}

/**
 * Connections that wait to be accepted when a listener closes go to another one of the port, instead of being reset: Linux 5.14 and newer,
 * where it may be set. Elsewhere a caller that connects at that very moment can lose its connection.
 */
async function handOverUnaccepted(): Promise<void> {
  await writeFile('/proc/sys/net/ipv4/tcp_migrate_req', '1').catch(() => {})
}

function listening(server: Server, { host, port, reusePort = false }: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE')
        reject(new Error(`Port ${port} on ${host} is taken: stop what uses it, or choose another with WEBTASK_PORT or WEBTASK_ADMIN_PORT`))
      else reject(new Error(`Cannot listen on ${host}:${port}: ${error.message}`))
    })
    server.listen({ port, host, reusePort }, resolve)
  })
}

/** What could not become a request, in the form of every other refusal. */
function unreadable(error: unknown, requestId: string): Response {
  const reason = error instanceof RequestError ? new WebtaskError('bad_request', `This is not a valid HTTP request: ${error.message}`) : error
  const { status, headers, body } = toProblem(reason, requestId)
  return new Response(body, { status, headers })
}

function meaningOf(error: NodeJS.ErrnoException): WebtaskError {
  if (error.code === 'HPE_HEADER_OVERFLOW') return new WebtaskError('header_too_large', 'The request line and headers are over the limit')
  return new WebtaskError(
    'bad_request',
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 'The request headers took too long to arrive' : 'This is not a valid HTTP request',
  )
}

/** Answers on a connection that has no response object, and closes it. */
function refuse(socket: Duplex, { status, headers, body }: Problem): void {
  if (!socket.writable) return void socket.destroy()
  const lines = Object.entries({ ...headers, 'content-length': String(Buffer.byteLength(body)), connection: 'close' }).map(
    ([name, value]) => `${name}: ${value}\r\n`,
  )
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`)
}
