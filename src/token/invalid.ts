import { WebtaskError } from '../errors.ts'

/** The one answer for every token that is not valid here, now. The reason is for the log alone, as `cause`. */
export function invalidToken(reason: string, cause?: unknown): WebtaskError {
  return new WebtaskError('token_invalid', 'The token is not valid', { cause: new Error(reason, { cause }) })
}
