import { compactVerify } from 'jose'
import { checkTimes, type Claims } from './claims.ts'
import { invalidToken } from './invalid.ts'
import type { Keyring } from './keyring.ts'
import { fromPayload } from './payload.ts'
import { sealedBy } from './seal.ts'
import { MAX_TOKEN_LENGTH } from './sign.ts'

/** Three base64url parts; the last character of the 64-byte signature has no spare bits, so a token has no twins. */
const COMPACT = /^[\w-]{1,400}\.[\w-]+\.[\w-]{85}[AQgw]$/

/**
 * The claims of a token whenever it is or was valid: everything but time and revocation. Refuses (token_invalid) every other
 * text, whatever it holds: length and alphabet first, then the header byte for byte, the signature, and only then the claims.
 */
export async function authenticateToken(text: string, options: { keyring: Keyring; issuer: string }): Promise<Claims> {
  if (typeof text !== 'string' || text.length > MAX_TOKEN_LENGTH || !COMPACT.test(text)) throw invalidToken('not the form of a token')
  const key = options.keyring.verifying(text.slice(0, text.indexOf('.')))
  if (key === undefined) throw invalidToken('not a header of ours')
  try {
    const { payload } = await compactVerify(text, key, { algorithms: ['Ed25519'] })
    const claims = fromPayload(payload, options.issuer)
    const { ectx } = claims
    // A token whose secrets can never be opened, as their key was revoked, is refused here and not while its code is loaded.
    if (ectx !== undefined && sealedBy({ ...claims, ectx }, options.keyring) === undefined) throw new Error('secrets are not sealed to it')
    return claims
  } catch (error) {
    throw invalidToken('signature or claims are wrong', error)
  }
}

/** The claims of a token that is valid at `now` (unix seconds), revocation aside. Refuses (token_invalid) every other text. */
export async function verifyToken(text: string, options: { keyring: Keyring; issuer: string; now: number }): Promise<Claims> {
  const claims = await authenticateToken(text, options)
  checkTimes(claims, options.now)
  return claims
}
