import { randomInt } from 'node:crypto'

/**
 * Ids of the form that webtask users know from their logs: milliseconds, a dot, digits. Unique per process by a
 * counter, and between processes by a random start; not secret.
 */
export function createRequestIds(): () => string {
  const process = String(randomInt(10_000)).padStart(4, '0')
  let count = 0
  return () => {
    count = (count + 1) % 1_000_000
    return `${Date.now()}.${process}${String(count).padStart(6, '0')}`
  }
}
