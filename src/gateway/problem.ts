import type { ServerResponse } from 'node:http'
import { ERRORS, WebtaskError } from '../errors.ts'
import type { Failure } from '../protocol/messages.ts'

/** An error as bytes: what every answer of ours with a status of 400 or more looks like. */
export interface Problem {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/**
 * Any failure as an answer: RFC 9457 members beside those that webtask clients read (`code` is the HTTP status,
 * `message` is printed as is). What is not a WebtaskError is ours and says nothing of its inside.
 */
export function toProblem(error: unknown, requestId: string): Problem {
  const known = error instanceof WebtaskError ? error : new WebtaskError('internal', 'The platform failed; quote the request id when you report it')
  const { status, fault, means } = ERRORS[known.code]
  return {
    status,
    headers: {
      'content-type': 'application/problem+json',
      'x-request-id': requestId,
      ...(known.retryAfterSeconds === undefined ? {} : { 'retry-after': String(known.retryAfterSeconds) }),
      ...(status === 401 ? { 'www-authenticate': 'Bearer realm="webtask"' } : {}),
    },
    body: JSON.stringify({
      type: `urn:webtask:error:${known.code}`,
      title: means,
      status,
      detail: known.message,
      code: status,
      error: known.code,
      message: known.message,
      requestId,
      fault,
    }),
  }
}

/** Code that did not load, in the words that webtask clients know. */
export function refusedProblem(failure: Failure, requestId: string): Problem {
  const code = failure.status === 400 ? 'code_invalid' : 'script_exception'
  const { status, ...fields } = failure
  return {
    status,
    headers: { 'content-type': 'application/problem+json', 'x-request-id': requestId },
    body: JSON.stringify({
      type: `urn:webtask:error:${code}`,
      title: ERRORS[code].means,
      status,
      detail: failure.message,
      code: status,
      ...fields,
      requestId,
      fault: 'tenant',
    }),
  }
}

/** Sends a problem unless the answer has begun; then the connection is all that is left to break. */
export function sendProblem(outgoing: ServerResponse, problem: Problem): void {
  if (outgoing.destroyed || outgoing.writableEnded) return
  if (outgoing.headersSent) return void outgoing.destroy()
  outgoing.writeHead(problem.status, { ...problem.headers, 'content-length': Buffer.byteLength(problem.body) })
  outgoing.end(problem.body)
}
