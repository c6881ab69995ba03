import { createHash } from 'node:crypto'
import type { Socket } from 'node:net'
import { Client } from 'undici'
import { WebtaskError } from '../errors.ts'
import { within } from './abandon.ts'
import { judge } from './address.ts'
import { checkHead, decodeCode, redirectTarget } from './answer.ts'
import type { AnswerHead } from './answer.ts'
import { connectPinned, dialTcp } from './dial.ts'
import type { Dial } from './dial.ts'
import { definite, explain, passing } from './failure.ts'
import { createGate } from './gate.ts'
import { FETCH_LIMITS } from './limits.ts'
import type { FetchLimits } from './limits.ts'
import { createResolve, resolveSystem } from './resolve.ts'
import type { Resolve } from './resolve.ts'
import { judgeUrl } from './rules.ts'
import type { CodeTarget, EgressRules } from './rules.ts'

/** `etag` is what an earlier fetch returned: the host may then answer that nothing changed. `maxBytes` is capped by `bodyBytesCeiling`. */
export type CodeRequest = {
  readonly url: string
  readonly etag?: string | undefined
  readonly maxBytes?: number | undefined
  readonly signal?: AbortSignal | undefined
}

/** `sha256` is hex, over the UTF-8 bytes of `code`, which are the bytes of the wire (a byte order mark stays). */
export type FetchedCode =
  | { readonly status: 'fetched'; readonly code: string; readonly etag: string | null; readonly sha256: string }
  | { readonly status: 'unchanged' }

/**
 * Fetches the code of a webtask. Throws a WebtaskError: `bad_request` for a URL that breaks a rule, `code_unavailable` saying what was wrong
 * with the host or its answer (with `retryAfterSeconds` when it may pass), `unavailable` when too many fetches wait; or the signal's reason.
 */
export type FetchCode = (request: CodeRequest) => Promise<FetchedCode>

export type FetcherOptions = {
  readonly rules: EgressRules
  /** Looks up names of the public internet. */
  readonly resolve?: Resolve
  readonly dial?: Dial
  readonly limits?: Partial<FetchLimits>
  /** Certificate authorities (PEM) instead of the system's. */
  readonly ca?: string
}

type Hop = { readonly target: CodeTarget; readonly request: CodeRequest; readonly maxBytes: number; readonly signal: AbortSignal }

