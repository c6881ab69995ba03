import { Buffer } from 'node:buffer'
import { compactDecrypt, CompactEncrypt } from 'jose'
import type { Claims } from './claims.ts'
import { invalidToken } from './invalid.ts'
import type { Keyring } from './keyring.ts'
import { copyObject, mergeObjects, type JsonObject } from './plain-json.ts'

/** What `ctx.secrets` becomes; strings for the most part, nested where `wt --secret a.b=c` nests. */
export type Secrets = JsonObject

/** Plaintext grows in these steps, in bytes, so that the length of a token tells little about its secrets. */
const STEP_BYTES = 256

/** Seals secrets to one token: only claims with the same id, containers and code hash open them. `claims.ectx` is not read. */
export async function sealSecrets(secrets: Secrets, options: { claims: Claims; keyring: Keyring }): Promise<string> {
  const { claims, keyring } = options
  const plain = Buffer.from(JSON.stringify(secrets))
  const padded = Buffer.alloc(Math.max(1, Math.ceil(plain.length / STEP_BYTES)) * STEP_BYTES, ' ')
  plain.copy(padded)
  // Read once: the ring may change while we wait.
  const kid = keyring.sealing
  const key = await keyring.wrapping(kid, tenantText(claims))
  return new CompactEncrypt(padded).setProtectedHeader(sealHeader(claims, kid)).encrypt(key)
}

/** The id of the key that sealed the secrets of these claims for them, or undefined when that is no key of ours. Decrypts nothing. */
export function sealedBy(claims: Claims & { ectx: string }, keyring: Keyring): string | undefined {
  const segment = claims.ectx.slice(0, claims.ectx.indexOf('.'))
  // The header is compared as bytes with the one that these claims call for, and never parsed before that.
  return keyring.opening.find((candidate) => encodeHeader(sealHeader(claims, candidate)) === segment)
}

/** The secrets of a verified token, in an object without a prototype; empty when it has none. Refuses (token_invalid) all but its own seal. */
export async function openSecrets(claims: Claims, options: { keyring: Keyring }): Promise<Secrets> {
  const { ectx } = claims
  if (ectx === undefined) return mergeObjects()
  const kid = sealedBy({ ...claims, ectx }, options.keyring)
  if (kid === undefined) throw invalidToken('secrets are sealed to another token or key')
  try {
    const { plaintext } = await compactDecrypt(ectx, await options.keyring.wrapping(kid, tenantText(claims)), {
      keyManagementAlgorithms: ['A256KW'],
      contentEncryptionAlgorithms: ['A256GCM'],
      maxDecompressedLength: 0,
    })
    return copyObject(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(plaintext)), 'ectx')
  } catch (error) {
    throw invalidToken('secrets cannot be opened', error)
  }
}

function sealHeader(claims: Claims, kid: string) {
  const header = { alg: 'A256KW', enc: 'A256GCM', typ: 'webtask-secrets+jwe', kid, ten: tenantText(claims), jti: claims.jti }
  return claims.cph === undefined ? header : { ...header, cph: claims.cph }
}

/** One text per set of containers: no container or regex starts with `[` or is `*`. */
function tenantText({ ten }: Claims): string {
  if (ten === null) return '*'
  return ten.length === 1 && ten[0] !== undefined ? ten[0] : JSON.stringify(ten)
}

function encodeHeader(header: object): string {
  return Buffer.from(JSON.stringify(header)).toString('base64url')
}
