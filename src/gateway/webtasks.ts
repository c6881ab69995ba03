import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { WebtaskError } from '../errors.ts'
import type { Redis } from '../redis.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import { soleContainer } from '../token/claims.ts'
import { CODE_HASH, parseCodeUrl } from '../token/code-url.ts'
import type { Issued } from '../token/issue.ts'

/** A named webtask as it is stored: its token, and inline code under its hash. */
export interface NamedWebtask {
  readonly token: string
  readonly meta: Readonly<Record<string, string>>
  /** SHA-256 (hex) of inline code; null when the token's URL leads elsewhere. */
  readonly sha256: string | null
}

export interface WebtaskStore {
  /** Stores what a token names, whole or not at all: after this every gateway runs the new version. */
  save(issued: Issued): Promise<void>
  /** From memory when it was asked for before. */
  find(tenant: TenantId, name: string): NamedWebtask | undefined | Promise<NamedWebtask | undefined>
  /** The SHA-256 (hex) of the tenant's stored code, by what its `webtask://` URL ends in: a webtask's name, or a hash. From memory when it was asked for before. */
  hashAt(tenant: TenantId, key: string): string | undefined | Promise<string | undefined>
  codeByHash(tenant: TenantId, sha256: string): Promise<string | undefined>
  /** Somebody stored `changed` ("tenant/name"); null when changes may have been missed. */
  heard(changed: string | null): void
  readonly channel: string
}

const REMEMBERED = 10_000
/** How long "no such webtask" is remembered (ms): a flood of made-up names must not become a flood of reads. */
const ABSENT_MS = 1_000

const hex = (text: string) => createHash('sha256').update(text).digest('hex')

export function createWebtaskStore(redis: Redis, prefix: string): WebtaskStore {
  const known = new LRUCache<string, { webtask: NamedWebtask | undefined }>({ max: REMEMBERED })
  /** "tenant/hash" of code that is known to be this tenant's: a hash alone is no right to what it names. */
  const owned = new LRUCache<string, true>({ max: REMEMBERED })
  const channel = `${prefix}:webtasks-changed`
  // Tenants enter keys as hashes of fixed length.
  const webtasksKey = (tenant: string) => `${prefix}:webtasks:${hex(tenant).slice(0, 32)}`
  const codeKey = (tenant: string) => `${prefix}:code:${hex(tenant).slice(0, 32)}`

  /** What Redis holds; while it is away the platform is to blame, not whoever asks. */
  async function ask<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer
    } catch (cause) {
      throw new WebtaskError('unavailable', 'The stored webtasks cannot be reached', { retryAfterSeconds: 1, cause })
    }
  }

  async function read(tenant: TenantId, name: string): Promise<NamedWebtask | undefined> {
    const text = await ask(redis.hget(webtasksKey(tenant), name))
    const webtask = text === null ? undefined : (JSON.parse(text) as NamedWebtask)
    known.set(`${tenant}/${name}`, { webtask }, webtask === undefined ? { ttl: ABSENT_MS } : {})
    return webtask
  }

  async function own(tenant: TenantId, sha256: string): Promise<string | undefined> {
    if ((await ask(redis.hexists(codeKey(tenant), sha256))) === 0) return undefined
    owned.set(`${tenant}/${sha256}`, true)
    return sha256
  }

  function hashAt(tenant: TenantId, key: string): string | undefined | Promise<string | undefined> {
    if (CODE_HASH.test(key)) {
      const sha256 = Buffer.from(key.slice('sha256-'.length), 'base64url').toString('hex')
      return owned.get(`${tenant}/${sha256}`) === true ? sha256 : own(tenant, sha256)
    }
    const found = find(tenant, key)
    return found instanceof Promise ? found.then((webtask) => webtask?.sha256 ?? undefined) : (found?.sha256 ?? undefined)
  }

  function find(tenant: TenantId, name: string): NamedWebtask | undefined | Promise<NamedWebtask | undefined> {
    const hit = known.get(`${tenant}/${name}`)
    return hit === undefined ? read(tenant, name) : hit.webtask
  }

  return {
    channel,
    async save({ token, claims, code, meta }) {
      const tenant = soleContainer(claims)
      if (tenant === undefined) return
      const writes = redis.multi()
      const sha256 = code === undefined ? null : hex(code.text)
      if (code !== undefined && sha256 !== null) writes.hset(codeKey(tenant), sha256, code.text)
      if (claims.jtn !== undefined) {
        // A re-issue whose URL names stored code keeps that code.
        const place = claims.url === undefined ? undefined : parseCodeUrl(claims.url)
        const kept = sha256 ?? (place === undefined ? null : ((await hashAt(tenant, place.key)) ?? null))
        writes.hset(webtasksKey(tenant), claims.jtn, JSON.stringify({ token, meta: meta ?? {}, sha256: kept } satisfies NamedWebtask))
      }
      const results = await writes.exec()
      const failed = results?.find(([error]) => error !== null)?.[0]
      if (results === null || failed) throw failed ?? new Error('The transaction was dropped')
      if (claims.jtn === undefined) return
      known.delete(`${tenant}/${claims.jtn}`)
      await redis.publish(channel, `${tenant}/${claims.jtn}`)
    },
    find,
    hashAt,
    async codeByHash(tenant, sha256) {
      return (await ask(redis.hget(codeKey(tenant), sha256))) ?? undefined
    },
    heard(changed) {
      if (changed === null) known.clear()
      else known.delete(changed)
    },
  }
}
