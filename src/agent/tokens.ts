/** `ctx.create_token` and `ctx.create_token_url`: code asks the platform for tokens derived from its own. */
import type { IncomingMessage } from 'node:http'
import type { WebtaskSource } from '../protocol/messages.ts'
import { byteLength, NativePromise, parse, stringify } from './natives.ts'
import type { WebtaskRequest } from './request.ts'
import type { FromThread } from './thread-messages.ts'

const MAX_OPEN_CALLS = 100
/** Largest claims, inline code included, that fit into one frame (bytes of JSON). */
const MAX_CLAIMS = 192 * 1024

type Done = (error: unknown, value?: string) => void
export interface TokenMethods {
  /** A code URL, or an object of claims. Calls back; without a callback it returns a promise. */
  create_token(urlOrClaims: unknown, done?: Done): Promise<string> | undefined
  /** The same, but gives the URL that runs the token's webtask. */
  create_token_url(urlOrClaims: unknown, done?: Done): Promise<string> | undefined
}

interface OpenCall {
  resolve(value: string): void
  reject(error: Error): void
}
const open = new Map<number, OpenCall>()
let calls = 0
let post: (message: FromThread) => void = () => {}

export function connectTokenCalls(send: (message: FromThread) => void): void {
  post = send
}

export function settleTokenCall({ call, ok, text }: { call: number; ok: boolean; text: string }): void {
  const waiting = open.get(call)
  open.delete(call)
  if (ok) waiting?.resolve(text)
  else waiting?.reject(new Error(text))
}

export function createTokenMethods(request: WebtaskRequest, source: WebtaskSource): TokenMethods {
  const create = (urlOrClaims: unknown, done?: Done) => settle(ask(request, urlOrClaims), done)
  return {
    create_token: create,
    create_token_url: (urlOrClaims, done) =>
      settle(
        ask(request, urlOrClaims).then((token) => urlOf(request, source, token)),
        done,
      ),
  }
}

async function ask(request: WebtaskRequest, urlOrClaims: unknown): Promise<string> {
  const json = stringify(typeof urlOrClaims === 'string' ? { url: urlOrClaims } : (urlOrClaims ?? null)) ?? 'null'
  if (byteLength(json) > MAX_CLAIMS) throw new RangeError(`Cannot create a token: its claims are over ${MAX_CLAIMS} bytes`)
  const claims: unknown = parse(json)
  if (typeof claims !== 'object' || claims === null || Array.isArray(claims))
    throw new TypeError('Cannot create a token: give a code URL or an object of claims')
  if (open.size >= MAX_OPEN_CALLS) throw new Error('Cannot create a token: too many requests for tokens are open')
  const call = ++calls
  const { promise, resolve, reject } = NativePromise.withResolvers<string>()
  open.set(call, { resolve, reject })
  post({ kind: 'call', call, gateway: request.gateway, request: request.id, claims: claims as Record<string, unknown> })
  return promise
}

function settle(result: Promise<string>, done: Done | undefined): Promise<string> | undefined {
  if (typeof done !== 'function') return result
  // On a fresh tick: what the callback throws is the code's failure, not a rejection of ours.
  result.then(
    (value) => process.nextTick(done, null, value),
    (error: unknown) => process.nextTick(done, error),
  )
  return undefined
}

function urlOf({ req, invocation }: WebtaskRequest, { container }: WebtaskSource, token: string): string {
  return `${invocation.platformUrl ?? originOf(req)}/api/run/${encodeURIComponent(container)}?key=${token}`
}

function originOf(req: IncomingMessage): string {
  const scheme = String(req.headers['x-forwarded-proto'] ?? 'http')
    .split(',', 1)[0]!
    .trim()
  return `${scheme}://${req.headers.host ?? 'localhost'}`
}
