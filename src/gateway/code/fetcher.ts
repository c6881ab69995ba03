import { Pool } from 'undici'
import { z } from 'zod'
import type { FetchCode, FetchedCode } from '../../egress/fetch-code.ts'
import { FETCH_LIMITS } from '../../egress/limits.ts'
import { URL_MAX_CHARS } from '../../egress/rules.ts'
import { WebtaskError } from '../../errors.ts'

const fetched = z.object({ code: z.string(), etag: z.string().nullable(), sha256: z.string().regex(/^[0-9a-f]{64}$/) })
const problem = z.object({
  code: z.enum(['bad_request', 'code_unavailable', 'unavailable']),
  message: z.string(),
  retryAfterSeconds: z.number().optional(),
})

/** The gateway's end of the egress socket. */
export type CodeClient = AsyncDisposable & { readonly fetch: FetchCode }

/** Makes the client. Its `fetch` throws what the egress role answers, or `unavailable` when that role cannot be reached or breaks its word. */
export function createCodeClient(options: { socketPath: string }): CodeClient {
  // A JSON text is at most six times as long as what it holds.
  const maxResponseSize = FETCH_LIMITS.bodyBytesCeiling * 6 + 65_536
  const waitMs = FETCH_LIMITS.totalMs + 5000
  const pool = new Pool('http://egress', {
    socketPath: options.socketPath,
    connections: FETCH_LIMITS.atOnce * 2,
    headersTimeout: waitMs,
    bodyTimeout: waitMs,
    maxResponseSize,
  })

  async function post(body: object, signal: AbortSignal | undefined): Promise<{ status: number; text: string }> {
    try {
      const answer = await pool.request({
        method: 'POST',
        path: '/code',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        ...(signal === undefined ? {} : { signal }),
      })
      return { status: answer.statusCode, text: await answer.body.text() }
    } catch (cause) {
      if (signal?.aborted) throw signal.reason
      throw broken('The egress role cannot be reached', cause)
    }
  }

  return {
    async fetch({ url, etag, maxBytes, signal }) {
      if (url.length > URL_MAX_CHARS)
        throw new WebtaskError('bad_request', `Cannot fetch code from this URL: it is longer than ${URL_MAX_CHARS} characters`)
      const { status, text } = await post({ url, etag, maxBytes }, signal)
      if (status === 304) return { status: 'unchanged' }
      if (status === 200) return { status: 'fetched', ...read(fetched, text) } satisfies FetchedCode
      const { code, message, retryAfterSeconds } = read(problem, text)
      throw new WebtaskError(code, message, retryAfterSeconds === undefined ? {} : { retryAfterSeconds })
    },
    [Symbol.asyncDispose]: () => pool.destroy(),
  }
}

function read<T>(schema: z.ZodType<T>, text: string): T {
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    throw broken('The egress role gave an answer that makes no sense', cause)
  }
}

function broken(message: string, cause: unknown): WebtaskError {
  return new WebtaskError('unavailable', message, { cause, retryAfterSeconds: 1 })
}
