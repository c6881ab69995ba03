/**
 * What gateway and agent say to each other over the rendezvous sockets.
 *
 * The agent dials every `*.sock` in its read-only rendezvous directory. The first thing on each connection is one
 * hello frame. A *control* connection then carries frames both ways for as long as the sandbox lives. A *worker*
 * connection carries no more frames: the gateway speaks HTTP/1.1 on it as the client, one request at a time, and
 * the worker thread answers.
 *
 * The agent shares its process with tenant code, so everything it says is a claim by the tenant about itself:
 * parsed by the guards below, bounded, and never believed about anybody else.
 */

export const PROTOCOL_VERSION = 1
/** Where the rendezvous directory is mounted in the sandbox. */
export const RENDEZVOUS_DIR = '/run/wt'

/** Everything a worker needs to run one webtask. Sent once per worker; secrets live only in that worker's memory. */
export interface WebtaskSource {
  /** The tenant's name on the wire. */
  readonly container: string
  /** The webtask's name (`jtn`), null when unnamed. */
  readonly name: string | null
  readonly code: string
  /** Where the code came from, for stack traces and as a hint of its language; null for inline code. */
  readonly url: string | null
  /** Decrypted `ectx`. Values are strings, or JSON objects where a client nested them; placeholders where a secret is bound to hosts. */
  readonly secrets: Readonly<Record<string, unknown>>
  /** `pctx` */
  readonly params: Readonly<Record<string, unknown>>
  readonly meta: Readonly<Record<string, string>>
  /** `pb`: 0 never, 1 always, 2 when the function's arity is 1 or 2. */
  readonly parseBody: 0 | 1 | 2
  /** `mb`: merge the parsed body into `ctx.data`. */
  readonly mergeBody: boolean
  /** The token, when code run by it may see it (`ctx.token`); null otherwise. */
  readonly token: string | null
  /** There where secrets are bound to hosts: under what id, and the certificate (PEM) that the egress role shows for those hosts. */
  readonly bound?: { readonly id: string; readonly certificate: string }
}

/** Limits of one worker, in one place so that gateway and agent agree. */
export interface WorkerLimits {
  /** V8 old generation of the worker (MiB). */
  readonly heapMib: number
  /** Most connections, hence simultaneous requests, of the worker. */
  readonly connections: number
  /** Largest request body that is parsed for the code (bytes); streaming bodies are bounded by the gateway. */
  readonly parsedBodyBytes: number
  /** Output lines a second that reach the log; the rest is counted and dropped. */
  readonly logLinesPerSecond: number
}

/** `run` tells the incarnations of one worker apart: a late word about a dead one must not hit its successor. */
export type ToAgent =
  | { readonly kind: 'load'; readonly worker: string; readonly source: WebtaskSource; readonly limits: WorkerLimits }
  /** `graceMs`: how long requests already running there may take to finish before the thread is terminated. */
  | { readonly kind: 'end'; readonly worker: string; readonly run: number; readonly graceMs: number }
  /** Requests wait at the gateway: have this many connections for a while. A worker that answers fast never sees them pile up. */
  | { readonly kind: 'widen'; readonly worker: string; readonly run: number; readonly connections: number }
  | { readonly kind: 'reply'; readonly call: number; readonly ok: true; readonly value: string }
  | { readonly kind: 'reply'; readonly call: number; readonly ok: false; readonly message: string }

/** Why a webtask could not be loaded or failed, with the fields that webtask clients know. */
export interface Failure {
  /** HTTP status of the answer: 400 for code that is wrong, 500 for code that threw. */
  readonly status: number
  readonly error: string
  readonly message: string
  readonly details?: string
  readonly name?: string
  readonly stack?: string
}

/** How a worker came to its end. */
export type WorkerEnd = 'ended' | 'exit' | 'memory' | 'error' | 'unstarted'

