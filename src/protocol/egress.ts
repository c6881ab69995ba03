/**
 * What a sandbox and the egress role say to each other.
 *
 * The egress role listens on `egress.sock` in a directory that is mounted into one sandbox alone; whoever connects there
 * *is* that sandbox. Each connection begins with one request frame and one reply frame. After a `connect` that worked the
 * sandbox sends the byte `GO`, and from then on the connection carries the bytes of one TCP connection, both ways, each way
 * ending by itself. The byte keeps the first bytes of the far end from coming in one piece with the reply. After a `resolve`
 * or an `ended` the connection is over. `ended` asks whether a connection that came to its end was closed or broken: a unix
 * socket has only one way to end.
 */
export const EGRESS_DIR = '/run/wt-egress'
export const EGRESS_SOCKET = 'egress.sock'
export const GO = 0x0a

/** Largest request frame (bytes): a name of 253 characters and a little around it. */
export const MAX_EGRESS_REQUEST = 1024
/** Largest reply frame (bytes): as many records as a DNS message can hold. */
export const MAX_EGRESS_REPLY = 256 * 1024
/** Longest name that is looked up (characters). */
const MAX_NAME = 253
const MAX_MESSAGE = 512
const MAX_ID = 64
const MAX_RECORDS = 4096

/** `LOOKUP` gives the addresses that a connection would go to, `REVERSE` the names of an address, the others are DNS records. */
export const RRTYPES = ['LOOKUP', 'REVERSE', 'A', 'AAAA', 'ANY', 'CAA', 'CNAME', 'MX', 'NAPTR', 'NS', 'PTR', 'SOA', 'SRV', 'TXT'] as const
export type RrType = (typeof RRTYPES)[number]

export type EgressRequest =
  /** `bound`: the webtask has secrets that are bound to hosts, under this id. */
  | { readonly kind: 'connect'; readonly host: string; readonly port: number; readonly bound?: string }
  | { readonly kind: 'resolve'; readonly name: string; readonly rrtype: RrType }
  | { readonly kind: 'ended'; readonly id: number }

/** Error codes that code in a sandbox may see: Node's own. */
export const EGRESS_CODES = [
  'EACCES',
  'EMFILE',
  'EAGAIN',
  'EDQUOT',
  'ENOTFOUND',
  'ENODATA',
  'ESERVFAIL',
  'EREFUSED',
  'ENOTIMP',
  'ETIMEOUT',
  'EAI_AGAIN',
  'ECONNREFUSED',
  'ECONNRESET',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'EPIPE',
  // Where the egress role speaks TLS for the webtask: as the webtask's own TLS would say it.
  'EPROTO',
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'ERR_TLS_CERT_ALTNAME_INVALID',
] as const
export type EgressCode = (typeof EGRESS_CODES)[number]

export interface EgressFailure {
  readonly ok: false
  readonly code: EgressCode
  /** What failed: opening the connection, or finding the address of the name. */
  readonly syscall: 'connect' | 'getaddrinfo' | 'query'
  /** Said to the code's author in addition to the code; empty when there is nothing to add. */
  readonly message: string
  /** The address that was tried, when it came to that. */
  readonly address: string | null
}
export interface Connected {
  readonly ok: true
  /** By which `ended` asks about it. */
  readonly id: number
  readonly address: string
  readonly family: 4 | 6
  readonly port: number
}
export interface Resolved {
  readonly ok: true
  /** In the shape in which `node:dns` gives records of the type; addresses as `{address, ttl}`. */
  readonly records: readonly unknown[]
}
export interface Ended {
  readonly ok: true
  /** What broke it; null when the far end closed it. */
  readonly broken: EgressCode | null
}

type Fields = Record<string, unknown>
const isRecord = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value)
const isText = (value: unknown, max: number): value is string => typeof value === 'string' && value.length <= max
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0
const isPort = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 65_535

/** Judges the request of a sandbox, which tenant code may have written; undefined when it is none. Unknown fields are left behind. */
export function parseEgressRequest(value: unknown): EgressRequest | undefined {
  if (!isRecord(value)) return undefined
  const { kind, host, port, name, rrtype } = value
  if (kind === 'connect') {
    const bound = isText(value.bound, MAX_ID) ? { bound: value.bound } : {}
    return isText(host, MAX_NAME) && host !== '' && isPort(port) ? { kind, host, port, ...bound } : undefined
  }
  if (kind === 'ended') return isCount(value.id) ? { kind, id: value.id } : undefined
  if (kind !== 'resolve' || !isText(name, MAX_NAME) || name === '') return undefined
  const known = RRTYPES.find((type) => type === rrtype)
  return known && { kind, name, rrtype: known }
}

/** Judges the reply to a `connect`; undefined when it makes no sense. */
export function parseConnectReply(value: unknown): Connected | EgressFailure | undefined {
  if (!isRecord(value)) return undefined
  const { ok, id, address, family, port } = value
  if (ok !== true) return parseFailure(value)
  return isCount(id) && isText(address, MAX_NAME) && (family === 4 || family === 6) && isPort(port) ? { ok, id, address, family, port } : undefined
}

/** Judges the reply to a `resolve`; undefined when it makes no sense. */
export function parseResolveReply(value: unknown): Resolved | EgressFailure | undefined {
  if (!isRecord(value)) return undefined
  if (value.ok !== true) return parseFailure(value)
  return Array.isArray(value.records) && value.records.length <= MAX_RECORDS ? { ok: true, records: value.records } : undefined
}

/** Judges the reply to an `ended`; undefined when it makes no sense. */
export function parseEndedReply(value: unknown): Ended | undefined {
  if (!isRecord(value) || value.ok !== true) return undefined
  if (value.broken === null) return { ok: true, broken: null }
  const broken = EGRESS_CODES.find((known) => known === value.broken)
  return broken && { ok: true, broken }
}

function parseFailure(value: Fields): EgressFailure | undefined {
  const { ok, syscall, message, address } = value
  const code = EGRESS_CODES.find((known) => known === value.code)
  if (ok !== false || code === undefined || !isText(message, MAX_MESSAGE)) return undefined
  if (syscall !== 'connect' && syscall !== 'getaddrinfo' && syscall !== 'query') return undefined
  return { ok, code, syscall, message, address: isText(address, MAX_NAME) ? address : null }
}
