import type { TenantId } from '../tenant/tenant-id.ts'
import { checkBoundSecrets } from './bound-secret.ts'
import { soleContainer, type Claims } from './claims.ts'
import { parseCodeUrl } from './code-url.ts'
import { parseIssueInput, type Asked } from './issue-input.ts'
import type { Keyring } from './keyring.ts'
import { derive, extend } from './narrow.ts'
import { openSecrets, sealSecrets } from './seal.ts'
import { newTokenId, signToken } from './sign.ts'

export interface Issued {
  readonly token: string
  readonly claims: Claims
  /** The one container of a token that names exactly one; every token with a name or inline code does. */
  readonly container?: TenantId | undefined
  /** Inline code, which the caller stores at this place before it hands the token out; `claims.url` names the place already. */
  readonly code?: { readonly tenant: TenantId; readonly key: string; readonly text: string } | undefined
  /** Metadata for the named webtask; not part of the token. */
  readonly meta?: Readonly<Record<string, string>> | undefined
}

/**
 * Derives a token from `parent` for the body of an issue request. `now` in unix seconds. Refuses (bad_request) malformed claims and
 * (forbidden) whatever the parent does not allow. Stores nothing.
 */
export async function issueToken(request: {
  parent: Claims
  input: unknown
  now: number
  issuer: string
  keyring: Keyring
  newId?: () => string
  /** The first second in which tokens for these tenants count as issued after the tenants' last revocation. */
  earliestIssue?: (ten: Claims['ten']) => number
}): Promise<Issued> {
  const { parent, keyring, issuer, now } = request
  const asked = parseIssueInput(request.input, now)
  const derived = derive(parent, asked, { now, jti: (request.newId ?? newTokenId)() })
  const bare = { ...derived, iat: Math.max(derived.iat, request.earliestIssue?.(derived.ten) ?? 0) }
  const claims = await sealFor(bare, { parent, asked, keyring })
  const token = await signToken(claims, { keyring, issuer })
  return { token, claims, container: soleContainer(claims), code: codeToStore(claims, asked), meta: asked.meta }
}

/** Secrets are bound to one token, so a child gets its parent's sealed anew, with what it adds. */
async function sealFor(bare: Claims, options: { parent: Claims; asked: Asked; keyring: Keyring }): Promise<Claims> {
  const { parent, asked, keyring } = options
  const secrets = extend(await openSecrets(parent, { keyring }), { added: asked.ectx, claim: 'ectx' })
  if (Object.keys(secrets).length === 0) return bare
  // Once more: each generation may add some, and all of them count.
  checkBoundSecrets(secrets)
  return { ...bare, ectx: await sealSecrets(secrets, { claims: bare, keyring }) }
}

function codeToStore(claims: Claims, asked: Asked): Issued['code'] {
  if (asked.code === undefined || claims.url === undefined) return undefined
  const place = parseCodeUrl(claims.url)
  return place === undefined ? undefined : { ...place, text: asked.code }
}
