/** What becomes of a request to a host that secrets are bound to: pure decisions about its target and its headers. */
import { fillHeader } from './bound-secrets.ts'

export interface Received {
  readonly method: string
  /** The target as it was sent: a path, or a whole URL. */
  readonly target: string
  /** Names and values in turn, as they came. */
  readonly rawHeaders: readonly string[]
}

export type Judged =
  /** Answered with this status, and nothing of it is sent on. */
  | { readonly refused: number; readonly message: string }
  | { readonly method: string; readonly path: string; readonly headers: string[]; readonly hasBody: boolean }

/** Largest header that is sent on, in characters: values are longer than what stands for them. */
const MAX_HEADER = 65_536

/** Headers of one connection (RFC 9110 §7.6.1), and those that are written anew for the next one. */
const NOT_PASSED_ON = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  // Who has sent it has been told to go on.
  'expect',
])

/** Methods without a body unless the request says that there is one. */
const BODILESS = new Set(['GET', 'HEAD', 'OPTIONS', 'DELETE'])

/**
 * What is sent to `host` for a request that came in on a connection to it. Refused is what the host might take for a request to another
 * one, or answer with the header itself: there somebody else could read the value.
 */
export function judgeRequest(
  { method, target, rawHeaders }: Received,
  about: { host: string; secrets: ReadonlyMap<string, string>; upgrade?: string | undefined },
): Judged {
  const { host, secrets } = about
  const misdirected = { refused: 421, message: `This connection is to "${host}", the only host that its requests may name` }
  // It answers with the request that it got.
  if (method === 'TRACE') return { refused: 405, message: 'TRACE is not possible where secrets are bound to hosts' }
  if (!valuesOf(rawHeaders, 'host').every((value) => isHost(value, host))) return misdirected
  const path = pathOf(target, host)
  if (path === undefined)
    return target.startsWith('/') || /^[a-z][a-z\d+.-]*:/i.test(target) ? misdirected : { refused: 400, message: 'No such target' }
  const codings = valuesOf(rawHeaders, 'transfer-encoding')
  if (codings.length > 0 && codings.join().toLowerCase() !== 'chunked') return { refused: 501, message: 'The only transfer coding here is chunked' }

  const headers = ['Host', host]
  const passed = passedOn(rawHeaders)
  for (let i = 0; i < passed.length; i += 2) {
    const [name, value] = [passed[i]!, passed[i + 1]!]
    if (name.toLowerCase() !== 'host') headers.push(name, fillHeader(name, value, secrets))
  }
  if (codings.length > 0) headers.push('Transfer-Encoding', 'chunked')
  const hasLength = valuesOf(headers, 'content-length').length > 0
  // Otherwise Node would send an empty body in chunks, which some hosts do not expect.
  if (codings.length === 0 && !hasLength && !BODILESS.has(method)) headers.push('Content-Length', '0')
  if (about.upgrade !== undefined && (codings.length > 0 || hasLength)) return { refused: 400, message: 'A request to upgrade has no body here' }
  if (about.upgrade !== undefined) headers.push('Connection', 'Upgrade', 'Upgrade', about.upgrade)
  if (headers.reduce((sum, text) => sum + text.length, path.length) > MAX_HEADER)
    return { refused: 431, message: 'The header is too large once the secrets are in it' }
  return { method, path, headers, hasBody: codings.length > 0 || hasLength }
}

/** A header without what belongs to one connection. */
export function passedOn(rawHeaders: readonly string[]): string[] {
  const listed = new Set(valuesOf(rawHeaders, 'connection').flatMap((value) => value.split(',').map((name) => name.trim().toLowerCase())))
  const passed: string[] = []
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!.toLowerCase()
    // A length stays whatever `Connection` says: it is what the parser went by.
    if (NOT_PASSED_ON.has(name) || (listed.has(name) && name !== 'content-length' && name !== 'host')) continue
    passed.push(rawHeaders[i]!, rawHeaders[i + 1]!)
  }
  return passed
}

function valuesOf(rawHeaders: readonly string[], name: string): string[] {
  return rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]!.toLowerCase() === name)
}

/** Undefined for what is no path of this host. */
function pathOf(target: string, host: string): string | undefined {
  if (target.startsWith('/') || target === '*') return target
  const [, authority, rest = ''] = /^https:\/\/([^/?#]*)([^#]*)$/i.exec(target) ?? []
  if (authority === undefined || !isHost(authority, host)) return undefined
  return rest.startsWith('/') ? rest : `/${rest}`
}

/** The text is compared, not parsed: whatever is spelled otherwise is another host. */
function isHost(text: string, host: string): boolean {
  return text.trim().toLowerCase().replace(/:443$/, '').replace(/\.$/, '') === host
}
