import { once } from 'node:events'
import { chmod, lstat, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { connect, type Socket } from 'node:net'
import { z } from 'zod'
import { WebtaskError } from '../errors.ts'
import type { Log } from '../log.ts'
import { ETAG } from './answer.ts'
import { ATTACHMENTS_PATH, ATTACHMENTS_PROTOCOL } from './attachments.ts'
import { createCodeFetcher } from './fetch-code.ts'
import type { FetchCode } from './fetch-code.ts'
import { FETCH_LIMITS } from './limits.ts'
import type { RelayService } from './relay-service.ts'
import type { EgressRules } from './rules.ts'

/** A URL of 2048 characters takes at most six bytes for each in JSON. */
const REQUEST_MAX_BYTES = 16_384

const codeRequest = z.strictObject({
  url: z.string().min(1),
  etag: z.string().regex(ETAG).optional(),
  maxBytes: z.int().min(1).max(FETCH_LIMITS.bodyBytesCeiling).optional(),
})

export type EgressServer = AsyncDisposable & { readonly socketPath: string }

export type EgressOptions = {
  readonly socketPath: string
  readonly rules: EgressRules
  readonly log?: Pick<Log, 'info' | 'warn'> | undefined
  /** Lets sandboxes out; without it no gateway can attach any. */
  readonly relays?: RelayService | undefined
  /** Stands in for the real fetcher, in tests. */
  readonly fetchCode?: FetchCode
}

/**
 * The egress role: answers `POST /code {url, etag?, maxBytes?}` on a unix socket with 200 `{code, etag, sha256}`, 304, or the
 * error's status and `{code, message, retryAfterSeconds?}`; and takes the gateways' connections about sandboxes (`attachments.ts`). Takes over the socket of a dead process; rejects if a live one listens there.
 */
export async function listenEgress(options: EgressOptions): Promise<EgressServer> {
  const { socketPath, log } = options
  const fetchCode = options.fetchCode ?? createCodeFetcher({ rules: options.rules })
  await removeStale(socketPath)
  const server = createServer({ maxHeaderSize: 8192, headersTimeout: 5000, requestTimeout: 5000, keepAliveTimeout: 60_000 }, (request, response) => {
    answer(request, response).catch((error: unknown) => fail(request, response, error))
  })
  const upgraded = new Set<Socket>()
  server.on('upgrade', (request, socket, head) => {
    const wanted = request.url === ATTACHMENTS_PATH && request.headers.upgrade === ATTACHMENTS_PROTOCOL
    if (!wanted || options.relays === undefined) return void socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n')
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ${ATTACHMENTS_PROTOCOL}\r\n\r\n`)
    upgraded.add(socket as Socket)
    socket.once('close', () => upgraded.delete(socket as Socket))
    options.relays.accept(socket as Socket, head)
  })
  server.listen(socketPath)
  await once(server, 'listening')
  // The gateway may be another user; that nobody else comes here is the matter of the directories above.
  await chmod(socketPath, 0o666)

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.url !== '/code') throw new WebtaskError('not_found', `Cannot serve "${request.url}": the egress role knows /code only`)
    if (request.method !== 'POST') throw new WebtaskError('method_not_allowed', `Cannot serve ${request.method}: /code takes POST`)
    const asked = parse(await readBody(request))
    const left = new AbortController()
    response.once('close', () => left.abort(new WebtaskError('unavailable', 'The caller left')))
    const started = performance.now()
    const report = (outcome: string, bytes: number) =>
      log?.info({ outcome, host: URL.parse(asked.url)?.host, bytes, ms: Math.round(performance.now() - started) }, 'code.fetched')
    try {
      const fetched = await fetchCode({ ...asked, signal: left.signal })
      report(fetched.status, fetched.status === 'fetched' ? Buffer.byteLength(fetched.code) : 0)
      if (fetched.status === 'unchanged') response.writeHead(304).end()
      else send(response, 200, { code: fetched.code, etag: fetched.etag, sha256: fetched.sha256 })
    } catch (error) {
      report(error instanceof WebtaskError ? error.code : 'internal', 0)
      throw error
    }
  }

  function fail(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    if (!(error instanceof WebtaskError)) log?.warn({ err: error }, 'platform.failed')
    const known = error instanceof WebtaskError ? error : new WebtaskError('internal', 'The egress role failed')
    // What is left of the request is not worth reading.
    if (!request.complete) response.setHeader('connection', 'close')
    send(response, known.status, { code: known.code, message: known.message, retryAfterSeconds: known.retryAfterSeconds })
  }

  return {
    socketPath,
    async [Symbol.asyncDispose]() {
      if (!server.listening) return
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      for (const socket of upgraded) socket.destroy()
      await closed
    },
  }
}

function parse(body: string): z.infer<typeof codeRequest> {
  try {
    return codeRequest.parse(JSON.parse(body))
  } catch (cause) {
    throw new WebtaskError('bad_request', 'Cannot read the request: it must be {url, etag?, maxBytes?} in JSON', { cause })
  }
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request) {
    bytes += chunk.length
    if (bytes > REQUEST_MAX_BYTES) throw new WebtaskError('body_too_large', `Cannot read the request: it is larger than ${REQUEST_MAX_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function send(response: ServerResponse, status: number, body: object): void {
  if (response.headersSent || response.destroyed) return
  const text = JSON.stringify(body)
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }).end(text)
}

async function removeStale(socketPath: string): Promise<void> {
  const found = await lstat(socketPath).catch(() => undefined)
  if (found === undefined) return
  if (!found.isSocket()) throw new Error(`Cannot listen on "${socketPath}": something else than a socket is there`)
  if (await answers(socketPath)) throw new Error(`Cannot listen on "${socketPath}": another egress listens there`)
  await rm(socketPath, { force: true })
}

async function answers(socketPath: string): Promise<boolean> {
  const socket = connect(socketPath)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
