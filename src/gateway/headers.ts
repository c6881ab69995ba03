import { OUTCOME_HEADER } from '../protocol/invocation.ts'
import { staysOnHost } from './own-origin.ts'

/** Headers that belong to one connection and are never passed on (RFC 9110 §7.6.1). */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/**
 * Headers with which a webtask could reach beyond its own answer. Where tenants share one origin, cookies and
 * origin-wide storage belong to nobody, in both directions; at a tenant's own host those pass that stay there.
 */
const SHARED_ORIGIN = new Set([
  'set-cookie',
  'clear-site-data',
  'service-worker-allowed',
  'strict-transport-security',
  'alt-svc',
  'public-key-pins',
  'nel',
  'report-to',
  'reporting-endpoints',
  // What browsers keep for the whole origin: which hints and sessions it wants, who is signed in there.
  'accept-ch',
  'critical-ch',
  'set-login',
  'secure-session-registration',
  'secure-session-challenge',
  'sec-session-registration',
  'sec-session-challenge',
  // A dictionary is used for whatever paths of the origin it names.
  'use-as-dictionary',
])

/** Orders to a proxy before us, which nginx and others take from whatever answers behind them: which file to send, where to go on. */
const PROXY_ORDERS = /^x-(?:accel-(?!buffering$)|sendfile|lighttpd-|reproxy-)/

/** Headers named by `Connection` are hop-by-hop too. */
function listed(raw: readonly string[]): Set<string> | undefined {
  let names: Set<string> | undefined
  for (let i = 0; i < raw.length; i += 2) {
    if (raw[i]!.length !== 10 || raw[i]!.toLowerCase() !== 'connection' || raw[i + 1] === 'keep-alive') continue
    names ??= new Set()
    for (const name of raw[i + 1]!.split(',')) names.add(name.trim().toLowerCase())
  }
  return names
}

/** Caller → webtask: flat name/value list. `drop` names (lower case) are left out beside hop-by-hop, `x-forwarded-proto` (ours to say) and `x-wt-*`. */
export function requestHeaders(raw: readonly string[], drop: ReadonlySet<string>): string[] {
  const connection = listed(raw)
  const kept: string[] = []
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!.toLowerCase()
    if (
      HOP_BY_HOP.has(name) ||
      name === 'expect' ||
      name === 'x-forwarded-proto' ||
      name.startsWith('x-wt-') ||
      drop.has(name) ||
      connection?.has(name)
    )
      continue
    kept.push(raw[i]!, raw[i + 1]!)
  }
  return kept
}

export interface ResponseHeaders {
  readonly headers: string[]
  /** The worker's word about the outcome, for our log alone. */
  readonly outcome: string | undefined
  readonly allowsOrigin: boolean
  readonly contentLength: number | undefined
}

/**
 * Webtask → caller: flat name/value list without hop-by-hop and `x-wt-*` headers, without `x-request-id`, which is ours
 * to say, without orders to a proxy before us, and without what reaches beyond the tenant's own `host`, or beyond one answer where there is none.
 */
export function responseHeaders(raw: readonly (Buffer | string)[], host: string | undefined): ResponseHeaders {
  const headers: string[] = []
  let outcome: string | undefined
  let allowsOrigin = false
  let contentLength: number | undefined
  const text = raw.map((part) => (typeof part === 'string' ? part : part.toString('latin1')))
  const connection = listed(text)
  for (let i = 0; i < text.length; i += 2) {
    const name = text[i]!.toLowerCase()
    if (name === OUTCOME_HEADER) outcome = text[i + 1]
    if (HOP_BY_HOP.has(name) || connection?.has(name)) continue
    if (name.startsWith('x-') && (name === 'x-request-id' || name.startsWith('x-wt-') || PROXY_ORDERS.test(name))) continue
    if (SHARED_ORIGIN.has(name) && (host === undefined || !staysOnHost({ name, value: text[i + 1]! }, host))) continue
    if (name === 'access-control-allow-origin') allowsOrigin = true
    if (name === 'content-length') contentLength = Number(text[i + 1])
    headers.push(text[i]!, text[i + 1]!)
  }
  return { headers, outcome, allowsOrigin, contentLength }
}
