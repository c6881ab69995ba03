/**
 * Failed fetches in words for whoever calls the webtask. They name the host, which is in the URL, and never an address, a path, a query or
 * where a redirect pointed to.
 */
import { WebtaskError } from '../errors.ts'
import { StrayConnection } from './dial.ts'
import { FETCH_LIMITS } from './limits.ts'

const WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'it refused the connection',
  ECONNRESET: 'it broke the connection',
  EPIPE: 'it broke the connection',
  UND_ERR_SOCKET: 'it broke the connection',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'it sent another length than it announced',
  EHOSTUNREACH: 'it cannot be reached',
  ENETUNREACH: 'it cannot be reached',
  ENETDOWN: 'it cannot be reached',
  EADDRNOTAVAIL: 'it cannot be reached',
  ETIMEDOUT: 'it did not accept the connection in time',
  TimeoutError: 'it did not accept the connection in time',
}

/** A failure that trying again may cure. */
export function passing(host: string, what: string, cause?: unknown): WebtaskError {
  return new WebtaskError('code_unavailable', sentence(host, what), { cause, retryAfterSeconds: FETCH_LIMITS.retryAfterSeconds })
}

/** A failure that lasts until somebody changes the code, its URL or its host. */
export function definite(host: string, what: string, cause?: unknown): WebtaskError {
  return new WebtaskError('code_unavailable', sentence(host, what), { cause })
}

/** Turns an error of the connection, of TLS or of the HTTP parser into words. */
export function explain(host: string, error: unknown): WebtaskError {
  if (error instanceof StrayConnection) return definite(host, 'its address is not public', error)
  const code = error instanceof Error ? String(('code' in error && typeof error.code === 'string' && error.code) || error.name) : ''
  if (code === 'UND_ERR_HEADERS_OVERFLOW') return definite(host, `the header of its answer is larger than ${FETCH_LIMITS.headerBytes} bytes`, error)
  if (error instanceof Error && error.name === 'HTTPParserError') return definite(host, 'its answer is not valid HTTP', error)
  if (/CERT|^ERR_(TLS|SSL)|^UNABLE_TO|SELF_SIGNED|^EPROTO|^HOSTNAME_/.test(code)) return passing(host, `TLS failed (${code})`, error)
  return passing(host, WORDS[code] ?? 'the connection failed', error)
}

function sentence(host: string, what: string): string {
  return `Cannot fetch code from "${host}": ${what}`
}
