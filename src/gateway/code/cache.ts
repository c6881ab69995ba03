import { LRUCache } from 'lru-cache'
import { abandonable } from '../../egress/abandon.ts'
import type { FetchCode, FetchedCode } from '../../egress/fetch-code.ts'
import { createGate } from '../../egress/gate.ts'
import { WebtaskError } from '../../errors.ts'
import type { Log } from '../../log.ts'
import { openDisk } from './disk.ts'
import { createCodeEntries, keyOf } from './entries.ts'
import { freshness, maySubstitute } from './freshness.ts'
import type { CodeEntry } from './freshness.ts'
import { CODE_LIMITS } from './limits.ts'
import type { CodeLimits } from './limits.ts'
import { parseCodeHash, pinned } from './pin.ts'
import { createCodeStore } from './store.ts'
import type { Code } from './store.ts'

export type CodeQuery = {
  readonly tenant: string
  readonly url: string
  /** Asks the host for the whole code whatever is kept, and fails if the host does. */
  readonly noCache?: boolean | undefined
  /** The only code that may be served: "sha256-<base64url>". */
  readonly cph?: string | undefined
  /** Ends this caller's wait, never the fetch that others share. */
  readonly signal?: AbortSignal | undefined
}

export type CodeCache = AsyncDisposable & {
  /** The code of a URL. Throws what the fetch throws, `code_unavailable` if the code has another hash than `cph`, or the signal's reason. */
  get(query: CodeQuery): Promise<Code>
  /** Keeps inline code. It may be forgotten, as everything here. */
  put(code: string): Code
  /** Code by its hex SHA-256. Hashes are not secrets between tenants: only pass one that came from this tenant's `get` or `put`. */
  byHash(sha256: string): Promise<Code | undefined>
  /** Resolves when nothing is fetched, written or cleaned up. */
  idle(): Promise<void>
}

export type CodeCacheOptions = {
  readonly fetch: FetchCode
  /** Belongs to this cache alone; made with mode 0700. */
  readonly dir: string
  /** Clock, ms since the epoch. */
  readonly now?: () => number
  readonly limits?: Partial<CodeLimits>
  readonly log?: Pick<Log, 'warn'> | undefined
}

type Kept = { readonly entry: CodeEntry; readonly code: Code }

