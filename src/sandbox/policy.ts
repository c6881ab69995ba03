/**
 * Compares what is recorded with what runs: orphans run without a record and are removed, ghosts are recorded
 * without running and are forgotten.
 */
export function drift(recorded: ReadonlySet<string>, running: ReadonlySet<string>): { orphans: string[]; ghosts: string[] } {
  return { orphans: [...running.difference(recorded)], ghosts: [...recorded.difference(running)] }
}

/** Of those that can take a request, the one with the fewest; the first of equals, so that the last ones fall idle and go. */
export function leastLoaded<Place extends { readonly inFlight: number; readonly link: { readonly connected: boolean } }>(
  places: readonly Place[],
): Place | undefined {
  let best: Place | undefined
  for (const place of places) if (place.link.connected && (best === undefined || place.inFlight < best.inFlight)) best = place
  return best
}

/** A sandbox that might make room for another. */
export interface Candidate {
  readonly id: string
  readonly inFlight: number
  /** Unix ms. */
  readonly idleSince: number
  /** Its tenant is promised that it stays. */
  readonly isKept: boolean
}

/**
 * Who makes room, longest idle first: never one with work in flight, never one whose tenant was promised it, and none that was used within
 * `restMs`, so that tenants that come again at once do not push each other out for ever.
 */
export function toEvict(candidates: readonly Candidate[], options: { count: number; now: number; restMs: number }): string[] {
  const { count, now, restMs } = options
  return candidates
    .filter(({ inFlight, idleSince, isKept }) => inFlight === 0 && !isKept && now - idleSince >= restMs)
    .toSorted((a, b) => a.idleSince - b.idleSince)
    .slice(0, Math.max(0, count))
    .map(({ id }) => id)
}

/**
 * Whether a sandbox has served its time: made from another template than today's, or too old. Ages are spread by up to a tenth, by id, so
 * that those made together do not all go together.
 */
export function isWorn(
  sandbox: { readonly id: string; readonly spec: string; readonly createdAt: number },
  limits: { readonly spec: string; readonly ageMs: number; readonly now: number },
): boolean {
  if (sandbox.spec !== limits.spec) return true
  const spread = (Number.parseInt(sandbox.id.slice(0, 4), 16) || 0) / 0xffff
  return limits.now - sandbox.createdAt > limits.ageMs * (0.9 + spread / 10)
}
