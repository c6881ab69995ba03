/**
 * What the gateway tells a worker about one request, beside the request itself: one header, set by the gateway and
 * taken out by the worker before tenant code sees the request. A caller's own headers of this kind never survive.
 */
export interface Invocation {
  /** Request id, also `ctx.id`. */
  readonly id: string
  /** The part of the path that leads to the webtask, e.g. `/api/run/acme/hello` or, at the tenant's own host, `/hello`; apps are mounted there. */
  readonly base: string
  /** 1 path, 2 custom domain, 3 wildcard domain. */
  readonly format: 1 | 2 | 3
  /** Where the platform's own routes are, when they are not at the host that was asked. */
  readonly platformUrl?: string | undefined
  /** The authorizing token when code may see it and it is not the one the worker was loaded with. */
  readonly token?: string
  /** The token is the one that came last on this connection: it is longer than all the rest. */
  readonly sameToken?: true
  /** `webtask_pb` and `webtask_mb` of this request. */
  readonly parseBody?: 0 | 1 | 2
  readonly mergeBody?: boolean
}

export const INVOCATION_HEADER = 'x-wt-invocation'
/** Response headers from the worker for the gateway's log alone; `x-wt-*` never reaches the caller. */
export const OUTCOME_HEADER = 'x-wt-outcome'
/** Values of the outcome header; absent means ok. */
export type ScriptOutcome = 'script_error' | 'script_exception' | 'code_invalid' | 'body_too_large'

// Taken at once: in a worker, tenant code may replace the globals later.
const { parse } = JSON

/** One line of ASCII: header values carry nothing else. */
export function encodeInvocation(invocation: Invocation): string {
  // oxlint-disable-next-line no-control-regex
  return JSON.stringify(invocation).replace(/[^\x20-\x7e]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

export function decodeInvocation(header: string): Invocation {
  return parse(header) as Invocation
}

export const RETIRED_OUTCOME = 'retired'
/**
 * What a worker writes on an idle connection before it closes it. A request that crossed it on the way was not run:
 * the gateway may send it again on another connection.
 */
export const RETIRED_RESPONSE = `HTTP/1.1 503 Retired\r\n${OUTCOME_HEADER}: ${RETIRED_OUTCOME}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`
