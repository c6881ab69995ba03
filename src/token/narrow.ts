import { WebtaskError } from '../errors.ts'
import { CONTAINER_LIMITS, soleContainer, TOKEN_LIMITS, type Claims, type LimitName, type Limits } from './claims.ts'
import { codeUrl, hashCode, parseCodeUrl } from './code-url.ts'
import type { Asked } from './issue-input.ts'
import { MAX_ANCESTORS } from './payload.ts'
import { mergeObjects, type JsonObject } from './plain-json.ts'
import { patternWithin, type TenantPattern } from './tenant-pattern.ts'
import type { WebtaskName } from './webtask-name.ts'

/**
 * The claims, still without secrets, of the token that `parent` may issue for what is asked. The child can do nothing that
 * the parent cannot. Refuses (forbidden) what is wider than the parent and (bad_request) what makes no sense by itself.
 */
export function derive(parent: Claims, asked: Asked, options: { now: number; jti: string }): Claims {
  if (parent.dd < 1 || parent.ca.length >= MAX_ANCESTORS) throw forbid('this token may not issue tokens')
  const ten = narrowContainers(parent, asked)
  const jtnm = narrowNames(parent, asked)
  const code = narrowCode(parent, asked, ten)
  const { jtn } = asked
  if (jtn !== undefined && soleContainer({ ten }) === undefined) throw refuse('jtn', '"ten" must be one container then')
  if (jtn !== undefined && code.url === undefined) throw refuse('jtn', 'a named webtask needs "code" or "url"')
  return {
    jti: options.jti,
    iat: Math.floor(options.now),
    ca: [...parent.ca, parent.jti],
    ten,
    jtn,
    jtnm,
    ...code,
    pctx: narrowParameters(parent, asked),
    dd: narrowDepth(parent, asked),
    dr: asked.dr ?? 0,
    exp: narrowEnd(parent, asked),
    nbf: asked.nbf === undefined ? parent.nbf : Math.max(asked.nbf, parent.nbf ?? 0),
    host: narrowHost(parent, asked),
    limits: narrowLimits(parent, asked),
  }
}

/** Secrets win over parameters where code reads both as one: a new secret must not take the place of a parameter that is fixed. */
function narrowParameters(parent: Claims, asked: Asked): JsonObject {
  for (const key of Object.keys(asked.ectx ?? {})) {
    if (Object.hasOwn(parent.pctx, key)) throw forbid(`"ectx" may not hold "${key.slice(0, 100)}", which this token fixes in "pctx"`)
  }
  return extend(parent.pctx, { added: asked.pctx, claim: 'pctx' })
}

/** What the parent has, and what is added. Refuses (forbidden) another value for something that the parent has. */
export function extend(parent: JsonObject, options: { added: JsonObject | undefined; claim: 'pctx' | 'ectx' }): JsonObject {
  const added = options.added ?? {}
  for (const key of Object.keys(added)) {
    if (Object.hasOwn(parent, key) && JSON.stringify(parent[key]) !== JSON.stringify(added[key])) {
      throw forbid(`"${options.claim}" may not change "${key.slice(0, 100)}", which this token fixes`)
    }
  }
  return mergeObjects(parent, added)
}

function narrowContainers(parent: Claims, asked: Asked): TenantPattern | null {
  if (asked.ten === undefined) return parent.ten
  if (parent.ten !== null && !patternWithin(asked.ten, parent.ten)) throw forbid('"ten" is wider than that of this token')
  return asked.ten
}

function narrowNames(parent: Claims, asked: Asked): readonly WebtaskName[] | undefined {
  const allowed = parent.jtnm
  if (allowed !== undefined) {
    if (asked.jtnm?.some((name) => !allowed.includes(name)) === true) throw forbid('"jtnm" is wider than that of this token')
    if (asked.jtn !== undefined && !allowed.includes(asked.jtn)) throw forbid('"jtn" is not among the names this token may manage')
  }
  // Naming writes the tenant's directory of webtasks, and a token bound to code is for running that code only.
  if (parent.url !== undefined && asked.jtn !== undefined) throw forbid('a token bound to code may not name webtasks')
  return asked.jtnm ?? allowed
}

type Code = Pick<Claims, 'url' | 'cph' | 'mb' | 'pb'>

