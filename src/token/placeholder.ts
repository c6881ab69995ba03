/** What stands for bound secrets: derived from key and token, so that all gateways find the same, and nothing of the value is in it. */
import { createHmac } from 'node:crypto'
import type { Claims } from './claims.ts'
import type { Keyring } from './keyring.ts'
import { sealedBy } from './seal.ts'
import { invalidToken } from './invalid.ts'

export interface Stands {
  /** Tells this token's secrets from those of another; no secret. */
  readonly id: string
  /** What code gets instead of the secret of this name. */
  placeholder(name: string): string
  /** 32 bytes for a private key of this token's own. */
  readonly seed: Buffer
}

/** Refuses (token_invalid) claims whose secrets no key of ours sealed. */
export async function standsFor(claims: Claims & { ectx: string }, options: { keyring: Keyring }): Promise<Stands> {
  const kid = sealedBy(claims, options.keyring)
  if (kid === undefined) throw invalidToken('secrets are sealed to another token or key')
  const key = await options.keyring.derive(kid, ['webtask-bound', kid, claims.jti])
  const about = (...what: string[]) => createHmac('sha256', key).update(JSON.stringify(what)).digest()
  return {
    id: about('id').toString('hex').slice(0, 32),
    placeholder: (name) => `wtsecret-${about('placeholder', name).toString('hex').slice(0, 40)}`,
    seed: about('seed'),
  }
}
