/**
 * What the supervisor and a worker thread say to each other over their message port. Tenant code shares the worker's
 * thread, so whatever comes from there is judged by `parseFromThread` before the supervisor acts on it.
 */
import type { Failure, WebtaskSource, WorkerLimits } from '../protocol/messages.ts'

export interface Load {
  readonly kind: 'load'
  readonly worker: string
  readonly run: number
  readonly source: WebtaskSource
  readonly limits: WorkerLimits
  readonly packagesDir: string
}

export type ToThread =
  | Load
  | { readonly kind: 'dial'; readonly gateway: string; readonly path: string }
  | { readonly kind: 'hangup'; readonly gateway: string }
  | { readonly kind: 'widen'; readonly gateway: string; readonly connections: number }
  | { readonly kind: 'drain' }
  | { readonly kind: 'reply'; readonly call: number; readonly ok: boolean; readonly text: string }

export type FromThread =
  /** The code is loaded and the first connections to this gateway stand. */
  | { readonly kind: 'dialled'; readonly gateway: string }
  | { readonly kind: 'refused'; readonly failure: Failure }
  | { readonly kind: 'tainted' }
  /** After `drain`: no request is running any more. */
  | { readonly kind: 'drained' }
  | OutputLine
  | { readonly kind: 'dropped'; readonly lines: number }
  | { readonly kind: 'call'; readonly call: number; readonly gateway: string; readonly request: string; readonly claims: Record<string, unknown> }

export interface OutputLine {
  readonly kind: 'output'
  /** The gateway whose request printed it; null when no request did. */
  readonly gateway: string | null
  readonly request: string | null
  readonly level: 'info' | 'error'
  readonly line: string
}

const isText = (value: unknown): value is string => typeof value === 'string'
const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Undefined for anything that our own half of the thread does not send. */
export function parseFromThread(value: unknown): FromThread | undefined {
  if (!isRecord(value)) return undefined
  const { kind, gateway, request } = value
  if (kind === 'tainted' || kind === 'drained') return { kind }
  if (kind === 'dialled') return isText(gateway) ? { kind, gateway } : undefined
  if (kind === 'dropped') return Number.isSafeInteger(value.lines) ? { kind, lines: Math.max(0, value.lines as number) } : undefined
  if (kind === 'output') {
    if (!isText(value.line)) return undefined
    const level = value.level === 'error' ? 'error' : 'info'
    return { kind, gateway: isText(gateway) ? gateway : null, request: isText(request) ? request : null, level, line: value.line }
  }
  if (kind === 'call') {
    if (!isText(gateway) || !isText(request) || !Number.isSafeInteger(value.call) || !isRecord(value.claims)) return undefined
    return { kind, call: value.call as number, gateway, request, claims: value.claims }
  }
  if (kind === 'refused') {
    const failure = value.failure
    return isRecord(failure) && isText(failure.error) && isText(failure.message) ? { kind, failure: failure as unknown as Failure } : undefined
  }
  return undefined
}
