/** What one fetch of code may cost. Times include waiting; bytes are counted on the wire. */
export const FETCH_LIMITS = {
  /** From the call to the last byte, queueing and redirects included. */
  totalMs: 10_000,
  lookupMs: 2000,
  /** TCP and TLS together, over all addresses of the host. */
  connectMs: 2000,
  firstByteMs: 5000,
  redirects: 3,
  /** More addresses than this for one name is an attack or a mistake. */
  addresses: 16,
  headerBytes: 16_384,
  /** When the request does not say. */
  bodyBytes: 5_242_880,
  /** What a request may ask for at most. */
  bodyBytesCeiling: 16_777_216,
  perHost: 4,
  perHostWaiting: 64,
  /** Over all hosts; with `bodyBytes` it bounds the memory of the role. */
  atOnce: 64,
  atOnceWaiting: 512,
  /** A failure that may pass (no connection, 5xx) says so with this `retryAfterSeconds`; a definite one (404, too large) has none. */
  retryAfterSeconds: 2,
} as const

/** What connections of webtasks may cost, beside what a tenant may use. Times in ms. */
export const RELAY_LIMITS = {
  /** From a sandbox's connection to its whole request. */
  requestMs: 5000,
  /** TCP over all addresses of the host. */
  connectMs: 10_000,
  /** An address that says nothing for this long has the next one tried beside it. */
  staggerMs: 250,
  /** Addresses of one name that are tried; all of them are judged. */
  addresses: 8,
  /** Records of one answer. */
  records: 1024,
  /** Silence of the far end after the webtask closed its side. */
  halfOpenMs: 120_000,
  /** How long a sandbox may ask what became of a connection, and of how many. */
  brokenMs: 30_000,
  brokenRemembered: 10_000,
  /** Connections of one sandbox that have not become anything yet, beside the tenant's limit. */
  pendingConnections: 64,
}

export type FetchLimits = { readonly [Name in keyof typeof FETCH_LIMITS]: number }