/** Makes the code cache of a gateway: one fetch for many callers, no waiting for a host that was heard lately, stale code for one that fails. */
export function createCodeCache(options: CodeCacheOptions): CodeCache {
  const { log, now = Date.now } = options
  const limits: CodeLimits = { ...CODE_LIMITS, ...options.limits }
  const disk = openDisk({ dir: options.dir, limits: { bytes: limits.diskBytes, files: limits.diskFiles, writes: limits.diskWrites }, log })
  const store = createCodeStore({ disk, memoryBytes: limits.memoryBytes })
  const entries = createCodeEntries({ disk, memoryUrls: limits.memoryUrls })
  const failures = new LRUCache<string, { error: unknown; until: number }>({ max: limits.memoryUrls })
  const flights = new Map<string, Promise<Code>>()
  const lookups = new Map<string, Promise<Kept | undefined>>()
  const full = () => new WebtaskError('quota_exceeded', 'Too many code URLs of this tenant are fetched at once', { retryAfterSeconds: 1 })
  const gate = createGate({ atOnce: limits.tenantFetches, waiting: limits.tenantFetchesWaiting, full })
  let questions = 0

  /** What is kept for this tenant's URL, from memory without waiting or else from disk, once for all who ask. */
  function keptFor(query: CodeQuery): Kept | undefined | Promise<Kept | undefined> {
    const known = entries.peek(query.tenant, query.url)
    const code = known && store.peek(known.hash)
    if (known !== undefined && code !== undefined) return { entry: known, code }
    return share(lookups, keyOf(query.tenant, query.url), async () => {
      const entry = await entries.read(query.tenant, query.url)
      const read = entry && (await store.read(entry.hash))
      return entry && read && { entry, code: read }
    })
  }

  /** Asks the host, once for all who want the same at the same time. */
  function refresh(query: CodeQuery, kept: Kept | undefined): Promise<Code> {
    const { tenant, url } = query
    const key = keyOf(tenant, url)
    return share(flights, query.noCache ? `${key} whole` : key, async () => {
      try {
        using _turn = await gate.enter(tenant)
        const order = ++questions
        const answer = await options.fetch({ url, etag: kept?.entry.etag ?? undefined, maxBytes: limits.codeBytes })
        const code = codeOf(answer, kept)
        const fetchedAt = now()
        const etag = answer.status === 'fetched' ? answer.etag : (kept?.entry.etag ?? null)
        entries.record({ tenant, url, hash: code.sha256, etag, fetchedAt, freshUntil: fetchedAt + limits.freshMs }, order)
        failures.delete(key)
        return code
      } catch (error) {
        failures.set(key, { error, until: now() + limits.failureMs })
        throw error
      }
    })
  }

  function codeOf(answer: FetchedCode, kept: Kept | undefined): Code {
    if (answer.status === 'fetched') return store.put(answer.code)
    if (kept === undefined) throw new WebtaskError('internal', 'The egress role says that code which was never fetched is unchanged')
    store.touch(kept.code.sha256)
    return kept.code
  }

  /** Asks the host unless it failed just now; then that failure is the answer. */
  async function refreshUnlessFailing(query: CodeQuery, kept: Kept | undefined): Promise<Code> {
    const failure = failures.get(keyOf(query.tenant, query.url))
    if (failure !== undefined && now() < failure.until) throw failure.error
    return abandonable(refresh(query, kept), query.signal)
  }

  async function refreshOrStale(query: CodeQuery, kept: Kept): Promise<Code> {
    try {
      return await refreshUnlessFailing(query, kept)
    } catch (error) {
      if (query.signal?.aborted || !maySubstitute(kept.entry, error, { now: now(), limits })) throw error
      reportStale(kept.entry, error)
      return kept.code
    }
  }

  function refreshInBackground(query: CodeQuery, kept: Kept): void {
    const key = keyOf(query.tenant, query.url)
    const failure = failures.get(key)
    if (flights.has(key) || (failure !== undefined && now() < failure.until)) return
    refresh(query, kept).catch((error: unknown) => reportStale(kept.entry, error))
  }

  function reportStale(entry: CodeEntry, error: unknown): void {
    const reason = error instanceof WebtaskError ? error.message : String(error)
    log?.warn({ tenant: entry.tenant, host: URL.parse(entry.url)?.host, ageMs: now() - entry.fetchedAt, reason }, 'code.stale')
  }

  async function current(query: CodeQuery, wanted: string | undefined): Promise<Code> {
    if (query.noCache) return abandonable(refresh(query, undefined), query.signal)
    const found = keptFor(query)
    const kept = found instanceof Promise ? await abandonable(found, query.signal) : found
    if (kept === undefined) return refreshUnlessFailing(query, undefined)
    const state = freshness(kept.entry, now(), limits)
    if (state === 'fresh') return kept.code
    // Other code than the caller pinned cannot be served, so the host may as well be asked now.
    if (state === 'validate' || (wanted !== undefined && kept.code.sha256 !== wanted)) return refreshOrStale(query, kept)
    refreshInBackground(query, kept)
    return kept.code
  }

  return {
    async get(query) {
      query.signal?.throwIfAborted()
      const wanted = query.cph === undefined ? undefined : parseCodeHash(query.cph)
      return pinned(await current(query, wanted), query.cph)
    },
    put: (code) => store.put(code),
    byHash: (sha256) => store.read(sha256),
    async idle() {
      while (flights.size > 0) await Promise.allSettled(flights.values())
      await disk.idle()
    },
    [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
  }
}

/** Joins the work under way for a key, or starts it. */
function share<T>(running: Map<string, Promise<T>>, key: string, work: () => Promise<T>): Promise<T> {
  const under = running.get(key)
  if (under !== undefined) return under
  const started = work().finally(() => running.delete(key))
  running.set(key, started)
  return started
}
