/** Waits for a promise, or until the signal aborts: then rejects with the signal's reason and leaves the work to itself. */
export async function abandonable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const abandon = () => reject(signal.reason)
  signal.addEventListener('abort', abandon, { once: true })
  if (signal.aborted) abandon()
  try {
    return await Promise.race([work, aborted])
  } catch (error) {
    // Work that listens to the same signal may fail first, with a lesser reason.
    throw signal.aborted ? signal.reason : error
  } finally {
    signal.removeEventListener('abort', abandon)
  }
}

/** Runs work under a time limit (ms) within a parent signal. Its signal aborts, and the call rejects, with `expired()` or the parent's reason. */
export async function within<T>(
  limit: { ms: number; parent: AbortSignal; expired: () => Error },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const timer = new AbortController()
  const timeout = setTimeout(() => timer.abort(limit.expired()), limit.ms)
  const signal = AbortSignal.any([limit.parent, timer.signal])
  try {
    signal.throwIfAborted()
    return await abandonable(work(signal), signal)
  } finally {
    clearTimeout(timeout)
  }
}
