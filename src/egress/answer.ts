/** What the answer of a code host must be like, decided on its head and its bytes. */
import { definite, passing } from './failure.ts'
import { judgeUrl } from './rules.ts'
import type { CodeTarget, EgressRules } from './rules.ts'

export type Answer = { readonly statusCode: number; readonly headers: Readonly<Record<string, string | string[] | undefined>> }
export type AnswerHead = { readonly changed: boolean; readonly etag: string | null }

const REDIRECTS = [301, 302, 303, 307, 308]
const PASSING_STATUSES = [408, 425, 429]

/**
 * Code comes as text of any kind but HTML (an HTML page is a login form, an error or a repository viewer, and as code it would only give a
 * puzzling syntax error), as the usual names of JavaScript and TypeScript, or unnamed. `video/mp2t` is what servers make of `.ts`. The
 * charset parameter is not looked at: the bytes are UTF-8 or refused.
 */
const CODE_TYPE =
  /^(text\/(?!html\b)[\w.+-]+|application\/((x-)?(javascript|typescript|ecmascript)|node|octet-stream)|video\/(mp2t|vnd\.dlna\.mpeg-tts))$/i

/** An entity tag that may be sent back to a host: short, printable ASCII. */
export const ETAG = /^(W\/)?"[\x21\x23-\x7e]{0,254}"$/

/** The next hop if the answer redirects. Throws `code_unavailable` if it points where the rules do not allow, or from https to http. */
export function redirectTarget(from: CodeTarget, answer: Answer, rules: EgressRules): CodeTarget | undefined {
  if (!REDIRECTS.includes(answer.statusCode)) return undefined
  const location = header(answer, 'location')
  // The same texts that `judgeUrl` refuses because parsers disagree about them; after `URL.parse` they would look innocent.
  const url = location === undefined || /[\\\p{Cc}]/u.test(location) ? null : URL.parse(location, from.url)
  if (url === null) throw definite(from.host, `it answered with status ${answer.statusCode} and no valid place to go`)
  const next = judgeUrl(url.href, rules)
  if ('refused' in next) throw definite(from.host, `its redirect is refused, ${next.message}`)
  if (from.secure && !next.secure) throw definite(from.host, 'its redirect is refused, it leads from https to http')
  return next
}

/** Judges status and headers. Throws `code_unavailable` for anything but the whole, plain code or, if asked for, a 304. */
export function checkHead(target: CodeTarget, answer: Answer, asked: { maxBytes: number; conditional: boolean }): AnswerHead {
  const { host } = target
  const { statusCode } = answer
  if (statusCode === 304 && asked.conditional) return { changed: false, etag: null }
  if (statusCode !== 200)
    throw (statusCode >= 500 || PASSING_STATUSES.includes(statusCode) ? passing : definite)(host, `it answered with status ${statusCode}`)
  const encoding = header(answer, 'content-encoding') ?? 'identity'
  if (encoding.toLowerCase() !== 'identity') throw definite(host, 'it sent an encoding that was not asked for')
  if ((header(answer, 'transfer-encoding') ?? 'chunked').toLowerCase() !== 'chunked')
    throw definite(host, 'it sent an encoding that was not asked for')
  const type = header(answer, 'content-type')?.split(';', 1)[0]?.trim() ?? ''
  if (type !== '' && !CODE_TYPE.test(type)) throw definite(host, 'the type of its answer is not one of code, such as text/javascript or text/plain')
  if (Number(header(answer, 'content-length') ?? 0) > asked.maxBytes) throw definite(host, `the code is larger than ${asked.maxBytes} bytes`)
  const etag = header(answer, 'etag')
  return { changed: true, etag: etag !== undefined && ETAG.test(etag) ? etag : null }
}

/** The text of the code, byte for byte. Throws `code_unavailable` unless it is UTF-8 without NUL. */
export function decodeCode(target: CodeTarget, wire: Uint8Array): string {
  if (wire.includes(0)) throw definite(target.host, 'the code holds a NUL byte')
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(wire)
  } catch (cause) {
    throw definite(target.host, 'the code is not UTF-8', cause)
  }
}

function header(answer: Answer, name: string): string | undefined {
  const value = answer.headers[name]
  return Array.isArray(value) ? value.join(', ') : value
}
