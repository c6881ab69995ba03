import { Buffer } from 'node:buffer'
import { webcrypto } from 'node:crypto'
import { calculateJwkThumbprint, importJWK, type JWK } from 'jose'
import { LRUCache } from 'lru-cache'
import type { KeyRecord, KeyRecords, SealingRecord, SigningRecord } from './key-records.ts'

type CryptoKey = webcrypto.CryptoKey

/** The exact header of our tokens. `typ` must not be `JWT`: existing clients switch protocol on it. */
interface TokenHeader {
  readonly alg: 'Ed25519'
  readonly typ: 'wt+jwt'
  readonly kid: string
}

/** The keys of a deployment, ready to use and impossible to export. Several may verify and open; one of each kind signs and seals. */
export interface Keyring {
  readonly signing: { readonly header: TokenHeader; readonly key: CryptoKey }
  /** The verification key of a token's first segment, when that is byte for byte a header we write. */
  verifying(headerSegment: string): CryptoKey | undefined
  /** The id of the key-encryption master that seals. */
  readonly sealing: string
  /** The ids of all masters that may open, the sealing one first. */
  readonly opening: readonly string[]
  /** The key that wraps secrets of one tenant text under one master. Throws when the master is unknown. */
  wrapping(kid: string, tenantText: string): Promise<CryptoKey>
  /** 32 bytes under one master for one purpose, always the same. Throws when the master is unknown. */
  derive(kid: string, purpose: readonly string[]): Promise<Buffer>
}

const MAX_WRAPPING_KEYS = 1000

/** Imports the keys. Throws when an id is used twice or does not fit its key, or when not exactly one key of a use is active. */
export async function openKeyring(records: KeyRecords): Promise<Keyring> {
  const ids = new Set(records.keys.map((key) => key.kid))
  if (ids.size !== records.keys.length) throw new Error('Cannot use the keys: two have the same id')
  const signers = records.keys.filter(isSigning)
  const masters = records.keys.filter(isSealing).sort((a, b) => Number(b.state === 'active') - Number(a.state === 'active'))
  const signer = onlyActive(signers)
  const master = onlyActive(masters)
  const verifiers = new Map<string, CryptoKey>()
  for (const { kid, jwk } of signers) {
    if ((await calculateJwkThumbprint(jwk)) !== kid) throw new Error(`Cannot use the keys: "${kid}" is not the thumbprint of its key`)
    verifiers.set(headerSegment(kid), await importSigning({ kty: jwk.kty, crv: jwk.crv, x: jwk.x }))
  }
  return {
    signing: { header: tokenHeader(signer.kid), key: await importSigning(signer.jwk) },
    verifying: (segment) => verifiers.get(segment),
    sealing: master.kid,
    opening: masters.map(({ kid }) => kid),
    ...(await derivedKeys(masters)),
  }
}

function isSigning(key: KeyRecord): key is SigningRecord {
  return key.use === 'sig' && key.state !== 'revoked'
}

function isSealing(key: KeyRecord): key is SealingRecord {
  return key.use === 'enc' && key.state !== 'revoked'
}

/** A key of its own for every tenant text, so that sealed secrets of one tenant mean nothing under another. */
async function derivedKeys(masters: readonly SealingRecord[]): Promise<Pick<Keyring, 'wrapping' | 'derive'>> {
  const imported = new Map<string, CryptoKey>()
  for (const { kid, secret } of masters) {
    imported.set(kid, await webcrypto.subtle.importKey('raw', Buffer.from(secret, 'base64url'), 'HKDF', false, ['deriveKey', 'deriveBits']))
  }
  const derived = new LRUCache<string, Promise<CryptoKey>>({ max: MAX_WRAPPING_KEYS })
  const masterOf = (kid: string) => {
    const master = imported.get(kid)
    if (master === undefined) throw new Error(`No key "${kid}"`)
    return master
  }
  return {
    async wrapping(kid, tenantText) {
      const master = masterOf(kid)
      const info = JSON.stringify(['webtask-kek', kid, tenantText])
      const known =
        derived.get(info) ?? webcrypto.subtle.deriveKey(hkdf(info), master, { name: 'AES-KW', length: 256 }, false, ['wrapKey', 'unwrapKey'])
      derived.set(info, known)
      return known
    },
    derive: async (kid, purpose) => Buffer.from(await webcrypto.subtle.deriveBits(hkdf(JSON.stringify(purpose)), masterOf(kid), 256)),
  }
}

function hkdf(info: string) {
  return { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(0), info: Buffer.from(info) }
}

async function importSigning(jwk: JWK): Promise<CryptoKey> {
  const key = await importJWK(jwk, 'Ed25519', { extractable: false })
  if (key instanceof Uint8Array) throw new Error('Cannot use the keys: a signing key is symmetric')
  return key
}

function onlyActive<T extends { readonly use: string; readonly state: string }>(keys: readonly T[]): T {
  const active = keys.filter((key) => key.state === 'active')
  if (active.length !== 1 || active[0] === undefined) throw new Error('Cannot use the keys: exactly one of each use must be active')
  return active[0]
}

function tokenHeader(kid: string): TokenHeader {
  return { alg: 'Ed25519', typ: 'wt+jwt', kid }
}

function headerSegment(kid: string): string {
  return Buffer.from(JSON.stringify(tokenHeader(kid))).toString('base64url')
}
