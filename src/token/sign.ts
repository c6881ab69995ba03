import { Buffer } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import { CompactSign } from 'jose'
import { WebtaskError } from '../errors.ts'
import type { Claims } from './claims.ts'
import type { Keyring } from './keyring.ts'
import { toPayload } from './payload.ts'
import { mergeObjects } from './plain-json.ts'

/** Longest token in characters; it has to fit into a request line or a header with room to spare. */
export const MAX_TOKEN_LENGTH = 8192
/** Deep enough never to run out; the chain of ancestors ends first. */
const MASTER_DEPTH = 1_000_000

/** Writes claims as a token made by and for `issuer`. Refuses (bad_request) what does not fit into 8192 characters. */
export async function signToken(claims: Claims, options: { keyring: Keyring; issuer: string }): Promise<string> {
  const { header, key } = options.keyring.signing
  const payload = JSON.stringify({ iss: options.issuer, aud: options.issuer, ...toPayload(claims) })
  const token = await new CompactSign(Buffer.from(payload)).setProtectedHeader({ ...header }).sign(key)
  if (token.length > MAX_TOKEN_LENGTH) {
    throw new WebtaskError(
      'bad_request',
      `Cannot issue this token: it would have ${token.length} characters, over ${MAX_TOKEN_LENGTH}; secrets, parameters and the URL count`,
    )
  }
  return token
}

/** The first token of a deployment: every container, never expires, may issue. `now` in unix seconds. */
export async function createMasterToken(options: {
  keyring: Keyring
  issuer: string
  now: number
  jti?: string
}): Promise<{ token: string; claims: Claims }> {
  const claims: Claims = {
    jti: options.jti ?? newTokenId(),
    iat: Math.floor(options.now),
    ca: [],
    ten: null,
    pctx: mergeObjects(),
    dd: MASTER_DEPTH,
    dr: 0,
    mb: 0,
    pb: 2,
    limits: {},
  }
  return { token: await signToken(claims, options), claims }
}

/** 128 random bits as 32 hex characters. */
export function newTokenId(): string {
  return randomBytes(16).toString('hex')
}
