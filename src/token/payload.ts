import { z } from 'zod'
import { everyLimit, MAX_LIFETIME_SECONDS, pickLimits, soleContainer, type Claims } from './claims.ts'
import { CODE_HASH } from './code-url.ts'
import { copyObject, type Json } from './plain-json.ts'
import { parseTenantPattern, patternToClaim } from './tenant-pattern.ts'
import { parseWebtaskName, type WebtaskName } from './webtask-name.ts'

export const MAX_ANCESTORS = 32
export const TOKEN_ID = /^[0-9a-f]{32}$/
/** Year 2286; also keeps every sum of times a safe integer. */
const MAX_TIME_SECONDS = 9_999_999_999

const time = z.int().min(0).max(MAX_TIME_SECONDS)
const limit = z.int().min(1)
const name = z.string().transform((text, context) => parseWebtaskName(text) ?? stop(context, 'is not a webtask name'))

/** Strict: a claim that this version does not know may be a restriction, and ignoring one would widen the token. */
const Payload = z.strictObject({
  iss: z.string(),
  aud: z.string(),
  jti: z.string().regex(TOKEN_ID),
  iat: time,
  ca: z.array(z.string().regex(TOKEN_ID)).max(MAX_ANCESTORS),
  ten: z
    .unknown()
    .transform((ten) => (ten === undefined ? null : parseTenantPattern(ten)))
    .optional(),
  jtn: name.optional(),
  jtnm: z.array(name).optional(),
  url: z.string().max(2048).optional(),
  cph: z.string().regex(CODE_HASH).optional(),
  ectx: z.string().optional(),
  pctx: z
    .unknown()
    .transform((pctx) => copyObject(pctx ?? {}, 'pctx'))
    .optional(),
  dd: z.int().min(0),
  dr: z.union([z.literal(0), z.literal(1)]).default(0),
  exp: time.optional(),
  nbf: time.optional(),
  mb: z.union([z.literal(0), z.literal(1)]).default(0),
  pb: z.union([z.literal(0), z.literal(1), z.literal(2)]).default(2),
  host: z.string().max(253).optional(),
  ...everyLimit(limit.optional()),
})

/** The claims as they stand in a token, without `iss` and `aud`; also the base of an inspect reply. */
export function toPayload(claims: Claims): Record<string, Json> {
  const { limits, ten, pctx, dr, mb, ...rest } = claims
  const payload: Record<string, Json | undefined> = {
    ...rest,
    ...(ten === null ? {} : { ten: patternToClaim(ten) }),
    ...(Object.keys(pctx).length === 0 ? {} : { pctx }),
    ...(dr === 0 ? {} : { dr }),
    ...(mb === 0 ? {} : { mb }),
    ...limits,
  }
  return Object.fromEntries(Object.entries(payload).filter(([, value]) => value !== undefined)) as Record<string, Json>
}

/**
 * Reads the bytes of a verified token made by `issuer` for itself. Throws (any error) when they are not exactly what this
 * deployment writes: JSON.stringify's own text, so no duplicate names, no 1e400, no unknown claims.
 */
export function fromPayload(bytes: Uint8Array, issuer: string): Claims {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  const json: unknown = JSON.parse(text)
  if (JSON.stringify(json) !== text) throw new Error('payload is not canonical JSON')
  const { iss, aud, ten = null, pctx = copyObject({}, 'pctx'), ...rest } = Payload.parse(json)
  if (iss !== issuer || aud !== issuer) throw new Error('made by or for somebody else')
  const claims: Claims = Object.freeze({
    jti: rest.jti,
    iat: rest.iat,
    ca: rest.ca,
    ten,
    jtn: rest.jtn,
    jtnm: rest.jtnm,
    url: rest.url,
    cph: rest.cph,
    ectx: rest.ectx,
    pctx,
    dd: rest.dd,
    dr: rest.dr,
    exp: rest.exp,
    nbf: rest.nbf,
    mb: rest.mb,
    pb: rest.pb,
    host: rest.host,
    limits: pickLimits(rest),
  })
  checkTogether(claims)
  return claims
}

/** What no single claim shows. */
function checkTogether(claims: Claims): void {
  if (claims.exp !== undefined && claims.exp > claims.iat + MAX_LIFETIME_SECONDS) throw new Error('lives too long')
  if (claims.ectx !== undefined && claims.url === undefined) throw new Error('secrets without fixed code')
  if (claims.jtn !== undefined && soleContainer(claims) === undefined) throw new Error('a name without one container')
}

function stop(context: z.RefinementCtx, message: string): WebtaskName {
  context.addIssue({ code: 'custom', message })
  return z.NEVER
}
