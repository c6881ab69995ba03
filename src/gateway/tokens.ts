import type { IncomingMessage } from 'node:http'
import { WebtaskError } from '../errors.ts'
import type { Log } from '../log.ts'
import { parseTenantId } from '../tenant/tenant-id.ts'
import { soleContainer, type Claims } from '../token/claims.ts'
import { parseCodeUrl } from '../token/code-url.ts'
import { issueToken, type Issued } from '../token/issue.ts'
import type { Keyring } from '../token/keyring.ts'
import { toPayload } from '../token/payload.ts'
import { ownersOf } from '../token/revocation.ts'
import type { Revocations } from '../token/revocations.ts'
import { mayInspect, mayRevoke, mayRevokeTenant } from '../token/rights.ts'
import { openSecrets } from '../token/seal.ts'
import { authenticateToken } from '../token/verify.ts'
import type { CodeCache } from './code/cache.ts'
import { pinned } from './code/pin.ts'
import { readJsonObject, type BodyTimes } from './read-body.ts'
import type { WebtaskStore } from './webtasks.ts'

export interface TokenServiceOptions {
  readonly keyring: Keyring
  readonly issuer: string
  readonly revocations: Revocations
  readonly webtasks: WebtaskStore
  readonly codes: CodeCache
  readonly codeMaxBytes: number
  readonly bodyTimes: BodyTimes
  readonly publicUrl: () => string
  readonly log: Log
  /** Unix seconds. */
  readonly now: () => number
}

/** Secrets and metadata come in the body of an issue request beside the code (bytes). */
const CLAIMS_MAX_BYTES = 65_536

/** What is to be revoked: one of the two. */
export interface RevokeRequest {
  readonly token?: unknown
  readonly ten?: unknown
}

export interface TokenService {
  issue(parent: Claims, input: unknown): Promise<Issued & { location: string | undefined }>
  issueFrom(parent: Claims, incoming: IncomingMessage): Promise<Issued & { location: string | undefined }>
  inspect(asking: Claims, query: { token: string; decrypt: boolean; fetchCode: boolean; meta: boolean }): Promise<Record<string, unknown>>
  /** Revokes a token with all that was made from it, or all tokens of the tenant `ten` so far. */
  revoke(asking: Claims, subject: RevokeRequest): Promise<void>
}

/** Issue, inspect and revoke: what `/api/tokens/*` does, and `ctx.create_token`. */
export function createTokenService(options: TokenServiceOptions): TokenService {
  const { keyring, issuer, webtasks, codes, revocations, now, log } = options

  /** Another token as it was issued, also when it has expired. */
  async function subjectOf(text: string): Promise<Claims> {
    if (text === '') throw new WebtaskError('bad_request', 'Which token? Send it as "token", in the query or in the body')
    try {
      return await authenticateToken(text, { keyring, issuer })
    } catch (error) {
      throw new WebtaskError('bad_request', 'The "token" to work on is not a token of this deployment', { cause: error })
    }
  }

  function publicUrlOf(claims: Claims): string | undefined {
    const tenant = soleContainer(claims)
    return claims.jtn === undefined || tenant === undefined ? undefined : `${options.publicUrl()}/api/run/${tenant}/${claims.jtn}`
  }

  async function codeOf(claims: Claims): Promise<string | undefined> {
    if (claims.url === undefined) return undefined
    const place = parseCodeUrl(claims.url)
    if (place !== undefined) {
      const sha256 = await webtasks.hashAt(place.tenant, place.key)
      return sha256 === undefined ? undefined : webtasks.codeByHash(place.tenant, pinned({ sha256 }, claims.cph).sha256)
    }
    const tenant = soleContainer(claims)
    return tenant === undefined ? undefined : (await codes.get({ tenant, url: claims.url, cph: claims.cph })).code
  }

  async function issue(parent: Claims, input: unknown): Promise<Issued & { location: string | undefined }> {
    const code = (input as { code?: unknown }).code
    if (typeof code === 'string' && Buffer.byteLength(code) > options.codeMaxBytes) {
      throw new WebtaskError('code_too_large', `The code has ${Buffer.byteLength(code)} bytes; the limit is ${options.codeMaxBytes}`)
    }
    const issued = await issueToken({ parent, input, now: now(), issuer, keyring, earliestIssue: revocations.earliestIssue })
    try {
      await webtasks.save(issued)
    } catch (error) {
      throw new WebtaskError('unavailable', 'The webtask could not be stored; nothing was changed', { retryAfterSeconds: 1, cause: error })
    }
    log.info({ jti: issued.claims.jti, by: parent.jti, tenant: soleContainer(issued.claims), webtask: issued.claims.jtn }, 'token.issued')
    return { ...issued, location: publicUrlOf(issued.claims) }
  }

  async function revokeTenant(asking: Claims, ten: unknown): Promise<void> {
    const tenant = parseTenantId(ten)
    if (tenant === undefined) throw new WebtaskError('bad_request', '"ten" must be the name of one tenant')
    if (!mayRevokeTenant(asking, tenant))
      throw new WebtaskError('forbidden', 'A tenant may be revoked by a master token, or by one that a master token issued for this tenant alone')
    await revocations.revokeTenant(tenant)
    log.info({ tenant, by: asking.jti }, 'tenant.revoked')
  }

  return {
    issue,
    async issueFrom(parent, incoming) {
      return issue(parent, await readJsonObject(incoming, { maxBytes: options.codeMaxBytes * 2 + CLAIMS_MAX_BYTES, times: options.bodyTimes }))
    },
    async inspect(asking, query) {
      const subject = await subjectOf(query.token)
      if (!mayInspect(asking, subject))
        throw new WebtaskError(
          'forbidden',
          'A token may be inspected by itself or an ancestor, and not by one that is bound to code or carries secrets',
        )
      const tenant = soleContainer(subject)
      const named = query.meta && tenant !== undefined && subject.jtn !== undefined ? await webtasks.find(tenant, subject.jtn) : undefined
      const secrets = query.decrypt ? await openSecrets(subject, { keyring }) : undefined
      const code = query.fetchCode ? await codeOf(subject) : undefined
      const url = publicUrlOf(subject)
      return {
        ...toPayload(subject),
        ...(secrets === undefined || subject.ectx === undefined ? {} : { ectx: secrets, secrets }),
        ...(code === undefined ? {} : { code }),
        ...(query.meta ? { meta: named?.meta ?? {} } : {}),
        ...(url === undefined ? {} : { webtask_url: url }),
      }
    },
    async revoke(asking, { token, ten }) {
      if (ten !== undefined && token !== undefined) throw new WebtaskError('bad_request', 'Send "token" or "ten", not both')
      if (ten !== undefined) return revokeTenant(asking, ten)
      const subject = await subjectOf(typeof token === 'string' ? token : '')
      if (!mayRevoke(asking, subject))
        throw new WebtaskError('forbidden', 'A token may be revoked by itself (unless its "dr" is 1) or by an ancestor')
      await revocations.revoke(subject, ownersOf(asking))
      log.info({ jti: subject.jti, by: asking.jti }, 'token.revoked')
    },
  }
}
