import { isPlainName } from '../tenant/tenant-id.ts'
import { isMaster, soleContainer, type Claims } from './claims.ts'
import { TOKEN_ID } from './payload.ts'

/** What may have been revoked of a token. */
export type Revocable = Pick<Claims, 'jti' | 'ca' | 'ten' | 'iat'>

/**
 * What is revoked, as two texts that Redis, messages and the durable copy share. A token: its id, and `exp` (unix seconds, 0 = never)
 * with up to two owners. A tenant: `ten:` and its name, and the second up to which tokens were issued that are refused.
 */
export interface Revocation {
  readonly subject: string
  readonly value: string
}

/** The revocations that this process knows. Of two for one tenant the later one counts; nothing else ever changes one. */
export interface RevokedSet {
  /** Whether this was news. Texts that are no revocation are ignored. */
  add(revocation: Revocation): boolean
  has(jti: string): boolean
  /** Whether the token, one of its ancestors, or a tenant that it names was revoked. */
  isRevoked(claims: Revocable): boolean
  /** The last second in which tokens of a tenant were issued that are refused; 0 when it was never revoked. */
  watermark(tenant: string): number
  /** How many tokens were revoked on behalf of an owner, and are still remembered. */
  count(owner: string): number
  /** Forgets what expired before `now` (unix seconds) and returns it: a child never outlives its parent, so nothing needs it. */
  prune(now: number): readonly string[]
  entries(): Iterable<Revocation>
}

/** Kept this long after `exp`, in seconds, for gateways whose clocks differ. */
const GRACE_SECONDS = 60
const TENANT = 'ten:'

export function tokenRevocation(claims: Pick<Claims, 'jti' | 'exp'>, owners: readonly string[]): Revocation {
  return { subject: claims.jti, value: [claims.exp ?? 0, ...owners].join(' ') }
}

export function tenantRevocation(tenant: string, before: number): Revocation {
  return { subject: `${TENANT}${tenant}`, value: String(before) }
}

/**
 * Whose revocations are counted when `asking` revokes a token: its tenant, and the token of the tenant that all of its tokens come
 * from, as one that reaches many tenants could hide behind their names. Nobody's when it is a master token: operators are not bounded.
 */
export function ownersOf(asking: Claims): readonly string[] {
  if (isMaster(asking)) return []
  const tenant = soleContainer(asking)
  const first = asking.ca[1] ?? asking.jti
  return tenant === undefined ? [first] : [tenant, first]
}

/** How far the clocks of gateways may differ without a token that was issued before a revocation of its tenant escaping it, in seconds. */
const SKEW_SECONDS = 5
/** Farther ahead, tokens that are issued after it would be refused as issued in the future. */
const MAX_AHEAD_SECONDS = 50

/**
 * Up to which second tokens of a tenant are refused that is revoked now; later than its last one, because what was issued since has the
 * second after that. Undefined when that would be too far ahead.
 */
export function nextWatermark(known: number, now: number): number | undefined {
  const next = Math.max(Math.floor(now) + SKEW_SECONDS, known + 1)
  return next > now + MAX_AHEAD_SECONDS ? undefined : next
}

export function isExpired({ subject, value }: Revocation, now: number): boolean {
  const exp = TOKEN_ID.test(subject) ? Number.parseInt(value, 10) : 0
  return exp > 0 && exp + GRACE_SECONDS < now
}

function tenantOf(subject: string): string | undefined {
  const tenant = subject.slice(TENANT.length)
  return subject.startsWith(TENANT) && isPlainName(tenant) ? tenant : undefined
}

export function createRevokedSet(): RevokedSet {
  const tokens = new Map<string, string>()
  const tenants = new Map<string, number>()
  const counts = new Map<string, number>()

  const countAll = (value: string, by: 1 | -1): void => {
    for (const owner of value.split(' ').slice(1)) {
      const count = (counts.get(owner) ?? 0) + by
      if (count > 0) counts.set(owner, count)
      else counts.delete(owner)
    }
  }

  const addToken = (jti: string, value: string): boolean => {
    if (tokens.has(jti)) return false
    tokens.set(jti, value)
    countAll(value, 1)
    return true
  }

  const addTenant = (tenant: string, before: number): boolean => {
    if (before <= (tenants.get(tenant) ?? 0)) return false
    tenants.set(tenant, before)
    return true
  }

  return {
    add({ subject, value }) {
      const [time = '', ...owners] = value.split(' ')
      if (!/^\d{1,12}$/.test(time) || owners.length > 2 || !owners.every(isPlainName)) return false
      if (TOKEN_ID.test(subject)) return addToken(subject, value)
      const tenant = tenantOf(subject)
      return tenant !== undefined && addTenant(tenant, Number(time))
    },
    has: (jti) => tokens.has(jti),
    isRevoked({ jti, ca, ten, iat }) {
      if (tokens.size > 0 && (tokens.has(jti) || ca.some((ancestor) => tokens.has(ancestor)))) return true
      return tenants.size > 0 && ten !== null && ten.some((tenant) => (tenants.get(tenant) ?? -1) >= iat)
    },
    watermark: (tenant) => tenants.get(tenant) ?? 0,
    count: (owner) => counts.get(owner) ?? 0,
    prune(now) {
      const expired = [...tokens].filter(([subject, value]) => isExpired({ subject, value }, now)).map(([jti]) => jti)
      for (const jti of expired) {
        countAll(tokens.get(jti) ?? '', -1)
        tokens.delete(jti)
      }
      return expired
    },
    *entries() {
      for (const [subject, value] of tokens) yield { subject, value }
      for (const [tenant, before] of tenants) yield tenantRevocation(tenant, before)
    },
  }
}
