import { WebtaskError } from '../errors.ts'

/** Finding Redis again after it was away takes as long as this (s): an outage of just the limit is no reason to refuse. */
const FOUND_AGAIN_SECONDS = 1

/** Whether what is known is recent enough to go on with. */
export function isFresh(staleSeconds: number, max: number): boolean {
  return staleSeconds <= max + FOUND_AGAIN_SECONDS
}

/** Refuses (unavailable) to go on with what is known when `what`, where revocations come from, could not be read for more than `max` seconds. */
export function assertFresh(staleSeconds: number, options: { max: number; what: string }): void {
  if (isFresh(staleSeconds, options.max)) return
  const message = `Whether a token is revoked cannot be told: ${options.what} could not be read for ${Math.floor(staleSeconds)} s; try again`
  throw new WebtaskError('unavailable', message, { retryAfterSeconds: 1 })
}
