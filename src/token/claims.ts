import { parseTenantId, type TenantId } from '../tenant/tenant-id.ts'
import { invalidToken } from './invalid.ts'
import type { JsonObject } from './plain-json.ts'
import { patternMatches, type TenantPattern } from './tenant-pattern.ts'
import type { WebtaskName } from './webtask-name.ts'

/** Uses per second, minute, hour, day, week, month: of the container, and of the token alone. */
export const CONTAINER_LIMITS = ['ls', 'lm', 'lh', 'ld', 'lw', 'lo'] as const
export const TOKEN_LIMITS = ['lts', 'ltm', 'lth', 'ltd', 'ltw', 'lto'] as const
export type LimitName = (typeof CONTAINER_LIMITS)[number] | (typeof TOKEN_LIMITS)[number]
export type Limits = Readonly<Partial<Record<LimitName, number>>>

/** How far clocks of gateways may differ, in seconds. */
const CLOCK_SKEW_SECONDS = 60
/** The farthest `exp` and `nbf` may lie after the time of issue, in seconds. */
export const MAX_LIFETIME_SECONDS = 10 * 366 * 24 * 3600

/** What a verified token says. Times are unix seconds. */
export interface Claims {
  /** 32 hex characters; a token's identity, as its text is none. */
  readonly jti: string
  readonly iat: number
  /** The ids of all ancestors, oldest first; revoking one revokes this token. */
  readonly ca: readonly string[]
  /** The containers it reaches; null is every container. */
  readonly ten: TenantPattern | null
  readonly jtn?: WebtaskName | undefined
  /** The only webtasks it may manage. */
  readonly jtnm?: readonly WebtaskName[] | undefined
  /** Where the code is; a token with it runs no other code. */
  readonly url?: string | undefined
  /** Hash of the only bytes that may run, `sha256-` and base64url. */
  readonly cph?: string | undefined
  /** Sealed secrets, a compact JWE; only together with `url`. */
  readonly ectx?: string | undefined
  readonly pctx: JsonObject
  /** How many generations of tokens may still be derived. */
  readonly dd: number
  /** 1: it cannot revoke itself. */
  readonly dr: 0 | 1
  readonly exp?: number | undefined
  readonly nbf?: number | undefined
  readonly mb: 0 | 1
  readonly pb: 0 | 1 | 2
  readonly host?: string | undefined
  readonly limits: Limits
}

export function allowsContainer(claims: Claims, tenant: TenantId): boolean {
  return claims.ten === null || patternMatches(claims.ten, tenant)
}

/** The container of a token that reaches exactly one by its literal name. */
export function soleContainer(claims: Pick<Claims, 'ten'>): TenantId | undefined {
  return claims.ten?.length === 1 ? parseTenantId(claims.ten[0]) : undefined
}

/** Whether it is a master token: every container, not bound to code or to webtask names. */
export function isMaster(claims: Claims): boolean {
  return claims.ten === null && claims.url === undefined && claims.jtn === undefined && claims.jtnm === undefined
}

/**
 * Refuses (token_invalid) a token that has expired, is not valid yet or was issued in the future. `exp` and `nbf` get no
 * leeway because their issuer is this deployment; `iat` gets 60 seconds for gateways whose clocks differ.
 */
export function checkTimes(claims: Claims, now: number): void {
  if (claims.exp !== undefined && claims.exp <= now) throw invalidToken('expired')
  if (claims.nbf !== undefined && claims.nbf > now) throw invalidToken('not valid yet')
  if (claims.iat > now + CLOCK_SKEW_SECONDS) throw invalidToken('issued in the future')
}

/** A number per limit, for schemas. */
export function everyLimit<T>(value: T): Record<LimitName, T> {
  return Object.fromEntries([...CONTAINER_LIMITS, ...TOKEN_LIMITS].map((name) => [name, value])) as Record<LimitName, T>
}

/** The limits among claims that are not undefined. */
export function pickLimits(source: Readonly<Partial<Record<LimitName, number | undefined>>>): Limits {
  const limits: Partial<Record<LimitName, number>> = {}
  for (const name of [...CONTAINER_LIMITS, ...TOKEN_LIMITS]) {
    const value = source[name]
    if (value !== undefined) limits[name] = value
  }
  return limits
}