/** Makes the fetcher of the egress role. Each fetch opens its own connection to an address judged for it; nothing is kept between fetches. */
export function createCodeFetcher(options: FetcherOptions): FetchCode {
  const limits: FetchLimits = { ...FETCH_LIMITS, ...options.limits }
  const resolve = options.resolve ?? createResolve()
  const dial = options.dial ?? dialTcp
  const full = () => new WebtaskError('unavailable', 'Too many fetches of code wait', { retryAfterSeconds: limits.retryAfterSeconds })
  const hostGate = createGate({ atOnce: limits.perHost, waiting: limits.perHostWaiting, full })
  const wholeGate = createGate({ atOnce: limits.atOnce, waiting: limits.atOnceWaiting, full })

  /** The addresses to connect to, every one of them judged: one that is not public refuses the host, because DNS may give another order next time. */
  async function addressesOf(target: CodeTarget, parent: AbortSignal): Promise<readonly string[]> {
    const { host } = target
    const expired = () => passing(host, 'its name could not be looked up in time')
    const find = target.allowed ? resolveSystem : resolve
    const found = await within({ ms: limits.lookupMs, parent, expired }, async (signal) => {
      try {
        return await find(host, signal)
      } catch (cause) {
        throw passing(host, 'its name could not be looked up', cause)
      }
    })
    if (found.length === 0) throw passing(host, 'there is no host of this name')
    if (found.length > limits.addresses) throw definite(host, 'its name has too many addresses')
    if (!target.allowed && found.some((address) => judge(address) !== 'public')) throw definite(host, 'its address is not public')
    // IPv4 first: a machine without an IPv6 route is common, and one of these without IPv4 fails at once.
    return found.toSorted((a, b) => Number(a.includes(':')) - Number(b.includes(':')))
  }

  function connect(target: CodeTarget, addresses: readonly string[], parent: AbortSignal): Promise<Socket> {
    const expired = () => passing(target.host, `it did not accept the connection within ${limits.connectMs} ms`)
    return within({ ms: limits.connectMs, parent, expired }, (signal) =>
      connectPinned(target, { addresses, ms: limits.connectMs, dial, ca: options.ca, signal }),
    )
  }

  /** An HTTP/1.1 client of one connection, the judged one: undici never makes another. */
  function clientOver(socket: Socket, origin: string): Client {
    let taken = false
    return new Client(origin, {
      allowH2: false,
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      maxHeaderSize: limits.headerBytes,
      connect(_options, done) {
        const again = taken
        taken = true
        // undici expects to hear of it later, not within the call.
        setImmediate(() => (again ? done(new Error('Connection closed'), null) : done(null, socket)))
      },
    })
  }

  /** Asks one host, once. */
  async function ask(hop: Hop): Promise<FetchedCode | { status: 'redirected'; target: CodeTarget }> {
    const { target, request, signal } = hop
    using _hostTurn = await hostGate.enter(target.host, signal)
    using _turn = await wholeGate.enter('', signal)
    const socket = await connect(target, await addressesOf(target, signal), signal)
    const client = clientOver(socket, target.url.origin)
    try {
      const expired = () => passing(target.host, `it did not begin to answer within ${limits.firstByteMs} ms`)
      const answer = await within({ ms: limits.firstByteMs, parent: signal, expired }, async (stage) => {
        const conditional = request.etag === undefined ? {} : { 'if-none-match': request.etag }
        const headers = { accept: '*/*', 'accept-encoding': 'identity', 'user-agent': 'webtask-runtime', ...conditional }
        const begun = await client.request({ method: 'GET', path: target.url.pathname + target.url.search, headers, signal: stage })
        // A body that is not read to its end fails when the client is destroyed, with nobody to tell.
        begun.body.on('error', () => {})
        return begun
      })
      const redirected = redirectTarget(target, answer, options.rules)
      if (redirected !== undefined) return { status: 'redirected', target: redirected }
      const head = checkHead(target, answer, { maxBytes: hop.maxBytes, conditional: request.etag !== undefined })
      return head.changed ? await receive(hop, answer.body, head) : { status: 'unchanged' }
    } finally {
      socket.destroy()
      await client.destroy()
    }
  }

  return async function fetchCode(request) {
    const first = judgeUrl(request.url, options.rules)
    if ('refused' in first) throw new WebtaskError('bad_request', `Cannot fetch code from this URL: ${first.message}`)
    const maxBytes = Math.min(request.maxBytes ?? limits.bodyBytes, limits.bodyBytesCeiling)
    const parent = request.signal ?? new AbortController().signal
    let target = first
    const expired = () => passing(target.host, `it did not finish within ${limits.totalMs} ms`)
    return within({ ms: limits.totalMs, parent, expired }, async (signal) => {
      try {
        for (let hops = 0; hops <= limits.redirects; hops += 1) {
          const outcome = await ask({ target, request, maxBytes, signal })
          if (outcome.status !== 'redirected') return outcome
          target = outcome.target
        }
      } catch (error) {
        throw signal.aborted || error instanceof WebtaskError ? error : explain(target.host, error)
      }
      throw definite(first.host, `it redirects more than ${limits.redirects} times`)
    })
  }
}

async function receive(hop: Hop, body: AsyncIterable<Buffer>, head: AnswerHead): Promise<FetchedCode> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of body) {
    bytes += chunk.length
    if (bytes > hop.maxBytes) throw definite(hop.target.host, `the code is larger than ${hop.maxBytes} bytes`)
    chunks.push(chunk)
  }
  const wire = Buffer.concat(chunks)
  const sha256 = createHash('sha256').update(wire).digest('hex')
  return { status: 'fetched', code: decodeCode(hop.target, wire), etag: head.etag, sha256 }
}
