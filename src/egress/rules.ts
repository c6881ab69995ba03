/**
 * Which code URLs may be fetched at all, decided on the text alone. There is one parser (`new URL`, which also normalises every odd spelling
 * of an IPv4 address); what the name resolves to is judged afterwards, by `address.ts`, on addresses and never on strings.
 */
import { isIP } from 'node:net'
import { domainToASCII } from 'node:url'

/** A place the operator trusts. `host` is canonical: lower case, punycode, no brackets, no trailing dot. */
export type HostPort = { readonly host: string; readonly port: number }
export type EgressRules = { readonly allow: readonly HostPort[] }

/** A URL that may be fetched. `host` is canonical as in `HostPort`; `allowed` means that the operator's list names it. */
export type CodeTarget = { readonly url: URL; readonly host: string; readonly port: number; readonly secure: boolean; readonly allowed: boolean }

/** Names that mean something only inside a network: special-use domains and the ones that home and company networks squat. */
const INNER_DOMAINS = [
  'localhost',
  'local',
  'localdomain',
  'internal',
  'intranet',
  'private',
  'corp',
  'home',
  'lan',
  'arpa',
  'onion',
  'test',
  'invalid',
]

/** Length of a code URL as written (UTF-16 units). */
export const URL_MAX_CHARS = 2048

const REFUSALS = {
  too_long: `it is longer than ${URL_MAX_CHARS} characters`,
  malformed: 'it is not an absolute http(s) URL without backslashes or control characters',
  scheme: 'only https is fetched',
  userinfo: 'it holds a user name or a password',
  ip_literal: 'its host is an IP address instead of a name',
  inner_host: 'its host is not a public name',
  port: 'only port 443 is fetched',
} as const

/** The rule that a URL breaks; `message` says it in words that may be shown to anybody. */
export type UrlRefusal = { readonly refused: keyof typeof REFUSALS; readonly message: string }

/** Judges a code URL: what to connect to, or the first rule that it breaks. Never throws. */
export function judgeUrl(text: string, rules: EgressRules): CodeTarget | UrlRefusal {
  if (text.length > URL_MAX_CHARS) return refusal('too_long')
  // `new URL` reads `\` as `/`, drops tabs and newlines and supplies missing slashes. Others do not, so a URL that needs it is refused.
  if (!/^https?:\/\/[^/\\]/i.test(text) || /[\\\p{Cc}]/u.test(text)) return refusal('malformed')
  const url = URL.parse(text)
  if (url === null) return refusal('malformed')
  if (url.username !== '' || url.password !== '' || /^[^/?#]*@/.test(text.slice(text.indexOf('//') + 2))) return refusal('userinfo')
  url.hash = ''
  const secure = url.protocol === 'https:'
  const host = bareHost(url.hostname)
  const port = Number(url.port || (secure ? 443 : 80))
  if (!isHost(host)) return refusal('malformed')
  if (url.hostname.endsWith('.')) url.hostname = host
  if (rules.allow.some((place) => place.host === host && place.port === port)) return { url, host, port, secure, allowed: true }
  if (!secure) return refusal('scheme')
  if (isIP(host) !== 0) return refusal('ip_literal')
  if (isInner(host)) return refusal('inner_host')
  if (port !== 443) return refusal('port')
  return { url, host, port, secure, allowed: false }
}

/**
 * Reads the operator's list: `host:port` entries between commas or spaces, such as `127.0.0.1:9000, code.internal:443 [::1]:9000`.
 * Empty text is an empty list. Throws a TypeError that quotes every entry it cannot read; there are no wildcards and no default port.
 */
export function parseAllowList(text: string): readonly HostPort[] {
  const entries = text.split(/[\s,]+/).filter((entry) => entry !== '')
  const places = entries.map(parsePlace)
  const bad = entries.filter((_, index) => places[index] === undefined)
  if (bad.length > 0) throw new TypeError(`Cannot read ${bad.map((entry) => JSON.stringify(entry)).join(', ')}: each entry must be "host:port"`)
  return places.filter((place) => place !== undefined)
}

function parsePlace(entry: string): HostPort | undefined {
  const [, name, digits] = /^([^/?#@\\*%]+):(\d{1,5})$/.exec(entry) ?? []
  const port = Number(digits)
  const url = name === undefined ? null : URL.parse(`http://${name}:80/`)
  if (url === null || port < 1 || port > 65_535 || url.port !== '') return undefined
  const host = bareHost(url.hostname)
  return isHost(host) ? { host, port } : undefined
}

/**
 * What the internet makes of a host that code wants to reach, decided on its text. `local` is this machine by any name; `none` is what
 * public name servers know nothing of (a bare word, an inner domain, an odd spelling of an address) and so are never asked.
 */
export type Host = { readonly kind: 'address' | 'name' | 'local' | 'none'; readonly host: string }

export function judgeHost(text: string): Host {
  if (isIP(text) !== 0) return { kind: 'address', host: text }
  const host = domainToASCII(text).replace(/\.$/, '').toLowerCase()
  if (/(^|\.)localhost$/.test(host)) return { kind: 'local', host }
  // `domainToASCII` reads `0x7f.1` as an address, as browsers do.
  if (isIP(host) !== 0 || !isHost(host) || isInner(host) || /^(\d+|0x[\da-f]*)$/.test(host.split('.').at(-1)!)) return { kind: 'none', host: text }
  return { kind: 'name', host }
}

function bareHost(hostname: string): string {
  return hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '')
}

/** A literal address, or a name of plain labels that survives another trip through IDNA. */
function isHost(host: string): boolean {
  if (isIP(host) !== 0) return true
  return host.length <= 253 && host.split('.').every((label) => /^[a-z\d_-]{1,63}$/.test(label)) && domainToASCII(host) === host
}

function isInner(host: string): boolean {
  const labels = host.split('.')
  return labels.length < 2 || INNER_DOMAINS.includes(labels.at(-1) ?? '')
}

function refusal(refused: UrlRefusal['refused']): UrlRefusal {
  return { refused, message: REFUSALS[refused] }
}
