import { WebtaskError } from '../errors.ts'
import type { Claims } from '../token/claims.ts'
import type { VerifiedTokens } from '../token/verified-cache.ts'

export interface Authenticated {
  readonly text: string
  readonly claims: Claims
}

/** The token after exactly the scheme `Bearer`, whatever its case (RFC 9110 §11.1). */
function bearer(authorization: string | undefined): string | undefined {
  return authorization?.slice(0, 7).toLowerCase() === 'bearer ' ? authorization.slice(7).trim() : undefined
}

/** Judges the token that came with a request: the header first, then the `key` parameter. Refuses with 401. */
export async function authenticate(
  tokens: VerifiedTokens,
  sent: { authorization: string | undefined; key: string | undefined },
): Promise<Authenticated> {
  const text = bearer(sent.authorization) ?? sent.key
  if (text === undefined)
    throw new WebtaskError('token_missing', 'A token is needed: send "Authorization: Bearer <token>" or the query parameter key=<token>')
  return { text, claims: await tokens.get(text) }
}
