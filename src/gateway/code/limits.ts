/** How long code is kept and how much of it. */
export const CODE_LIMITS = {
  /** After a fetch or a revalidation the host is not asked again for this long. */
  freshMs: 5000,
  /** Up to this age the kept code is served at once and revalidated in the background; past it, revalidation comes first. */
  backgroundMs: 600_000,
  /** Up to this age the kept code is served when the host fails in a way that may pass. */
  staleMs: 86_400_000,
  /** A failed host is not asked again for this long, except with `noCache`. */
  failureMs: 2000,
  /** Largest code (bytes on the wire). */
  codeBytes: 5_242_880,
  memoryBytes: 67_108_864,
  /** URLs remembered in memory, and failures likewise. */
  memoryUrls: 10_000,
  diskBytes: 268_435_456,
  /** Files on disk, for code and for URLs together. */
  diskFiles: 50_000,
  /** Writes under way; a further one is skipped, since a cache may forget. */
  diskWrites: 256,
  /** Fetches at once for one tenant, and callers with other URLs that wait in line. */
  tenantFetches: 8,
  tenantFetchesWaiting: 64,
} as const

export type CodeLimits = { readonly [Name in keyof typeof CODE_LIMITS]: number }
