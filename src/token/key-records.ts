import { randomBytes } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK, generateKeyPair } from 'jose'
import { z } from 'zod'

const base64Key = z.string().regex(/^[\w-]{43}$/)
const signingId = base64Key
const sealingId = z.string().regex(/^kek-\d{1,9}$/)
const jwk = z.strictObject({ kty: z.literal('OKP'), crv: z.literal('Ed25519'), x: base64Key, d: base64Key })
const live = z.enum(['next', 'active', 'retiring'])
/** `since` is when the state was entered; a key that never changed its state has none. Unix seconds. */
const times = { createdAt: z.int(), since: z.int().optional() }

const SigningKey = z.strictObject({ kid: signingId, use: z.literal('sig'), state: live, ...times, jwk })
const SealingKey = z.strictObject({ kid: sealingId, use: z.literal('enc'), state: live, ...times, secret: base64Key })
/** What is left of a revoked key is its name; rings that were edited by hand may still have the rest. */
const RevokedSigningKey = z.strictObject({ kid: signingId, use: z.literal('sig'), state: z.literal('revoked'), ...times, jwk: jwk.optional() })
const RevokedSealingKey = z.strictObject({
  kid: sealingId,
  use: z.literal('enc'),
  state: z.literal('revoked'),
  ...times,
  secret: base64Key.optional(),
})

/**
 * The ring as it lies on disk. Exactly one key of each use is active: it signs or seals. A next key will, and a retiring one did;
 * both verify and open as the active one does. A revoked key does nothing.
 */
export const KeyRecords = z.strictObject({
  version: z.literal(1),
  keys: z.array(z.union([SigningKey, SealingKey, RevokedSigningKey, RevokedSealingKey])).min(2),
})
export type KeyRecords = z.infer<typeof KeyRecords>
export type KeyRecord = KeyRecords['keys'][number]
export type KeyUse = KeyRecord['use']
export type SigningRecord = z.infer<typeof SigningKey>
export type SealingRecord = z.infer<typeof SealingKey>

/** New random keys for an empty deployment, both active. `now` in unix seconds. */
export async function generateKeys(now: number): Promise<KeyRecords & { keys: [SigningRecord, SealingRecord] }> {
  return { version: 1, keys: [await generateSigningKey({ now, state: 'active' }), generateSealingKey({ now, state: 'active', number: 1 })] }
}

/** A random Ed25519 key, named by its thumbprint. */
export async function generateSigningKey(options: { now: number; state: 'next' | 'active' }): Promise<SigningRecord> {
  const pair = await generateKeyPair('Ed25519', { extractable: true })
  const { x = '', d = '' } = await exportJWK(pair.privateKey)
  const jwk = { kty: 'OKP', crv: 'Ed25519', x, d } as const
  return { kid: await calculateJwkThumbprint(jwk), use: 'sig', state: options.state, createdAt: Math.floor(options.now), jwk }
}

/** 256 random bits from which the key of every tenant is derived. */
export function generateSealingKey(options: { now: number; state: 'next' | 'active'; number: number }): SealingRecord {
  const secret = randomBytes(32).toString('base64url')
  return { kid: `kek-${options.number}`, use: 'enc', state: options.state, createdAt: Math.floor(options.now), secret }
}
