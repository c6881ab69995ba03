import { isIP } from 'node:net'
import { z } from 'zod'
import { WebtaskError } from '../errors.ts'
import { checkBoundSecrets } from './bound-secret.ts'
import { everyLimit, MAX_LIFETIME_SECONDS, pickLimits, type Limits } from './claims.ts'
import { CODE_HASH, codeUrl, parseCodeUrl } from './code-url.ts'
import { copyObject, type JsonObject } from './plain-json.ts'
import { parseTenantPattern, type TenantPattern } from './tenant-pattern.ts'
import { parseWebtaskName, type WebtaskName } from './webtask-name.ts'

/** What a caller asks of a new token, parsed. An absent claim is undefined; nothing is decided yet. */
export interface Asked {
  readonly ten?: TenantPattern | undefined
  readonly jtn?: WebtaskName | undefined
  readonly jtnm?: readonly WebtaskName[] | undefined
  readonly url?: string | undefined
  readonly code?: string | undefined
  readonly cph?: string | undefined
  readonly ectx?: JsonObject | undefined
  readonly pctx?: JsonObject | undefined
  readonly meta?: Readonly<Record<string, string>> | undefined
  readonly dd?: number | undefined
  readonly dr?: 0 | 1 | undefined
  readonly exp?: number | undefined
  readonly nbf?: number | undefined
  readonly mb?: 0 | 1 | undefined
  readonly pb?: 0 | 1 | 2 | undefined
  readonly host?: string | undefined
  readonly limits: Limits
}

const MAX_DEPTH = 1_000_000_000
const MAX_URL_LENGTH = 2048
const HOST_NAME = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/i
/** Unknown claims are dropped, because clients send what they like; these are restrictions elsewhere, and dropping one would mislead. */
const NOT_SUPPORTED = ['cnf', 'one'] as const

/** `wt token create` sends numbers as strings. */
const number = z.preprocess(
  (value) => (typeof value === 'string' && /^-?\d{1,16}$/.test(value) ? Number(value) : value),
  z.int('it must be an integer'),
)
const flag = z.preprocess((value) => (typeof value === 'boolean' ? Number(value) : value), number)
const name = z.preprocess(
  (value) => parseWebtaskName(value),
  z.custom<WebtaskName>((value) => value !== undefined, 'it must be 1 to 128 characters of a-z 0-9 - . _ ~ ! $ + = : @'),
)

/** Server-set claims (`jti iat ca webtask_url iss aud`) are not read: clients feed back inspect replies. */
const Input = z.object({
  ten: z.unknown().transform(parseTenantPattern).optional(),
  jtn: name.optional(),
  jtnm: z
    .preprocess(
      (value) => (typeof value === 'string' ? value.split(',').map((part) => part.trim()) : value),
      z.array(name, 'it must be an array of names').max(100),
    )
    .optional(),
  url: z.string('it must be a URL').max(MAX_URL_LENGTH, `it must not be longer than ${MAX_URL_LENGTH} characters`).transform(normalizeUrl).optional(),
  code: z.string('it must be a string').optional(),
  cph: z.string('it must be a string').regex(CODE_HASH, 'it must be "sha256-" and the base64url SHA-256 of the code').optional(),
  ectx: z.unknown().transform(readSecrets).optional(),
  pctx: z
    .unknown()
    .transform((value) => copyObject(value, 'pctx'))
    .optional(),
  meta: z.unknown().transform(readMeta).optional(),
  dd: number.pipe(z.number().min(0, 'it must be 0 or more').max(MAX_DEPTH, `it must be at most ${MAX_DEPTH}`)).optional(),
  dr: flag.pipe(z.literal([0, 1], 'it must be 0 or 1')).optional(),
  exp: number.pipe(z.number().min(0, 'it must be 0 or more')).optional(),
  nbf: number.pipe(z.number().min(0, 'it must be 0 or more')).optional(),
  mb: flag.pipe(z.literal([0, 1], 'it must be 0 or 1')).optional(),
  pb: number.pipe(z.literal([0, 1, 2], 'it must be 0, 1 or 2')).optional(),
  host: z
    .string('it must be a host name')
    .refine((host) => HOST_NAME.test(host) || isIP(host) !== 0, 'it must be a host name or an IP address')
    .toLowerCase()
    .optional(),
  ...everyLimit(number.pipe(z.number().min(1, 'it must be 1 or more')).optional()),
})

/** Reads the body of an issue request; `null` counts as absent. Refuses (bad_request) with a message that names the claim. */
export function parseIssueInput(input: unknown, now: number): Asked {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    throw new WebtaskError('bad_request', 'Cannot issue a token: the body must be a JSON object of claims')
  }
  const given = new Map(Object.entries(input).filter(([, value]) => value !== null))
  const unsupported = NOT_SUPPORTED.find((claim) => given.has(claim))
  if (unsupported !== undefined) throw refuse(unsupported, 'this server does not enforce it')
  const parsed = Input.safeParse(Object.fromEntries(given))
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw refuse(issue?.path.join('.') ?? '', issue?.message ?? 'it is malformed')
  }
  const asked: Asked = { ...parsed.data, limits: pickLimits(parsed.data) }
  checkTogether(asked, now)
  return asked
}

function checkTogether(asked: Asked, now: number): void {
  for (const claim of ['exp', 'nbf'] as const) {
    if ((asked[claim] ?? 0) > now + MAX_LIFETIME_SECONDS) throw refuse(claim, 'it must not lie more than ten years ahead')
  }
  if (asked.exp !== undefined && asked.nbf !== undefined && asked.exp <= asked.nbf) throw refuse('exp', 'it must be after "nbf"')
  if (asked.url !== undefined && asked.code !== undefined) throw refuse('code', 'it cannot stand beside "url"')
}

/** http and https URLs without credentials (the token is readable), and `webtask:` URLs of code stored here. */
function normalizeUrl(text: string): string {
  if (/^webtask:/i.test(text)) {
    const place = parseCodeUrl(text)
    if (place === undefined) throw new WebtaskError('forbidden', 'Cannot use claim "url": it names no stored code')
    return codeUrl(place)
  }
  const url = URL.parse(text)
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) throw refuse('url', 'it must be an http, https or webtask URL')
  if (url.username !== '' || url.password !== '')
    throw refuse('url', 'it must not hold a user name or password: whoever holds the token can read them')
  url.hash = ''
  if (url.href.length > MAX_URL_LENGTH) throw refuse('url', `it must not be longer than ${MAX_URL_LENGTH} characters`)
  return url.href
}

/** Ciphertext is never taken over: secrets sealed for another token would be opened for this one. */
function readSecrets(input: unknown): JsonObject {
  if (typeof input === 'string') throw refuse('ectx', 'it must be an object of clear secrets; inspect with decrypt=true to copy them')
  const secrets = copyObject(input, 'ectx')
  checkBoundSecrets(secrets)
  return secrets
}

function readMeta(input: unknown): Readonly<Record<string, string>> {
  const meta = copyObject(input, 'meta')
  for (const value of Object.values(meta)) {
    if (typeof value !== 'string') throw refuse('meta', 'its values must be strings')
  }
  return meta as Readonly<Record<string, string>>
}

function refuse(claim: string, rule: string): WebtaskError {
  return new WebtaskError('bad_request', `Cannot use claim "${claim.slice(0, 100)}": ${rule}`)
}
