import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { percentile, round } from './percentiles.ts'

export interface OpenLoad {
  readonly url: string
  readonly perSecond: number
  readonly headers?: Readonly<Record<string, string>>
}

/** What became of the requests that were due between two cuts. */
export interface OpenWindow {
  /** Each from the moment it was due until its answer had ended (ms). */
  readonly times: readonly number[]
  /** How much later than due each was sent (ms): the generator's own share. */
  readonly lags: readonly number[]
  readonly failed: number
}

export interface OpenLoop extends AsyncDisposable {
  /** What was due since the last cut, once all of it has ended. */
  cut(): Promise<OpenWindow>
}

/**
 * Sends requests when they are due, however long earlier ones take, and counts from when each was due: a server that stalls is seen to.
 * Runs in a thread of its own, so that nothing else of this process delays it.
 */
export async function startOpenLoop(load: OpenLoad): Promise<OpenLoop> {
  const thread = new Worker(new URL('open-loop-thread.ts', import.meta.url), { workerData: load })
  await once(thread, 'online')
  return {
    async cut() {
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
      thread.postMessage('cut')
      const [window] = (await once(thread, 'message')) as [OpenWindow]
      return window
    },
    async [Symbol.asyncDispose]() {
      await thread.terminate()
    },
  }
}

export interface OpenFigures {
  readonly requests: number
  readonly failed: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
  readonly lagP99Ms: number
}

export function figuresOf({ times, lags, failed }: OpenWindow): OpenFigures {
  return {
    requests: times.length + failed,
    failed,
    p50Ms: round(percentile(times, 0.5)),
    p99Ms: round(percentile(times, 0.99)),
    maxMs: round(percentile(times, 1)),
    lagP99Ms: round(percentile(lags, 0.99)),
  }
}
