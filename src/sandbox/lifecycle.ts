import { createHash } from 'node:crypto'
import { Queue, Worker } from 'bullmq'
import { connectQueue } from '../redis.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { EndCause } from './sandbox.ts'
import type { Seat } from './seat.ts'

/** Lifecycle jobs: small, idempotent, without secrets, gone when done. */
export type LifecycleJob =
  | { readonly kind: 'provision'; readonly tenant: TenantId | null; readonly seat: Seat | null; readonly make: string }
  /** Freeze or thaw it, as its record says by then. */
  | { readonly kind: 'settle'; readonly id: string }
  | { readonly kind: 'retire'; readonly id: string; readonly cause: EndCause }

/** Jobs at once: what they ask of the engine waits its turn there (`budgeted.ts`). */
const JOBS_AT_ONCE = 24
const QUEUE = 'lifecycle'
/** BullMQ's lower number goes first: callers wait for provisions, nobody waits for removals. */
const PRIORITY = { provision: 1, resume: 2, pause: 4, replenish: 5, retire: 10 } as const

/** Longest a stop waits for jobs to end and for Redis, which may be away for good (ms). */
const CLOSE_MS = 5_000

/** Closes a part of BullMQ in time, and its connections with it. */
async function close(part: { close(): Promise<void> }, connection: Disposable): Promise<void> {
  const late = Promise.withResolvers<void>()
  const timer = setTimeout(late.resolve, CLOSE_MS)
  await Promise.race([part.close().catch(() => {}), late.promise])
  clearTimeout(timer)
  connection[Symbol.dispose]()
}

export interface LifecycleQueue extends AsyncDisposable {
  /** Asks for one sandbox for this seat; asking again while that is under way changes nothing. */
  provision(wanted: { seat: Seat; tenant: TenantId; make: string }): Promise<void>
  /** Asks for one prewarmed sandbox of that class. */
  replenish(make: string): Promise<void>
  /** Asks to freeze it. */
  pause(id: string): Promise<void>
  /** Asks to thaw it. */
  resume(id: string): Promise<void>
  retire(id: string, cause: EndCause): Promise<void>
}

export function openLifecycleQueue(options: { redisUrl: string; prefix: string }): LifecycleQueue {
  // Producers fail fast while Redis is away: the caller hears 503 instead of waiting in an unbounded queue.
  const connection = connectQueue(options.redisUrl, { enableOfflineQueue: false })
  const queue = new Queue<LifecycleJob>(QUEUE, {
    connection: connection.redis,
    prefix: `${options.prefix}:bull`,
    defaultJobOptions: { removeOnComplete: true, removeOnFail: true, attempts: 1 },
  })
  queue.on('error', () => {
    // The connection retries by itself, and `redis.lost` is logged by the gateway's own connection.
  })
  return {
    async provision({ seat, tenant, make }) {
      const id = `provision-${createHash('sha256').update(seat).digest('hex').slice(0, 32)}`
      await queue.add('provision', { kind: 'provision', seat, tenant, make }, { deduplication: { id }, priority: PRIORITY.provision })
    },
    async replenish(make) {
      await queue.add('replenish', { kind: 'provision', seat: null, tenant: null, make }, { priority: PRIORITY.replenish })
    },
    async pause(id) {
      await queue.add('pause', { kind: 'settle', id }, { priority: PRIORITY.pause })
    },
    async resume(id) {
      await queue.add('resume', { kind: 'settle', id }, { priority: PRIORITY.resume })
    },
    async retire(id, cause) {
      await queue.add('retire', { kind: 'retire', id, cause }, { deduplication: { id: `retire-${id}` }, priority: PRIORITY.retire })
    },
    async [Symbol.asyncDispose]() {
      await close(queue, connection)
    },
  }
}

/** Runs lifecycle jobs until disposed. A handler that throws fails its job; `failed` tells whoever waits. */
export function startLifecycleWorker(options: {
  redisUrl: string
  prefix: string
  handle: (job: LifecycleJob) => Promise<void>
  failed: (job: LifecycleJob, error: Error) => void
}): AsyncDisposable {
  const connection = connectQueue(options.redisUrl, { enableOfflineQueue: true })
  const worker = new Worker<LifecycleJob>(QUEUE, (job) => options.handle(job.data), {
    connection: connection.redis,
    prefix: `${options.prefix}:bull`,
    concurrency: JOBS_AT_ONCE,
    // A worker that dies mid-job is noticed within lock + stalled check: 15 s.
    lockDuration: 10_000,
    stalledInterval: 5_000,
    maxStalledCount: 1,
  })
  worker.on('failed', (job, error) => job && options.failed(job.data, error))
  worker.on('error', () => {
    // Connection errors: the worker reconnects by itself.
  })
  return {
    async [Symbol.asyncDispose]() {
      await close(worker, connection)
    },
  }
}
