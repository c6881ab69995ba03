import type { TenantId } from '../tenant/tenant-id.ts'
import { allowsContainer, isMaster, soleContainer, type Claims } from './claims.ts'
import type { WebtaskName } from './webtask-name.ts'

/** Whether one token may read another, secrets included: its own descendants or itself, unless it is bound to code; a master token reads all. */
export function mayInspect(authenticating: Claims, subject: Claims): boolean {
  if (isMaster(authenticating)) return true
  if (authenticating.url !== undefined || authenticating.ectx !== undefined) return false
  return isFamily(authenticating, subject)
}

/** Whether one token may revoke another: its descendants, or itself unless its `dr` is 1; a master token revokes all but its own ancestors. */
export function mayRevoke(authenticating: Claims, subject: Claims): boolean {
  if (authenticating.jti === subject.jti) return subject.dr === 0
  if (authenticating.ca.includes(subject.jti)) return false
  return isMaster(authenticating) || isFamily(authenticating, subject)
}

/**
 * Whether a token may revoke all tokens of a tenant: a master token, or one that a master token issued for this tenant alone, as what is
 * derived from that must not revoke its ancestors. It revokes itself by this, which its `dr` may forbid.
 */
export function mayRevokeTenant(claims: Claims, tenant: TenantId): boolean {
  if (isMaster(claims)) return true
  return claims.ca.length === 1 && soleContainer(claims) === tenant && claims.dr === 0 && mayManage(claims, { tenant })
}

/** Whether a token may manage a tenant, or one of its webtasks. A token bound to code is for running that code only. */
export function mayManage(claims: Claims, target: { tenant: TenantId; name?: WebtaskName }): boolean {
  if (claims.url !== undefined || !allowsContainer(claims, target.tenant)) return false
  if (claims.jtnm === undefined) return true
  return target.name !== undefined && claims.jtnm.includes(target.name)
}

function isFamily(authenticating: Claims, subject: Claims): boolean {
  return subject.jti === authenticating.jti || subject.ca.includes(authenticating.jti)
}
