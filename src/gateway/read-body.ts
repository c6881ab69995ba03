import type { IncomingMessage } from 'node:http'
import { WebtaskError } from '../errors.ts'

/** Longest time between bytes of a body that the platform itself reads (ms), and until it is whole. */
export interface BodyTimes {
  readonly idleMs: number
  readonly totalMs: number
}

/** The whole body of a request. Throws as soon as it is over `maxBytes`, whatever its headers promised, or over its time. */
export async function readBody(
  incoming: IncomingMessage,
  options: { maxBytes: number; tooLarge: 'code_too_large' | 'body_too_large'; times: BodyTimes },
): Promise<Buffer> {
  const { times } = options
  const tooLarge = () => new WebtaskError(options.tooLarge, `Request body size exceeds ${options.maxBytes} bytes`)
  if (Number(incoming.headers['content-length'] ?? 0) > options.maxBytes) throw tooLarge()
  const chunks: Buffer[] = []
  let length = 0
  return new Promise((resolve, reject) => {
    const late = () => settle(() => reject(new WebtaskError('bad_request', 'The request body took too long to arrive')))
    const total = setTimeout(late, times.totalMs)
    const idle = setTimeout(late, times.idleMs)
    const data = (chunk: Buffer) => {
      idle.refresh()
      length += chunk.length
      chunks.push(chunk)
      if (length > options.maxBytes) settle(() => reject(tooLarge()))
    }
    const end = () => settle(() => resolve(Buffer.concat(chunks, length)))
    const close = () => settle(() => reject(new WebtaskError('bad_request', 'The request body ended early')))
    // Not destroyed on a failure: the caller still gets its answer on this connection.
    const settle = (act: () => void) => {
      clearTimeout(total)
      clearTimeout(idle)
      incoming.off('data', data).off('end', end).off('close', close)
      incoming.resume()
      act()
    }
    incoming.on('data', data).once('end', end).once('close', close)
  })
}

/** A JSON object from the body. Throws bad_request that says what was there instead. */
export async function readJsonObject(incoming: IncomingMessage, options: { maxBytes: number; times: BodyTimes }): Promise<Record<string, unknown>> {
  const body = await readBody(incoming, { ...options, tooLarge: 'body_too_large' })
  let value: unknown
  try {
    value = JSON.parse(body.toString('utf8') || '{}')
  } catch (error) {
    // The parser's own message quotes the body, and that may be a secret.
    const [place = 'it cannot be parsed'] = /at position \d+|unexpected end/i.exec((error as Error).message) ?? []
    throw new WebtaskError('bad_request', `The body is not JSON: ${place.toLowerCase()}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new WebtaskError('bad_request', 'The body must be a JSON object')
  return value as Record<string, unknown>
}
