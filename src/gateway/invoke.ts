import type { IncomingMessage, ServerResponse } from 'node:http'
import { setImmediate } from 'node:timers/promises'
import type { Config } from '../config.ts'
import { WebtaskError } from '../errors.ts'
import { type Circumstances, encodeInvocation, INVOCATION_HEADER, sameCircumstances } from '../protocol/invocation.ts'
import { SandboxLost, WebtaskRefused } from '../sandbox/loads.ts'
import type { Lease, Pool } from '../sandbox/pool.ts'
import { WorkerGone, type WorkerConnection, type WorkerLink } from '../sandbox/worker-link.ts'
import { allowOrigin } from './cors.ts'
import { endedError, isBadResponse } from './ended.ts'
import { ConnectionRetired, forward, type Forwarded } from './forward.ts'
import { requestHeaders } from './headers.ts'
import type { Invocations } from './invocations.ts'
import { loadWorker } from './load-worker.ts'
import { refusedProblem, sendProblem, toProblem } from './problem.ts'
import { parseHostPath, parseRunPath, withoutKey, type RunPath } from './run-path.ts'
import type { Target } from './target.ts'
import type { TenantHost } from './tenant-host.ts'
import type { WayOutClient } from './way-out.ts'

export interface InvokeOptions {
  readonly config: Config
  readonly pool: Pool
  readonly targets: (incoming: IncomingMessage, path: RunPath) => Promise<Target>
  readonly invocations: Invocations
  /** Undefined where webtasks have no way out. */
  readonly wayOut: WayOutClient | undefined
  /** Where callers reach the platform's own routes. */
  readonly publicUrl: () => string
}

/** Runs one request; `host` is the tenant's own where the request came there. */
export type Invoke = (incoming: IncomingMessage, outgoing: ServerResponse, requestId: string, host?: TenantHost) => Promise<void>

/** Requests that were running beside one that timed out may finish within this (ms). */
const TIMEOUT_GRACE_MS = 1_000
/** How long a broken request waits to learn why: the engine tells of a killed container a moment later (ms). */
const CAUSE_WAIT_MS = 1_500
/** A request that reached nobody tries another worker this often. */
const ATTEMPTS = 3

/** The first of these that is known in time. */
async function within<T>(...words: readonly Promise<T>[]): Promise<T | undefined> {
  const silence = Promise.withResolvers<undefined>()
  const timer = setTimeout(silence.resolve, CAUSE_WAIT_MS, undefined)
  try {
    return await Promise.race([...words, silence.promise])
  } finally {
    clearTimeout(timer)
  }
}

const NOTHING: ReadonlySet<string> = new Set()
/** The scheme of the caller's URL as a proxy before us tells it; anything else would end up in the URLs that code builds. */
function forwardedProto({ headers }: IncomingMessage): 'http' | 'https' {
  const told = headers['x-forwarded-proto']
  return told !== undefined && /^https\b/i.test(String(told)) ? 'https' : 'http'
}

/** What the webtask does not get of a request, by whose it is: where tenants share an origin, cookies are nobody's. */
const SHARED: ReadonlySet<string> = new Set(['cookie'])
const OUR_CREDENTIALS: ReadonlySet<string> = new Set(['cookie', 'authorization'])
const OUR_BODY: ReadonlySet<string> = new Set(['cookie', 'authorization', 'content-length', 'content-type', 'content-encoding'])

function droppedFrom({ host }: RunPath, target: Target): ReadonlySet<string> {
  if (host !== undefined) return NOTHING
  if (target.bodyIsCode) return OUR_BODY
  return target.credentialsAreOurs ? OUR_CREDENTIALS : SHARED
}

/** What the worker was not told before on this connection. */
function changedOn(connection: WorkerConnection, circumstances: Circumstances): Circumstances | undefined {
  if (connection.said !== undefined && sameCircumstances(connection.said, circumstances)) return undefined
  connection.said = circumstances
  return circumstances
}

