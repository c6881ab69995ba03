import { WebtaskError } from '../errors.ts'
import type { Failure, WorkerEnd } from '../protocol/messages.ts'
import { WorkerGone } from './worker-link.ts'

/** The code did not load; `failure` is the answer for its callers. */
export class WebtaskRefused extends Error {
  readonly failure: Failure
  constructor(failure: Failure) {
    super(failure.message)
    this.failure = failure
  }
}

/** The sandbox went away before the webtask was loaded there: no byte of any request has reached it. */
export class SandboxLost extends Error {}

/** How long the agent may take to end a worker, beyond the grace, before the container is killed (ms). */
export const END_SLACK_MS = 1_000

export interface LoadsOptions<Loaded> {
  /** How long code may take to load (ms). */
  readonly loadMs: number
  /** V8 heap of a worker (MiB), for what callers are told. */
  readonly heapMib: number
  /** Makes of a run's number what those who wait for it get. */
  loaded(key: string, run: number): Loaded
  /** A load takes too long: the agent must end it. */
  overdue(key: string): void
  /** The agent did not. */
  stuck(): void
}

/** The webtasks that one sandbox is loading, each once for all who ask at the same time. */
export interface Loads<Loaded> {
  underway(key: string): Promise<Loaded> | undefined
  /** Waits for the agent's word on a load that was just asked for. */
  expect(key: string): Promise<Loaded>
  /** The agent loaded it; false when nobody waits. */
  loaded(key: string, run: number): boolean
  refused(key: string, failure: Failure): void
  /** A worker is gone, perhaps the one that is waited for. */
  gone(key: string, run: number, end: WorkerEnd): void
  /** None of them will be. */
  lost(reason: string): void
}

interface Waiting<Loaded> {
  readonly promise: Promise<Loaded>
  /** The newest run known when it was asked for: word of that one or an older one is not about this load. */
  readonly after: number
  resolve(loaded: Loaded): void
  reject(error: Error): void
}

export function createLoads<Loaded>(options: LoadsOptions<Loaded>): Loads<Loaded> {
  const loading = new Map<string, Waiting<Loaded>>()
  /** Loads that were given up and whose end is awaited. */
  const overdue = new Map<string, NodeJS.Timeout>()
  let newestRun = 0

  function giveUp(key: string): void {
    loading.get(key)?.reject(new WebtaskError('invocation_timeout', `The code did not finish loading within ${options.loadMs} ms; it was stopped`))
    options.overdue(key)
    overdue.set(key, setTimeout(options.stuck, END_SLACK_MS))
  }

  return {
    underway: (key) => loading.get(key)?.promise,
    expect(key) {
      const { promise, resolve, reject } = Promise.withResolvers<Loaded>()
      const timer = setTimeout(giveUp, options.loadMs, key)
      const settled = promise.finally(() => {
        clearTimeout(timer)
        loading.delete(key)
      })
      loading.set(key, { promise: settled, after: newestRun, resolve, reject })
      return settled
    },
    loaded(key, run) {
      newestRun = Math.max(newestRun, run)
      const waiting = loading.get(key)
      waiting?.resolve(options.loaded(key, run))
      return waiting !== undefined
    },
    refused(key, failure) {
      loading.get(key)?.reject(new WebtaskRefused(failure))
    },
    gone(key, run, end) {
      newestRun = Math.max(newestRun, run)
      const late = overdue.get(key)
      clearTimeout(late)
      overdue.delete(key)
      const waiting = loading.get(key)
      if (late === undefined && waiting !== undefined && run > waiting.after) waiting.reject(goneWhileLoading(end, options.heapMib))
    },
    lost(reason) {
      for (const { reject } of loading.values()) reject(new SandboxLost(reason))
      for (const timer of overdue.values()) clearTimeout(timer)
      overdue.clear()
    },
  }
}

/** What those hear who wait for a load that will never be. */
function goneWhileLoading(end: WorkerEnd, heapMib: number): Error {
  switch (end) {
    case 'memory':
      return new WebtaskError('memory_limit', `The code ran over its memory limit (heap ${heapMib} MiB) while loading`)
    case 'exit':
      return new WebtaskError('sandbox_crashed', 'The code ended its process while loading')
    case 'error':
      return new WebtaskError('sandbox_crashed', 'The code broke its worker while loading')
    case 'ended':
      return new WorkerGone('Another gateway ended the worker while it loaded')
    case 'unstarted':
      return new SandboxLost('The sandbox has no room for one more worker')
  }
}
