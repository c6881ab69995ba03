import { randomBytes } from 'node:crypto'
import { WebtaskError } from '../errors.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { Claims } from './claims.ts'
import { assertFresh } from './fresh.ts'
import { createRevokedSet, nextWatermark, tenantRevocation, tokenRevocation, type Revocable, type Revocation } from './revocation.ts'
import type { RevocationFile } from './revocation-file.ts'

/** What revocation needs of a Redis connection. */
export interface RevocationRedis {
  get(key: string): Promise<string | null>
  mget(...keys: string[]): Promise<(string | null)[]>
  set(key: string, value: string, condition: 'NX'): Promise<unknown>
  hgetall(key: string): Promise<Record<string, string>>
  hdel(key: string, ...fields: string[]): Promise<number>
  eval(script: string, keys: number, ...args: (string | number)[]): Promise<unknown>
}

/** What it needs of a second connection, which only listens. */
export interface RevocationSubscriber {
  subscribe(channel: string): Promise<unknown>
  unsubscribe(channel: string): Promise<unknown>
  on(event: 'message', listener: (channel: string, message: string) => void): unknown
  off(event: 'message', listener: (channel: string, message: string) => void): unknown
}

export interface Revocations extends Disposable {
  /**
   * In memory and cheap; true for a revoked token and its descendants, and for the tokens of a revoked tenant. Refuses (unavailable) to
   * say that a token is not revoked when that was not known for too long.
   */
  isRevoked(claims: Revocable): boolean
  /**
   * Revokes for good and everywhere; resolves when Redis and the disk have it. `owners` are those on whose account it is done. Refuses
   * (quota_exceeded) when one of them has too many, and (unavailable) when it cannot be made durable; then it may hold or not: ask again.
   */
  revoke(claims: Pick<Claims, 'jti' | 'exp'>, owners?: readonly string[]): Promise<void>
  /** Revokes all tokens issued so far that name the tenant. Refuses as `revoke` does. */
  revokeTenant(tenant: TenantId): Promise<void>
  /** The first second in which tokens for these tenants can be issued: after the last revocation of one of them. */
  earliestIssue(ten: Claims['ten']): number
  /** For how long this process has not known whether it missed something, in seconds; moves on with time, not with the clock. */
  staleSeconds(): number
}

const REVOKE = `
-- Record one revocation and tell every gateway, unless it is known. Of two for one tenant the later one counts.
-- KEYS[1] hash of subject to value  KEYS[2] version  ARGV[1] subject  ARGV[2] value  ARGV[3] channel   Returns the version
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and (string.sub(ARGV[1], 1, 4) ~= 'ten:' or tonumber(known) >= tonumber(ARGV[2])) then
  return tonumber(redis.call('GET', KEYS[2]) or '0')
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local version = redis.call('INCR', KEYS[2])
redis.call('PUBLISH', ARGV[3], version .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
return version`

/** Longest time until a lost message or a silent connection is noticed, in milliseconds. */
const CHECK_EVERY_MS = 400
/** And until one that is back is noticed. */
const RETRY_EVERY_MS = 100
const PRUNE_EVERY_SECONDS = 600

/**
 * Loads every revocation, then keeps up: pushed messages apply at once; a version counter, read every 400 ms, shows when one was
 * lost, and everything is loaded again. The durable copy has all that this process knows. An epoch in Redis that is absent or another
 * one means that Redis lost its data: then the durable copy is read, and Redis gets back what it lacks. What is known is never forgotten
 * before it expires. `now` gives unix seconds. Rejects when Redis or the copy cannot be read at the start.
 */
