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
 * Headers with which a webtask could reach beyond its own answer. All tenants of the front door share one origin, so
 * cookies and origin-wide storage belong to nobody, in both directions.
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
])

/** Headers named by `Connection` are hop-by-hop too. */
function listed(raw: readonly string[]): Set<string> | undefined {
  let names: Set<string> | undefined
  for (let i = 0; i < raw.length; i += 2) {
    if (raw[i]!.length !== 10 || raw[i]!.toLowerCase() !== 'connection') continue
    names ??= new Set()
    for (const name of raw[i + 1]!.split(',')) names.add(name.trim().toLowerCase())
  }
  return names
}

/** Caller → webtask: flat name/value list. `drop` names (lower case) are left out beside hop-by-hop, cookie, `x-forwarded-proto` (ours to say) and `x-wt-*`. */
export function requestHeaders(raw: readonly string[], drop: ReadonlySet<string>): string[] {
  const connection = listed(raw)
  const kept: string[] = []
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!.toLowerCase()
    if (
      HOP_BY_HOP.has(name) ||
      name === 'cookie' ||
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

/** Webtask → caller: flat name/value list without hop-by-hop, shared-origin and `x-wt-*` headers, and without `x-request-id`, which is ours to say. */
export function responseHeaders(raw: readonly (Buffer | string)[], outcomeHeader: string): ResponseHeaders {
  const headers: string[] = []
  let outcome: string | undefined
  let allowsOrigin = false
  let contentLength: number | undefined
  const text = raw.map((part) => (typeof part === 'string' ? part : part.toString('latin1')))
  const connection = listed(text)
  for (let i = 0; i < text.length; i += 2) {
    const name = text[i]!.toLowerCase()
    if (name === outcomeHeader) outcome = text[i + 1]
    if (HOP_BY_HOP.has(name) || SHARED_ORIGIN.has(name) || name === 'x-request-id' || name.startsWith('x-wt-') || connection?.has(name)) continue
    if (name === 'access-control-allow-origin') allowsOrigin = true
    if (name === 'content-length') contentLength = Number(text[i + 1])
    headers.push(text[i]!, text[i + 1]!)
  }
  return { headers, outcome, allowsOrigin, contentLength }
}
