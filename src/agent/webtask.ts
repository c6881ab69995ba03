/** What webtask code can be once it is loaded: judged from the value that it exports. */
import { isAsyncFunction } from 'node:util/types'
import type { Failure } from '../protocol/messages.ts'

type Callable = (...args: never[]) => unknown
export interface FetchHandler {
  fetch(request: Request, env: Record<string, unknown>, context: Record<string, unknown>): unknown
}

export type Webtask =
  /** `(cb)` and `(ctx, cb)`, or the same as async functions; `takes` says which of the two arguments. */
  | { readonly kind: 'result'; readonly run: Callable; readonly takes: readonly ('context' | 'callback')[]; readonly isAsync: boolean }
  /** `(ctx, req, res)` */
  | { readonly kind: 'http'; readonly run: Callable; readonly isAsync: boolean }
  /** An Express app and its like. */
  | { readonly kind: 'app'; readonly run: Callable }
  | { readonly kind: 'fetch'; readonly handler: FetchHandler }

const SIGNATURES = 'The JavaScript function must have one of the following signatures: ([ctx], callback) or (ctx, req, res).'
const NO_FUNCTION = 'Supplied code must return or export a function.'

export function classify(exported: unknown): Webtask | Failure {
  if (isFetchHandler(exported)) return { kind: 'fetch', handler: exported }
  if (typeof exported !== 'function') return refusal(NO_FUNCTION)
  const run = exported as Callable
  if (isApp(exported)) return { kind: 'app', run }
  const isAsync = isAsyncFunction(run)
  const arity = run.length
  if (arity === 3) return { kind: 'http', run, isAsync }
  if (arity === 2) return { kind: 'result', run, takes: ['context', 'callback'], isAsync }
  // A lone parameter is the callback, except that an async function answers by returning.
  if (arity === 1) return { kind: 'result', run, takes: [isAsync ? 'context' : 'callback'], isAsync }
  if (arity === 0 && isAsync) return { kind: 'result', run, takes: [], isAsync }
  return refusal(SIGNATURES)
}

/** The exports of an ES module: its default, or the module itself when it exports `fetch` by name. */
export function exportOf(namespace: Record<string, unknown>): unknown {
  if ('default' in namespace) return unwrapDefault(namespace.default)
  return typeof namespace.fetch === 'function' ? namespace : undefined
}

/** Compilers to CommonJS leave the default export one level down. */
export function unwrapDefault(exported: unknown): unknown {
  const isModule = typeof exported === 'object' && exported !== null && (exported as { __esModule?: unknown }).__esModule === true
  return isModule && 'default' in exported ? exported.default : exported
}

function isFetchHandler(value: unknown): value is FetchHandler {
  return typeof value === 'object' && value !== null && typeof (value as { fetch?: unknown }).fetch === 'function'
}

function isApp(value: object): boolean {
  const { handle, use } = value as { handle?: unknown; use?: unknown }
  return typeof handle === 'function' && typeof use === 'function'
}

function refusal(error: string): Failure {
  const message = error === NO_FUNCTION ? 'Invalid webtask code' : error
  return { status: 400, error, message, details: `Error: ${error}`, name: 'Error' }
}