export type FromAgent =
  | { readonly kind: 'hello'; readonly role: 'control'; readonly version: number }
  | { readonly kind: 'hello'; readonly role: 'worker'; readonly worker: string; readonly run: number }
  /** The worker has loaded its code and will dial (or has dialled) its connections to this gateway. */
  | { readonly kind: 'loaded'; readonly worker: string; readonly run: number; readonly ms: number }
  | { readonly kind: 'refused'; readonly worker: string; readonly run: number; readonly failure: Failure }
  /** Code threw outside any request's reach: the worker still answers but should be replaced. */
  | { readonly kind: 'tainted'; readonly worker: string; readonly run: number }
  | { readonly kind: 'gone'; readonly worker: string; readonly run: number; readonly end: WorkerEnd; readonly message: string }
  | { readonly kind: 'output'; readonly worker: string; readonly request: string | null; readonly level: 'info' | 'error'; readonly line: string }
  | { readonly kind: 'dropped'; readonly worker: string; readonly lines: number }
  /** Code asks the platform for a derived token (`ctx.create_token`); answered by `reply`. */
  | {
      readonly kind: 'call'
      readonly call: number
      readonly worker: string
      readonly request: string
      readonly op: 'create_token'
      readonly claims: Readonly<Record<string, unknown>>
    }

type Fields = Record<string, unknown>
const isString = (value: unknown, max: number): value is string => typeof value === 'string' && value.length <= max
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0
const isRecord = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value)

const MAX_TEXT = 128 * 1024
const MAX_ID = 128

function parseFailure(value: unknown): Failure | undefined {
  if (!isRecord(value) || !isString(value.error, MAX_TEXT) || !isString(value.message, MAX_TEXT)) return undefined
  const optional = (key: 'details' | 'name' | 'stack') => (isString(value[key], MAX_TEXT) ? { [key]: value[key] } : {})
  const { error, message } = value
  return { status: value.status === 400 ? 400 : 500, error, message, ...optional('details'), ...optional('name'), ...optional('stack') }
}

/** Judges one frame from a sandbox; undefined when it is nothing the protocol knows. Unknown fields are left behind. */
export function parseFromAgent(value: unknown): FromAgent | undefined {
  if (!isRecord(value)) return undefined
  const { kind, worker, run } = value
  if (kind === 'hello') {
    if (value.role === 'control') return isCount(value.version) ? { kind, role: 'control', version: value.version } : undefined
    return value.role === 'worker' && isString(worker, MAX_ID) && isCount(run) ? { kind, role: 'worker', worker, run } : undefined
  }
  if (!isString(worker, MAX_ID)) return undefined
  if (kind === 'output') {
    const request = isString(value.request, MAX_ID) ? value.request : null
    return isString(value.line, MAX_TEXT) ? { kind, worker, request, level: value.level === 'error' ? 'error' : 'info', line: value.line } : undefined
  }
  if (kind === 'dropped') return isCount(value.lines) ? { kind, worker, lines: value.lines } : undefined
  if (kind === 'call') {
    return isCount(value.call) && isString(value.request, MAX_ID) && value.op === 'create_token' && isRecord(value.claims)
      ? { kind, call: value.call, worker, request: value.request, op: value.op, claims: value.claims }
      : undefined
  }
  if (!isCount(run)) return undefined
  if (kind === 'loaded') return isCount(value.ms) ? { kind, worker, run, ms: value.ms } : undefined
  if (kind === 'tainted') return { kind, worker, run }
  if (kind === 'refused') {
    const failure = parseFailure(value.failure)
    return failure && { kind, worker, run, failure }
  }
  if (kind === 'gone') {
    const { end } = value
    if (end !== 'ended' && end !== 'exit' && end !== 'memory' && end !== 'error' && end !== 'unstarted') return undefined
    return { kind, worker, run, end, message: isString(value.message, MAX_TEXT) ? value.message : '' }
  }
  return undefined
}
