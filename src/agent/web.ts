/** Bridges Node's request and response to the web's `Request` and `Response`, streaming both ways. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { queryOf, stripBase, stripPlatformParameters } from './address.ts'
import { answerFailure, claimAnswer } from './answer.ts'
import { hasBody } from './body.ts'
import type { WebtaskContext } from './context.ts'
import { keepAlive } from './background.ts'
import { logLine } from './capture.ts'
import { NativePromise } from './natives.ts'
import type { WebtaskRequest } from './request.ts'
import type { FetchHandler } from './webtask.ts'

/** Judged by shape: the code may have brought its own `Response`. */
export function isResponse(value: unknown): value is Response {
  return typeof value === 'object' && value !== null && Object.prototype.toString.call(value) === '[object Response]' && 'headers' in value
}

export async function runFetch(handler: FetchHandler, request: WebtaskRequest, context: WebtaskContext): Promise<void> {
  try {
    const response = await handler.fetch(toWebRequest(request), { ...context.params, ...context.secrets }, createFetchContext(context))
    if (!isResponse(response)) throw new TypeError('The fetch function must return a Response')
    await sendResponse(request, response)
  } catch (error) {
    answerFailure(request, 'threw', error)
  }
}

function createFetchContext(context: WebtaskContext): Record<string, unknown> {
  return { ...context, waitUntil: keepAlive, passThroughOnException() {}, props: {} }
}

function toWebRequest(request: WebtaskRequest): Request {
  const { req, res } = request
  const headers = new Headers()
  for (let i = 0; i < req.rawHeaders.length; i += 2) headers.append(req.rawHeaders[i]!, req.rawHeaders[i + 1]!)
  const controller = new AbortController()
  res.once('close', () => {
    if (!res.writableFinished) controller.abort(new DOMException('The caller is gone', 'AbortError'))
  })
  const method = req.method!
  const body = method === 'GET' || method === 'HEAD' || !hasBody(req) ? undefined : toWebStream(req)
  return new Request(webUrlOf(request), { method, headers, signal: controller.signal, ...(body ? { body, duplex: 'half' as const } : {}) })
}

function webUrlOf({ req, invocation }: WebtaskRequest): URL {
  const path = stripBase(req.url!, invocation)
  const query = stripPlatformParameters(queryOf(path))
  const scheme = String(req.headers['x-forwarded-proto'] ?? 'http')
    .split(',', 1)[0]!
    .trim()
  const target = path.split('?', 1)[0]! + (query === '' ? '' : `?${query}`)
  const origin = URL.parse(`${scheme}://${req.headers.host ?? 'localhost'}`) ?? new URL('http://localhost')
  // Joined as text: a path of `//host` must not be read as another host.
  return new URL(`${origin.origin}${target}`)
}

/** Cancelling lets the rest of the body flow away: destroying the request would take the response with it. */
function toWebStream(req: IncomingMessage): ReadableStream<Uint8Array> {
  let over = false
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        req.pause()
        req.on('data', (chunk: Buffer) => {
          if (over) return
          controller.enqueue(new Uint8Array(chunk))
          if ((controller.desiredSize ?? 0) <= 0) req.pause()
        })
        req.on('end', () => {
          if (!over) controller.close()
          over = true
        })
        const fail = () => {
          if (!over) controller.error(new DOMException('The caller is gone', 'AbortError'))
          over = true
        }
        req.on('error', fail)
        req.on('close', fail)
      },
      pull: () => void req.resume(),
      cancel() {
        over = true
        req.resume()
      },
    },
    { highWaterMark: 64 * 1024, size: (chunk) => chunk?.byteLength ?? 0 },
  )
}

/** Writes a web response; a body that fails half-way breaks the connection, which is the only honest end left. */
export async function sendResponse(request: WebtaskRequest, response: Response): Promise<void> {
  const { res } = request
  if (response.status < 200 || response.status > 599) throw new RangeError(`A response with status ${response.status} cannot be sent`)
  if (!claimAnswer(request)) return void response.body?.cancel().catch(() => {})
  try {
    writeHead(res, response)
    const hasNoBody = request.req.method === 'HEAD' || response.status === 204 || response.status === 304
    if (hasNoBody) await response.body?.cancel()
    else if (response.body) await pump(response.body, res)
    res.end()
  } catch (error) {
    if (res.headersSent) {
      logLine('error', `The response body failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
      res.destroy()
      return
    }
    request.answered = false
    throw error
  }
}

function writeHead(res: ServerResponse, response: Response): void {
  res.statusCode = response.status
  if (response.statusText) res.statusMessage = response.statusText
  for (const [name, value] of response.headers) if (name !== 'set-cookie') res.setHeader(name, value)
  const cookies = response.headers.getSetCookie()
  if (cookies.length > 0) res.setHeader('set-cookie', cookies)
}

async function pump(body: ReadableStream<Uint8Array>, res: ServerResponse): Promise<void> {
  const reader = body.getReader()
  // A body that never ends must hear at once that its reader is gone, also while nothing is being written.
  const left = NativePromise.withResolvers<void>()
  res.once('close', () => {
    left.resolve()
    reader.cancel(new DOMException('The caller is gone', 'AbortError')).catch(() => {})
  })
  for (;;) {
    const { done, value } = await reader.read()
    if (done || res.destroyed) return
    if (!res.write(value)) await NativePromise.race([drained(res), left.promise])
  }
}

const drained = (res: ServerResponse): Promise<void> => new NativePromise((resolve) => void res.once('drain', resolve))
