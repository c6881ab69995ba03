/** Whether to ask somebody who may be away: after failures in a row nobody asks for a while, then one tries. */
export type Breaker =
  | { readonly state: 'closed'; readonly failures: number }
  | { readonly state: 'open'; readonly until: number; readonly waitMs: number }
  /** One asks; the others wait for how it goes. */
  | { readonly state: 'trying'; readonly waitMs: number }

export type BreakerEvent = 'asked' | 'answered' | 'failed'

/** Failures in a row until nobody asks any more. */
const FAILURES = 3
/** For how long nobody asks (ms): doubled with each try that fails. */
const WAIT_MS = { first: 500, most: 5_000 } as const

export const CLOSED: Breaker = { state: 'closed', failures: 0 }

/** Whether one may ask now (ms of any clock). */
export function mayAsk(breaker: Breaker, now: number): boolean {
  return breaker.state === 'closed' || (breaker.state === 'open' && now >= breaker.until)
}

export function afterBreaker(breaker: Breaker, event: BreakerEvent, now: number): Breaker {
  if (event === 'answered') return CLOSED
  if (event === 'asked') return breaker.state === 'open' ? { state: 'trying', waitMs: breaker.waitMs } : breaker
  if (breaker.state === 'closed' && breaker.failures + 1 < FAILURES) return { state: 'closed', failures: breaker.failures + 1 }
  const waitMs = breaker.state === 'closed' ? WAIT_MS.first : Math.min(breaker.waitMs * 2, WAIT_MS.most)
  return { state: 'open', until: now + waitMs, waitMs }
}