/** Runs one webtask request: from the raw request to the end of the answer. Never throws; every failure is an answer. */
export function createInvoke(options: InvokeOptions): Invoke {
  const { config, pool, targets, invocations } = options

  function headersFor(
    incoming: IncomingMessage,
    about: { target: Target; path: RunPath; requestId: string; connection: WorkerConnection },
  ): string[] {
    const { target, path, connection } = about
    const headers = requestHeaders(incoming.rawHeaders, droppedFrom(path, target))
    const changed = changedOn(connection, {
      base: path.base,
      format: path.host === undefined ? 1 : 3,
      platformUrl: path.host === undefined ? undefined : options.publicUrl(),
      // A named webtask's worker was loaded with its token.
      token: path.name === undefined && target.token !== null ? target.token : undefined,
      parseBody: path.query.parseBody,
      mergeBody: path.query.mergeBody,
    })
    headers.push(INVOCATION_HEADER, encodeInvocation(about.requestId, changed), 'x-forwarded-proto', forwardedProto(incoming))
    return headers
  }

  /** Why a request that had reached its worker got no answer. */
  async function causeOf(broken: Extract<Forwarded, { kind: 'broken' }>, lease: Lease, worker: WorkerLink): Promise<WebtaskError> {
    if (isBadResponse(broken.error))
      return new WebtaskError(
        'response_invalid',
        `The webtask sent a response that is not valid HTTP or whose headers are over ${config.WEBTASK_RESPONSE_HEADER_BYTES} bytes`,
        {
          cause: broken.error,
        },
      )
    const end = await within(
      worker.gone.then((how) => (how === 'memory' ? 'heap' : (how ?? lease.link.ended))),
      lease.link.ended,
    )
    return endedError(end, config)
  }

  return async (incoming, outgoing, requestId, host) => {
    const record = invocations.begin(requestId)
    let leaving: AbortController | undefined
    /** A signal of the caller's leaving, made only when something has to wait. */
    const left = () => {
      if (leaving === undefined) {
        leaving = new AbortController()
        const abort = () => {
          if (!outgoing.writableEnded) leaving!.abort(new WebtaskError('bad_request', 'The caller left'))
        }
        if (outgoing.destroyed) abort()
        else outgoing.once('close', abort)
      }
      return leaving.signal
    }
    try {
      const path = host === undefined ? parseRunPath(incoming.url ?? '/') : parseHostPath(incoming.url ?? '/', host)
      record.tenant = path.tenant
      record.name = path.name
      // Its scope would be the folder of its URL, and so the pages of every tenant, for as long as the browser keeps it.
      if (host === undefined && incoming.headers['service-worker'] !== undefined)
        throw new WebtaskError('forbidden', 'A service worker cannot come from the origin that tenants share: it would rule the pages of all of them')
      const target = await targets(incoming, path)
      record.mark('auth')
      for (let attempt = 1; ; attempt += 1) {
        const acquired = pool.acquire({ tenant: path.tenant, webtask: target.key, token: target.tokenId }, left)
        using lease = acquired instanceof Promise ? await acquired : acquired
        record.mark('acquire')
        const result = await attemptOn(lease, { incoming, outgoing, requestId, path, host, target, left, record })
        if (result === 'finished') return
        if (attempt < ATTEMPTS) {
          // A worker that shrinks hangs up on many at once: first let the others of them be noticed.
          await setImmediate()
          continue
        }
        // No worker retires that often: it is the code that says so.
        if (result instanceof ConnectionRetired)
          throw new WebtaskError('response_invalid', 'The webtask kept refusing its connections', { cause: result })
        throw new WebtaskError('unavailable', 'The sandbox kept losing its connections', { retryAfterSeconds: 1, cause: result })
      }
    } catch (error) {
      record.fail(error)
      const problem = error instanceof WebtaskRefused ? refusedProblem(error.failure, requestId) : toProblem(error, requestId)
      const { origin } = incoming.headers
      sendProblem(outgoing, origin === undefined ? problem : { ...problem, headers: { ...problem.headers, ...allowOrigin(origin, host) } })
    } finally {
      record.end(outgoing.statusCode)
    }
  }

  /** One try: 'finished', or the error that kept the request from reaching any worker. Throws what the caller must hear. */
  async function attemptOn(
    lease: Lease,
    request: {
      incoming: IncomingMessage
      outgoing: ServerResponse
      requestId: string
      path: RunPath
      host: TenantHost | undefined
      target: Target
      left: () => AbortSignal
      record: ReturnType<Invocations['begin']>
    },
  ): Promise<'finished' | Error> {
    const { incoming, outgoing, path, target, record } = request
    let worker: WorkerLink
    let connection: WorkerConnection
    try {
      worker = lease.link.worker(target.key) ?? (await loadWorker(lease.link, target, options.wayOut))
      record.mark('load')
      const connecting = worker.connect(() => AbortSignal.any([request.left(), AbortSignal.timeout(config.WEBTASK_INVOCATION_MS)]))
      connection = connecting instanceof Promise ? await connecting : connecting
    } catch (error) {
      if (error instanceof WorkerGone) return error
      if (error instanceof SandboxLost) {
        const end = await within(lease.link.ended)
        // Loading this very code may be what killed it: then another sandbox would only die too.
        if (end === 'memory' || end === 'crash' || end === 'timeout') throw endedError(end, config)
        return error
      }
      if ((error as Error).name === 'TimeoutError')
        throw new WebtaskError('invocation_timeout', `The webtask was busy with other requests for ${config.WEBTASK_INVOCATION_MS} ms`)
      throw error
    }
    const { headers: sent } = incoming
    const { origin } = sent
    const hasBody = !target.bodyIsCode && (sent['transfer-encoding'] !== undefined || (sent['content-length'] ?? '0') !== '0')
    connection.running = { id: request.requestId, token: target.token }
    const result = await forward({
      connection,
      incoming,
      outgoing,
      method: incoming.method ?? 'GET',
      path: target.credentialsAreOurs ? withoutKey(incoming.url ?? '/') : (incoming.url ?? '/'),
      headers: headersFor(incoming, { target, path, requestId: request.requestId, connection }),
      host: path.host,
      hasBody,
      bodyMaxBytes: config.WEBTASK_BODY_BYTES,
      responseMaxBytes: config.WEBTASK_RESPONSE_BYTES,
      idleMs: config.WEBTASK_INVOCATION_MS,
      totalMs: config.WEBTASK_STREAM_MS,
      extraHeaders: (allowsOrigin) =>
        origin === undefined || allowsOrigin
          ? ['x-request-id', request.requestId]
          : ['x-request-id', request.requestId, ...Object.entries(allowOrigin(origin, request.host)).flat()],
    })
    record.bytes(result.bytesIn, result.bytesOut)
    switch (result.kind) {
      case 'done':
        record.outcome(result.outcome)
        return 'finished'
      case 'left':
        record.outcome('left')
        return 'finished'
      case 'body_too_large':
        throw new WebtaskError('body_too_large', `Request body size exceeds ${config.WEBTASK_BODY_BYTES} bytes`)
      case 'response_too_large':
        throw new WebtaskError('response_too_large', `The webtask answered with more than ${config.WEBTASK_RESPONSE_BYTES} bytes`)
      case 'stalled':
        lease.link.endWorker(worker, TIMEOUT_GRACE_MS)
        throw new WebtaskError('invocation_timeout', `The webtask made no progress for ${config.WEBTASK_INVOCATION_MS} ms; it was stopped`)
      case 'too_long':
        lease.link.endWorker(worker, TIMEOUT_GRACE_MS)
        throw new WebtaskError('invocation_timeout', `The webtask streamed for ${config.WEBTASK_STREAM_MS} ms, the most it may; it was stopped`)
      case 'unsendable':
        throw new WebtaskError('bad_request', `The request cannot be passed on: ${result.error.message}`)
      case 'broken':
        if (!result.reached && !hasBody) return result.error
        if (!result.reached)
          throw new WebtaskError('unavailable', 'The sandbox closed the connection as the request was sent; nothing was run', {
            retryAfterSeconds: 1,
            cause: result.error,
          })
        throw await causeOf(result, lease, worker)
    }
  }
}
