import { replay, type Outlook, type Start } from './starts.ts'

/** What the history of one class says about its stock. */
export interface Advice {
  readonly make: string
  readonly starts: number
  readonly adopted: number
  /** Waits as they were (ms). */
  readonly p95: number
  /** How long it took to make a sandbox, and to adopt one (ms, medians). */
  readonly makeMs: number
  readonly adoptMs: number
  readonly outlooks: readonly Outlook[]
  /** The smallest stock with the wanted p95; undefined when none has. */
  readonly recommended: number | undefined
}

const SIZES = [0, 1, 2, 4, 8, 16, 32, 64] as const
/** What the engine makes at once (`budgeted.ts`). */
const AT_ONCE = 4
/** Where the history has none of one kind (ms). */
const USUAL_MS = { made: 250, adopted: 10 } as const

function quantile(values: readonly number[], q: number): number | undefined {
  return values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(q * values.length) - 1)]
}

/** Plays each class's history again with stocks of several sizes. */
export function advise(starts: readonly Start[], wanted: { readonly p95Ms: number }): Advice[] {
  return [...Map.groupBy(starts, ({ make }) => make)].map(([make, ours]) => {
    const waits = (how: Start['how']) => ours.filter((one) => one.how === how).map(({ ms }) => ms)
    const makeMs = quantile(waits('made'), 0.5) ?? USUAL_MS.made
    const adoptMs = Math.min(quantile(waits('adopted'), 0.5) ?? USUAL_MS.adopted, makeMs)
    const times = ours.map(({ at }) => at).toSorted((a, b) => a - b)
    const outlooks = SIZES.map((size) => replay(times, { size, makeMs, adoptMs, atOnce: AT_ONCE }))
    return {
      make,
      starts: ours.length,
      adopted: waits('adopted').length,
      p95: quantile(
        ours.map(({ ms }) => ms),
        0.95,
      )!,
      makeMs,
      adoptMs,
      outlooks,
      recommended: outlooks.find(({ p95 }) => p95 <= wanted.p95Ms)?.size,
    }
  })
}