export async function createRevocations(deps: {
  redis: RevocationRedis
  subscriber: RevocationSubscriber
  file: RevocationFile
  prefix: string
  now: () => number
  /** After so long without knowing, no token is said to be good (seconds). */
  staleMaxSeconds: number
  /** How many tokens may be revoked on one owner's account. */
  ownerMax: number
  onError?: (error: unknown) => void
}): Promise<Revocations> {
  const { redis, subscriber, file, now } = deps
  const key = `${deps.prefix}:revoked`
  const versionKey = `${key}:version`
  const epochKey = `${key}:epoch`
  const set = createRevokedSet()
  /** What could not be made durable: tried again at each check, and not taken for done when it is asked for again. */
  const unsure = new Map<string, Revocation>()
  /** What is being made durable, so that whoever asks for the same waits for the same. */
  const underWay = new Map<string, Promise<void>>()
  let version = -1
  let epoch: string | null = null
  let syncedAt = performance.now()
  let prunedAt = now()
  /** When the first look of those that failed since the last good one began. */
  let unreadableSince: number | undefined
  let timer: NodeJS.Timeout | undefined

  const write = ({ subject, value }: Revocation): Promise<unknown> => redis.eval(REVOKE, 2, key, versionKey, subject, value, key)

  /** Takes over what others revoked. They have made it durable; our copy is for when theirs is not at hand. */
  const learn = (revocation: Revocation): void => {
    if (set.add(revocation)) file.append(revocation).catch((error: unknown) => deps.onError?.(error))
  }

  const prune = async (): Promise<void> => {
    prunedAt = now()
    const expired = set.prune(prunedAt)
    if (expired.length > 0) await redis.hdel(key, ...expired)
  }

  const load = async (found: { version: number; epoch: string | null }): Promise<void> => {
    if (found.epoch === null || found.epoch !== epoch) for (const each of await file.read()) set.add(each)
    const stored = await redis.hgetall(key)
    for (const [subject, value] of Object.entries(stored)) learn({ subject, value })
    await prune()
    await Promise.all([...set.entries()].filter(({ subject, value }) => stored[subject] !== value).map(write))
    // Last, so that an epoch says that Redis has what its writer knew.
    if (found.epoch === null) await redis.set(epochKey, randomBytes(8).toString('hex'), 'NX')
    epoch = found.epoch ?? (await redis.get(epochKey))
    version = found.version
  }

  const check = async (): Promise<void> => {
    const started = performance.now()
    const [text, epochFound = null] = await redis.mget(versionKey, epochKey)
    const found = { version: Number(text ?? 0), epoch: epochFound }
    if (found.version !== version || found.epoch === null || found.epoch !== epoch) await load(found)
    syncedAt = started
    unreadableSince = undefined
    if (unsure.size > 0) await Promise.allSettled([...unsure.values()].map(record))
    if (now() - prunedAt > PRUNE_EVERY_SECONDS) await prune()
  }

  /** Here at once, and then on the disk and in Redis side by side: neither waits for the other to take effect. */
  const record = (revocation: Revocation): Promise<void> => {
    const { subject } = revocation
    set.add(revocation)
    const recording = makeDurable(revocation).finally(() => {
      if (underWay.get(subject) === recording) underWay.delete(subject)
    })
    underWay.set(subject, recording)
    return recording
  }

  const makeDurable = async (revocation: Revocation): Promise<void> => {
    const results = await Promise.allSettled([file.append(revocation), write(revocation)])
    const failed = results.find((result) => result.status === 'rejected')
    if (failed === undefined) {
      if (unsure.get(revocation.subject)?.value === revocation.value) unsure.delete(revocation.subject)
      return
    }
    unsure.set(revocation.subject, revocation)
    const where = results[0].status === 'rejected' ? 'the durable copy cannot be written' : 'Redis cannot be reached'
    throw new WebtaskError('unavailable', `The revocation may not hold everywhere: ${where}; ask again`, {
      retryAfterSeconds: 1,
      cause: failed.reason,
    })
  }

  const onMessage = (channel: string, message: string): void => {
    if (channel !== key) return
    const [, next, subject = '', value = ''] = /^(\d+) (\S+) (.+)$/.exec(message) ?? []
    learn({ subject, value })
    if (Number(next) === version + 1) version += 1
  }

  /** One check at a time; the next is planned when the last has ended, well or not. */
  const checkLater = (): void => {
    timer = setTimeout(
      () => {
        const started = performance.now()
        check()
          .catch((error: unknown) => {
            if (unreadableSince === undefined) deps.onError?.(error)
            unreadableSince ??= started
          })
          .finally(() => timer !== undefined && checkLater())
      },
      unreadableSince === undefined ? CHECK_EVERY_MS : RETRY_EVERY_MS,
    ).unref()
  }

  const staleSeconds = (): number => (performance.now() - (unreadableSince ?? syncedAt)) / 1000

  subscriber.on('message', onMessage)
  try {
    // Listening starts before loading, so that nothing falls between the two.
    await subscriber.subscribe(key)
    await check()
  } catch (error) {
    subscriber.off('message', onMessage)
    throw error
  }
  checkLater()

  return {
    isRevoked(claims) {
      if (set.isRevoked(claims)) return true
      assertFresh(staleSeconds(), { max: deps.staleMaxSeconds, what: 'Redis' })
      return false
    },
    staleSeconds,
    async revoke(claims, owners = []) {
      const { jti, exp } = claims
      if (exp !== undefined && exp <= now()) return
      if (underWay.has(jti)) return underWay.get(jti)
      if (set.has(jti) && !unsure.has(jti)) return
      if (!set.has(jti) && owners.some((owner) => set.count(owner) >= deps.ownerMax))
        throw new WebtaskError(
          'quota_exceeded',
          `Cannot revoke the token: ${deps.ownerMax} of this tenant are revoked one by one, which is the limit; revoke the token that they were made from, or the tenant`,
        )
      await record(unsure.get(jti) ?? tokenRevocation(claims, owners))
    },
    async revokeTenant(tenant) {
      const before = nextWatermark(set.watermark(tenant), now())
      if (before === undefined)
        throw new WebtaskError('quota_exceeded', `Tenant "${tenant}" was revoked many times in a row; try again later`, { retryAfterSeconds: 10 })
      await record(tenantRevocation(tenant, before))
    },
    earliestIssue: (ten) => Math.max(0, ...(ten ?? []).map((tenant) => set.watermark(tenant))) + 1,
    // Waits for nothing: Redis may be gone by now, and connections and file are their owner's to close.
    [Symbol.dispose]() {
      clearTimeout(timer)
      timer = undefined
      subscriber.off('message', onMessage)
      subscriber.unsubscribe(key).catch(() => undefined)
    },
  }
}
