/** Reads and parses request bodies for code that wants them whole. */
import type { IncomingMessage } from 'node:http'
import { parse as parseQuery } from 'node:querystring'
import { NativePromise, parse } from './natives.ts'
import { copyInto } from './records.ts'

export interface ParsedBody {
  readonly raw: string
  /** Undefined when the content type is none that is parsed, or its JSON is broken (clients rely on the silence). */
  readonly value: unknown
}

/** False for the many requests that need no waiting. */
export function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] !== undefined && headers['content-length'] !== '0')
}

/** The whole body; `'too large'` as soon as it is known to be over `limit`, undefined when the caller left. */
export function readBody(req: IncomingMessage, limit: number): Promise<Buffer | 'too large' | undefined> {
  if (Number(req.headers['content-length']) > limit) return NativePromise.resolve('too large')
  return new NativePromise((resolve) => {
    const chunks: Buffer[] = []
    let length = 0
    const onData = (chunk: Buffer) => {
      length += chunk.length
      if (length <= limit) return void chunks.push(chunk)
      req.off('data', onData)
      chunks.length = 0
      resolve('too large')
    }
    req.on('data', onData)
    req.on('end', () => resolve(Buffer.concat(chunks)))
    req.on('error', () => resolve(undefined))
    req.on('close', () => resolve(undefined))
  })
}

export function parseBody(bytes: Buffer, contentType: string | undefined): ParsedBody {
  const raw = bytes.toString('utf8')
  const type = contentType?.toLowerCase() ?? ''
  if (type.includes('application/x-www-form-urlencoded')) {
    const value: Record<string, unknown> = {}
    copyInto(value, parseQuery(raw, '&', '=', { maxKeys: 0 }))
    return { raw, value }
  }
  if (!type.includes('application/json')) return { raw, value: undefined }
  try {
    return { raw, value: parse(raw) as unknown }
  } catch {
    return { raw, value: undefined }
  }
}
