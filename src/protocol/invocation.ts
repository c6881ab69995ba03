/**
 * What the gateway tells a worker about a request, beside the request itself and its id. It holds for all requests on a
 * connection until the gateway says otherwise: most requests bring their id alone.
 */
export interface Circumstances {
  /** The part of the path that leads to the webtask, e.g. `/api/run/acme/hello` or, at the tenant's own host, `/hello`; apps are mounted there. */
  readonly base: string
  /** 1 path, 2 custom domain, 3 wildcard domain. */
  readonly format: 1 | 2 | 3
  /** Where the platform's own routes are, when they are not at the host that was asked. */
  readonly platformUrl?: string | undefined
  /** The authorizing token when code may see it and it is not the one the worker was loaded with. */
  readonly token?: string | undefined
  /** `webtask_pb` and `webtask_mb` of this request. */
  readonly parseBody?: 0 | 1 | 2 | undefined
  readonly mergeBody?: boolean | undefined
}

export interface Invocation extends Circumstances {
  /** Request id, also `ctx.id`. Has no space. */
  readonly id: string
}

export function sameCircumstances(a: Circumstances, b: Circumstances): boolean {
  return (
    a.base === b.base &&
    a.format === b.format &&
    a.platformUrl === b.platformUrl &&
    a.token === b.token &&
    a.parseBody === b.parseBody &&
    a.mergeBody === b.mergeBody
  )
}

/** One header, set by the gateway and taken out by the worker before tenant code sees the request. A caller's own headers of this kind never survive. */
export const INVOCATION_HEADER = 'x-wt-invocation'
/** Response headers from the worker for the gateway's log alone; `x-wt-*` never reaches the caller. */
export const OUTCOME_HEADER = 'x-wt-outcome'
/** Values of the outcome header; absent means ok. */
export type ScriptOutcome = 'script_error' | 'script_exception' | 'code_invalid' | 'body_too_large'

// Taken at once: in a worker, tenant code may replace the globals later.
const { parse } = JSON

/** The id, and the circumstances where they are not those that the connection's last request had. One line of ASCII: header values carry nothing else. */
export function encodeInvocation(id: string, changed: Circumstances | undefined): string {
  if (changed === undefined) return id
  // oxlint-disable-next-line no-control-regex
  return `${id} ${JSON.stringify(changed).replace(/[^\x20-\x7e]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)}`
}

/** `changed` is undefined where nothing did. Throws on what is no such header. */
export function decodeInvocation(header: string): { id: string; changed: Circumstances | undefined } {
  const space = header.indexOf(' ')
  return space < 0 ? { id: header, changed: undefined } : { id: header.slice(0, space), changed: parse(header.slice(space + 1)) as Circumstances }
}

export const RETIRED_OUTCOME = 'retired'
/**
 * What a worker writes on an idle connection before it closes it. A request that crossed it on the way was not run:
 * the gateway may send it again on another connection.
 */
export const RETIRED_RESPONSE = `HTTP/1.1 503 Retired\r\n${OUTCOME_HEADER}: ${RETIRED_OUTCOME}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`
