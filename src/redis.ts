import { readFileSync } from 'node:fs'
import { Redis } from 'ioredis'
import type { Log } from './log.ts'

export type { Redis }

/** Where a Redis is, in the words that ioredis and BullMQ share. */
type Address = { path: string } | { host: string; port: number; db: number; username?: string; password?: string; tls?: Record<string, never> }

/**
 * `unix:///path` or a redis(s) URL as ioredis options; the same settings serve ioredis and BullMQ.
 * Throws TypeError when the URL cannot be parsed.
 */
function redisOptions(url: string): Address {
  if (url.startsWith('unix://')) return { path: url.slice('unix://'.length) }
  const { hostname, port, username, password, pathname, protocol } = new URL(url)
  return {
    host: hostname,
    port: Number(port || 6379),
    db: Number(pathname.slice(1) || 0),
    ...(username ? { username: decodeURIComponent(username) } : {}),
    ...(password ? { password: decodeURIComponent(password) } : {}),
    ...(protocol === 'rediss:' ? { tls: {} } : {}),
  }
}

/** For people: where it is, without the password. */
export function redisPlace(url: string): string {
  const address = redisOptions(url)
  return 'path' in address ? address.path : `${address.host}:${address.port}`
}

/** Pause before a lost connection is tried again (ms): short, because a Redis that is back is waited for. */
const retryAfterMs = (attempt: number): number => Math.min(25 * 2 ** attempt, 200)

/** How long a command of the request path may take before it fails (ms). */
const COMMAND_TIMEOUT_MS = 5_000

/**
 * A connection that retries for ever with a bounded pause, and whose commands fail fast instead of queueing without bound.
 * Losing and finding Redis are each logged once, not per attempt.
 */
export function connectRedis(url: string, log: Log): Redis {
  const redis = new Redis({
    ...redisOptions(url),
    lazyConnect: true,
    connectTimeout: 2_000,
    commandTimeout: COMMAND_TIMEOUT_MS,
    maxRetriesPerRequest: 1,
    retryStrategy: retryAfterMs,
  })
  // Until it was there once, whoever waits for it says so.
  let lost = true
  redis.on('error', (error) => {
    if (!lost) log.warn({ reason: error.message }, 'redis.lost')
    lost = true
  })
  let found = false
  redis.on('ready', () => {
    if (found && lost) log.info({}, 'redis.found')
    found = true
    lost = false
  })
  return redis
}

/**
 * A connection for a job queue, which makes copies of it and would wait for Redis for ever when it closes: disposing drops them all at
 * once. Losing Redis is logged by the other connections.
 */
export function connectQueue(url: string, options: { enableOfflineQueue: boolean }): { readonly redis: Redis } & Disposable {
  const all: Redis[] = []
  class QueueRedis extends Redis {
    override duplicate(override?: Parameters<Redis['duplicate']>[0]): Redis {
      return track(super.duplicate(override))
    }
  }
  const track = (redis: Redis): Redis => {
    redis.on('error', () => {})
    all.push(redis)
    return redis
  }
  const redis = track(
    new QueueRedis({
      ...redisOptions(url),
      ...options,
      maxRetriesPerRequest: null,
      retryStrategy: retryAfterMs,
    }),
  )
  return {
    redis,
    [Symbol.dispose]() {
      for (const each of all) each.disconnect()
    },
  }
}

/** Resolves once Redis answers; says what it waits for when that takes long. Rejects when `signal` aborts. */
export async function waitForRedis(redis: Redis, options: { signal: AbortSignal; waiting: (seconds: number) => void }): Promise<void> {
  const began = performance.now()
  let said = 0
  for (;;) {
    options.signal.throwIfAborted()
    try {
      if (redis.status === 'wait') await redis.connect()
      await redis.ping()
      return
    } catch {
      const seconds = Math.round((performance.now() - began) / 1000)
      if (seconds >= said + 2) options.waiting((said = seconds))
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

/**
 * A Lua script as a typed function: loaded once, called by digest. `keys` and `args` go to KEYS and ARGV.
 * The script's header names every return value; the caller names them in its type.
 */
export function loadScript<Result>(redis: Redis, file: URL): (keys: readonly string[], args: readonly (string | number)[]) => Promise<Result> {
  const name = `script_${file.pathname.split('/').at(-1)!.replace('.lua', '')}`
  redis.defineCommand(name, { lua: readFileSync(file, 'utf8') })
  const call = (redis as unknown as Record<string, (...args: unknown[]) => Promise<Result>>)[name]!
  return (keys, args) => call.call(redis, keys.length, ...keys, ...args)
}
