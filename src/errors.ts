/**
 * Every way a request can fail, in one table: code → HTTP status and whose fault it is.
 * Callers switch on `code`, never on text. README shows this table and a test keeps them equal.
 */
export const ERRORS = {
  bad_request: { status: 400, fault: 'caller', means: 'Something in the request is malformed; the message says what' },
  token_missing: { status: 401, fault: 'caller', means: 'No token came with the request' },
  token_invalid: { status: 401, fault: 'caller', means: 'The token is not valid here, now (one answer for every reason)' },
  forbidden: { status: 403, fault: 'caller', means: 'The token is valid but does not allow this, or nobody may do it here' },
  not_found: { status: 404, fault: 'caller', means: 'No such webtask or route' },
  method_not_allowed: { status: 405, fault: 'caller', means: 'The route exists, but not for this method' },
  conflict: { status: 409, fault: 'caller', means: 'It cannot be done while something else is as it is; the message says what' },
  body_too_large: { status: 413, fault: 'caller', means: 'The request body is over its limit' },
  code_too_large: { status: 413, fault: 'caller', means: 'The code is over its limit' },
  header_too_large: { status: 431, fault: 'caller', means: 'The request line and headers are over their limit' },
  quota_exceeded: {
    status: 429,
    fault: 'caller',
    means: 'The tenant or the token has too many requests at once, or the tenant too many revocations',
  },
  code_unavailable: { status: 502, fault: 'tenant', means: 'The code could not be fetched from its URL' },
  code_invalid: { status: 400, fault: 'tenant', means: 'The code does not compile, does not load or exports nothing that can run' },
  script_error: { status: 400, fault: 'tenant', means: 'The code called back with an error' },
  script_exception: { status: 500, fault: 'tenant', means: 'The code threw' },
  invocation_timeout: { status: 504, fault: 'tenant', means: 'The code did not finish in its time; it was stopped' },
  memory_limit: { status: 502, fault: 'tenant', means: 'The code ran over its memory limit; it was stopped' },
  sandbox_crashed: { status: 502, fault: 'tenant', means: 'The code ended its process or broke its connection while answering' },
  response_invalid: { status: 502, fault: 'tenant', means: 'The code sent a response that is not valid HTTP or is over a limit' },
  response_too_large: { status: 502, fault: 'tenant', means: 'The answer of the code is over its limit' },
  pool_exhausted: { status: 503, fault: 'platform', means: 'No sandbox could be had in time; try again' },
  unavailable: { status: 503, fault: 'platform', means: 'A part of the platform cannot be reached; try again' },
  internal: { status: 500, fault: 'platform', means: 'The platform failed; the request id leads to the log' },
} as const satisfies Record<string, { status: number; fault: Fault; means: string }>

export type Fault = 'caller' | 'tenant' | 'platform'
export type ErrorCode = keyof typeof ERRORS

/** A failure that a person or a client is told about. `message` is shown as is unless the fault is the platform's. */
export class WebtaskError extends Error {
  readonly code: ErrorCode
  /** Seconds after which trying again makes sense; becomes `Retry-After`. */
  readonly retryAfterSeconds: number | undefined

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; retryAfterSeconds?: number } = {}) {
    super(message, { cause: options.cause })
    this.name = 'WebtaskError'
    this.code = code
    this.retryAfterSeconds = options.retryAfterSeconds
  }

  get status(): number {
    return ERRORS[this.code].status
  }

  get fault(): Fault {
    return ERRORS[this.code].fault
  }
}
