/** How one seat came to its sandbox when a request first needed it. */
export interface Start {
  /** When it was asked for (Unix ms). */
  readonly at: number
  /** The class that was needed. */
  readonly make: string
  /** From the stock of prewarmed ones, or made for it. */
  readonly how: 'adopted' | 'made'
  /** How long the request waited for it (ms). */
  readonly ms: number
}

/** Demand older than this does not size the stock any more (ms). */
export const DEMAND_MS = 600_000
/** How long it takes until one that is taken from the stock is replaced, in a storm (ms). */
const LEAD_MS = 2_000

/**
 * How many prewarmed sandboxes to keep: as many as were needed within any lead time of the last ten minutes, within the operator's bounds.
 * `times` are Unix ms, oldest first.
 */
export function stockTarget(times: readonly number[], bounds: { readonly min: number; readonly max: number; readonly now: number }): number {
  const recent = times.filter((at) => bounds.now - at <= DEMAND_MS)
  let most = 0
  let first = 0
  for (let last = 0; last < recent.length; last += 1) {
    while (recent[last]! - recent[first]! > LEAD_MS) first += 1
    most = Math.max(most, last - first + 1)
  }
  return Math.min(Math.max(most, bounds.min), Math.max(bounds.min, bounds.max))
}

/** What a stock of one size would have meant for the first requests of a history. */
export interface Outlook {
  readonly size: number
  /** Share of first requests that find one ready. */
  readonly ready: number
  /** Waits for a sandbox (ms). */
  readonly p50: number
  readonly p95: number
}

/** Plays the history again with a stock of that size: one taken is replaced after `makeMs`, `atOnce` at a time; one that is not there is made. */
export function replay(starts: readonly number[], options: { size: number; makeMs: number; adoptMs: number; atOnce: number }): Outlook {
  const { size, makeMs, adoptMs, atOnce } = options
  /** When each maker is free again, and when each place of the stock is filled again. */
  const makers = Array.from({ length: atOnce }, () => -Infinity)
  const stock = Array.from({ length: size }, () => -Infinity)
  const make = (at: number): number => {
    const free = makers.indexOf(Math.min(...makers))
    return (makers[free] = Math.max(at, makers[free]!) + makeMs)
  }
  const waits = starts.map((at) => {
    const place = stock.findIndex((filled) => filled <= at)
    if (place < 0) return make(at) - at
    stock[place] = make(at)
    return adoptMs
  })
  const sorted = waits.toSorted((a, b) => a - b)
  const quantile = (q: number) => sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? 0
  return {
    size,
    ready: waits.length === 0 ? 1 : waits.filter((ms) => ms === adoptMs).length / waits.length,
    p50: quantile(0.5),
    p95: quantile(0.95),
  }
}
