/** The answers that the platform writes on behalf of the code: results as JSON, failures with the fields clients know. */
import type { ServerResponse } from 'node:http'
import { OUTCOME_HEADER, type ScriptOutcome } from '../protocol/invocation.ts'
import { describe } from './describe.ts'
import { logLine } from './capture.ts'
import { byteLength, stringify } from './natives.ts'
import type { WebtaskRequest } from './request.ts'

/** The ways code fails while it answers. */
const FAILURES = {
  returned: { status: 400, outcome: 'script_error', error: 'Script returned an error.', title: 'The code called back with an error' },
  unserializable: {
    status: 400,
    outcome: 'script_error',
    error: 'Error when JSON serializing the result of the JavaScript code.',
    title: 'The code called back with an error',
  },
  threw: { status: 500, outcome: 'script_exception', error: 'Script generated an unhandled synchronous exception.', title: 'The code threw' },
  threwLater: { status: 500, outcome: 'script_exception', error: 'Script generated an unhandled asynchronous exception.', title: 'The code threw' },
} as const satisfies Record<string, { status: number; outcome: ScriptOutcome; error: string; title: string }>
export type FailureKind = keyof typeof FAILURES

/** Answers with a result as JSON; anything falsy is `{}`. */
export function answerResult(request: WebtaskRequest, result: unknown): void {
  let json: string | undefined
  try {
    json = result ? stringify(result) : '{}'
  } catch (cause) {
    return answerFailure(request, 'unserializable', cause)
  }
  if (!claimAnswer(request)) return
  // A function or a symbol has no JSON.
  sendJson(request.res, { status: 200, json: json ?? '{}' })
}

/** Answers with a failure; when an answer is on its way already, cuts it off instead. */
export function answerFailure(request: WebtaskRequest, kind: FailureKind, thrown: unknown): void {
  const { status, outcome, error, title } = FAILURES[kind]
  const { stack, ...fields } = describe(thrown)
  if (outcome === 'script_exception') logLine('error', stack ?? fields.message)
  const shown = kind === 'threwLater' && stack !== undefined ? { ...fields, stack } : fields
  answerProblem(request, { status, outcome, error, title, fault: 'tenant', ...shown })
}

export function answerTooLarge(request: WebtaskRequest, limit: number): void {
  const error = `Request body size exceeds ${limit}`
  answerProblem(request, {
    status: 413,
    outcome: 'body_too_large',
    error,
    title: 'The request body is over its limit',
    fault: 'caller',
    details: error,
    message: error,
  })
}

interface Problem {
  readonly status: number
  readonly outcome: ScriptOutcome
  readonly error: string
  readonly title: string
  readonly fault: 'tenant' | 'caller'
  readonly details: unknown
  readonly message: string
  readonly name?: string
  readonly stack?: string
}

function answerProblem(request: WebtaskRequest, { status, outcome, error, details, name, message, stack, title, fault }: Problem): void {
  const { res } = request
  if (!claimAnswer(request)) {
    // Half of the code's own answer is out: only breaking the connection tells the caller that it is not whole.
    if (res.headersSent && !res.writableEnded) res.destroy()
    return
  }
  for (const header of res.getHeaderNames()) res.removeHeader(header)
  // The code's own may be what could not be written.
  res.statusMessage = ''
  const body = {
    code: status,
    error,
    details,
    name,
    message,
    stack,
    requestId: request.id,
    fault,
    type: `urn:webtask:error:${outcome}`,
    title,
    status,
    detail: message,
  }
  sendJson(res, { status, json: stringify(body), outcome })
}

/** True for the one who may write the answer. */
export function claimAnswer(request: WebtaskRequest): boolean {
  const { res } = request
  if (request.answered || res.headersSent || res.destroyed) return false
  request.answered = true
  return true
}

function sendJson(res: ServerResponse, { status, json, outcome }: { status: number; json: string; outcome?: ScriptOutcome }): void {
  const headers = ['content-type', 'application/json', 'content-length', String(byteLength(json))]
  if (outcome) headers.push(OUTCOME_HEADER, outcome)
  res.writeHead(status, headers)
  res.end(json)
}
