/** So much of something in each second. */
export interface Budget {
  /** Takes `amount` if there is any left of this second; false when there is none. */
  take(amount: number, now: number): boolean
  /** Milliseconds until there is some again. */
  wait(now: number): number
}

const WINDOW_MS = 1_000

/** `perSecond` of anything; the last taking may go beyond it. Times are in milliseconds of any clock that does not go back. */
export function createBudget(perSecond: number): Budget {
  let windowStart = -Infinity
  let taken = 0
  return {
    take(amount, now) {
      if (now - windowStart >= WINDOW_MS) {
        windowStart = now
        taken = 0
      }
      if (taken >= perSecond) return false
      taken += amount
      return true
    },
    wait: (now) => Math.max(0, windowStart + WINDOW_MS - now),
  }
}
