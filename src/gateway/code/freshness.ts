import { WebtaskError } from '../../errors.ts'
import type { CodeLimits } from './limits.ts'

/** What is known about one tenant's URL. `hash` is the hex SHA-256 of the code; times are ms since the epoch. */
export type CodeEntry = {
  readonly tenant: string
  readonly url: string
  readonly hash: string
  readonly etag: string | null
  /** When the host last said that this is the code. */
  readonly fetchedAt: number
  readonly freshUntil: number
}

/** `fresh`: serve it. `background`: serve it and ask the host meanwhile. `validate`: ask the host first. */
export type Freshness = 'fresh' | 'background' | 'validate'

/** What may be done with a kept entry at a time. An entry from the future (the clock was set back) is asked about first. */
export function freshness(entry: CodeEntry, now: number, limits: CodeLimits): Freshness {
  if (now < entry.fetchedAt) return 'validate'
  if (now < entry.freshUntil) return 'fresh'
  return now - entry.fetchedAt < limits.backgroundMs ? 'background' : 'validate'
}

/**
 * Whether a kept entry may stand in for a host that failed. Only while it is younger than `staleMs` and only for failures that may pass: a
 * 404 or a redirect to a private place is an answer, and the author may have meant it.
 */
export function maySubstitute(entry: CodeEntry, failure: unknown, at: { now: number; limits: CodeLimits }): boolean {
  return failure instanceof WebtaskError && failure.retryAfterSeconds !== undefined && at.now - entry.fetchedAt < at.limits.staleMs
}
