import { WebtaskError } from '../errors.ts'

/** Refuses (unavailable) to go on with what is known when `what`, where revocations come from, could not be read for more than `max` seconds. */
export function assertFresh(staleSeconds: number, options: { max: number; what: string }): void {
  if (staleSeconds <= options.max) return
  const message = `Whether a token is revoked cannot be told: ${options.what} could not be read for ${Math.floor(staleSeconds)} s; try again`
  throw new WebtaskError('unavailable', message, { retryAfterSeconds: 1 })
}