function narrowCode(parent: Claims, asked: Asked, ten: Claims['ten']): Code {
  if (parent.url !== undefined) return keepCode(parent, asked)
  const code = { ...placeCode(asked, { ten, jtnm: parent.jtnm }), mb: asked.mb ?? parent.mb, pb: asked.pb ?? parent.pb }
  if (code.url === undefined && code.cph !== undefined) throw refuse('cph', 'it needs "code" or "url"')
  if (code.url === undefined && Object.keys(asked.ectx ?? {}).length > 0) {
    throw refuse('ectx', 'secrets need "code" or "url", or the holder could run code that prints them')
  }
  return code
}

/** Fixed code stays as it is, with the way it gets its input. */
function keepCode(parent: Claims, asked: Asked): Code {
  if (asked.code !== undefined || (asked.url !== undefined && asked.url !== parent.url)) throw forbid('this token fixes the code')
  if (parent.cph !== undefined && asked.cph !== undefined && asked.cph !== parent.cph) throw forbid('this token fixes "cph"')
  if (asked.mb !== undefined && asked.mb !== parent.mb) throw forbid('this token fixes "mb"')
  if (asked.pb !== undefined && asked.pb !== parent.pb) throw forbid('this token fixes "pb"')
  return { url: parent.url, cph: parent.cph ?? asked.cph, mb: parent.mb, pb: parent.pb }
}

/** Inline code gets the URL of its place: its webtask's name, which later issues overwrite, or its own hash, which `cph` then fixes. */
function placeCode(asked: Asked, reach: Pick<Claims, 'ten' | 'jtnm'>): Pick<Claims, 'url' | 'cph'> {
  const tenant = soleContainer(reach)
  if (asked.code !== undefined) {
    if (tenant === undefined) throw refuse('code', '"ten" must be one container then')
    const digest = hashCode(asked.code)
    if (asked.cph !== undefined && asked.cph !== digest) throw refuse('cph', 'it is not the hash of "code"')
    if (asked.jtn === undefined) return { url: codeUrl({ tenant, key: digest }), cph: digest }
    return { url: codeUrl({ tenant, key: asked.jtn }), cph: asked.cph }
  }
  const place = asked.url === undefined ? undefined : parseCodeUrl(asked.url)
  if (place !== undefined) {
    if (place.tenant !== tenant) throw forbid('"url" is stored code of another container')
    const names: readonly string[] | undefined = reach.jtnm
    if (names !== undefined && !names.includes(place.key)) throw forbid('"url" is the code of a webtask this token may not manage')
  }
  return { url: asked.url, cph: asked.cph }
}

function narrowDepth(parent: Claims, asked: Asked): number {
  const dd = asked.dd ?? 0
  if (dd >= parent.dd) throw forbid(`"dd" must be below that of this token, ${parent.dd}`)
  return dd
}

function narrowEnd(parent: Claims, asked: Asked): number | undefined {
  if (asked.exp !== undefined && parent.exp !== undefined && asked.exp > parent.exp) throw forbid('"exp" is after that of this token')
  return asked.exp ?? parent.exp
}

function narrowHost(parent: Claims, asked: Asked): string | undefined {
  if (parent.host !== undefined && asked.host !== undefined && asked.host !== parent.host) throw forbid('this token fixes "host"')
  return asked.host
}

/** Container limits pass on and can only shrink. Token limits belong to one token: an owner subdivides with them. */
function narrowLimits(parent: Claims, asked: Asked): Limits {
  const limits: Partial<Record<LimitName, number>> = {}
  for (const name of CONTAINER_LIMITS) {
    const value = Math.min(parent.limits[name] ?? Infinity, asked.limits[name] ?? Infinity)
    if (value !== Infinity) limits[name] = value
  }
  for (const name of TOKEN_LIMITS) {
    const value = asked.limits[name]
    if (value !== undefined) limits[name] = value
  }
  return limits
}

function forbid(reason: string): WebtaskError {
  return new WebtaskError('forbidden', `Cannot issue this token: ${reason}`)
}

function refuse(claim: string, rule: string): WebtaskError {
  return new WebtaskError('bad_request', `Cannot use claim "${claim}": ${rule}`)
}
