import assert from 'node:assert/strict'
import { createPrivateKey, sign } from 'node:crypto'
import { test } from 'node:test'
import { WebtaskError } from '../../src/errors.ts'
import type { Claims } from '../../src/token/claims.ts'
import { generateKeys, KeyRecords } from '../../src/token/key-records.ts'
import { openKeyring } from '../../src/token/keyring.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { openSecrets, sealSecrets } from '../../src/token/seal.ts'
import { signToken } from '../../src/token/sign.ts'
import { authenticateToken } from '../../src/token/verify.ts'
import { protectedHeader, VECTORS } from '../support/vectors.ts'

const ISSUER = 'webtask:test'
const NOW = 1_800_000_000
const records = await generateKeys(NOW)
const keyring = await openKeyring(records)
const own = { keyring, issuer: ISSUER }
const { jwk } = records.keys[0]
const privateKey = createPrivateKey({ key: jwk, format: 'jwk' })
const claims: Claims = {
  jti: '0123456789abcdef0123456789abcdef',
  iat: NOW,
  ca: [],
  ten: ['acme'],
  url: 'https://code.example/',
  pctx: mergeObjects(),
  dd: 1,
  dr: 0,
  mb: 0,
  pb: 2,
  limits: {},
}
const payload = (await signToken(claims, own)).split('.')[1]!

/** Signed by our own key, whatever is signed. */
function signed(header: string, body: string): string {
  return `${header}.${body}.${sign(null, Buffer.from(`${header}.${body}`), privateKey).toString('base64url')}`
}

async function refused(text: string, what: string): Promise<void> {
  await assert.rejects(authenticateToken(text, own), (error) => error instanceof WebtaskError && error.code === 'token_invalid', what)
}

test('the vectors are all there', (t) => {
  t.diagnostic(`${VECTORS.jws.length} signatures, ${VECTORS.jwe.length} encryptions, ${VECTORS.jwk.length} kinds of keys`)
  assert.ok(VECTORS.jws.length > 420 && VECTORS.jwe.length > 160 && VECTORS.jwk.length > 30)
  for (const source of ['wycheproof signature', 'wycheproof encryption', 'wycheproof key', 'cookbook'])
    assert.ok(
      [...VECTORS.jws, ...VECTORS.jwe].some(({ from }) => from === source),
      source,
    )
})

test('no vector is a token', async () => {
  for (const { from, name, text } of [...VECTORS.jws, ...VECTORS.jwe]) await refused(text, `${from}: ${name}`)
})

test('no header of a vector makes a token, even over our claims with a right signature of ours', async () => {
  // Shows that the forgery below is one: with our own header it is a token.
  const header = (await signToken(claims, own)).split('.')[0]!
  assert.equal((await authenticateToken(signed(header, payload), own)).jti, claims.jti)
  const headers = new Set([...VECTORS.jws, ...VECTORS.jwe].map(({ text }) => protectedHeader(text)))
  assert.ok(headers.size > 60, `${headers.size} headers`)
  for (const each of headers) await refused(signed(each, payload), each)
})

test('no payload or signature of a vector makes a token, even under our header', async () => {
  const header = (await signToken(claims, own)).split('.')[0]!
  for (const { name, text } of VECTORS.jws) {
    const [, body = '', signature = ''] = text.split('.')
    await refused(`${header}.${body}.${signature}`, name)
    await refused(signed(header, body), name)
    await refused(`${header}.${payload}.${signature}`, name)
  }
})

test('no vector opens as the secrets of a token, and a token that carries one is refused, even signed by us', async () => {
  const sealed = { ...claims, ectx: await sealSecrets({ a: 'b' }, { claims, keyring }) }
  assert.equal((await openSecrets(await authenticateToken(await signToken(sealed, own), own), own))['a'], 'b')
  let tooLong = 0
  for (const { name, text } of [...VECTORS.jwe, ...VECTORS.jws]) {
    const carrier = { ...claims, ectx: text }
    await assert.rejects(openSecrets(carrier, own), { code: 'token_invalid' }, name)
    // Our header before what else a vector has: authentic as far as the eye sees.
    const spliced = [sealed.ectx.split('.')[0], ...text.split('.').slice(1)].join('.')
    await assert.rejects(openSecrets({ ...claims, ectx: spliced }, own), { code: 'token_invalid' }, name)
    try {
      await refused(await signToken(carrier, own), name)
    } catch (error) {
      if (!(error instanceof WebtaskError) || error.code !== 'bad_request') throw error
      tooLong += 1
    }
  }
  assert.ok(tooLong < 10, `${tooLong} do not fit into a token`)
})

test('no key of the vectors makes a ring that opens', async () => {
  const [signing, sealing] = records.keys
  const ringOf = (key: Record<string, unknown>) => ({ version: 1, keys: [{ ...signing, jwk: key }, sealing] })
  assert.equal(KeyRecords.safeParse(ringOf({ ...jwk })).success, true)
  for (const { from, key } of VECTORS.jwk) {
    const bare = { kty: key['kty'], crv: key['crv'], x: key['x'], d: key['d'] }
    for (const each of [key, bare, { ...jwk, ...key }]) {
      const parsed = KeyRecords.safeParse(ringOf(each))
      // A right Ed25519 key is still not the one that its kid names.
      if (parsed.success) await assert.rejects(openKeyring(parsed.data), /thumbprint/, from)
    }
    if (typeof key['k'] === 'string' && key['k'].length !== 43)
      assert.equal(KeyRecords.safeParse({ version: 1, keys: [signing, { ...sealing, secret: key['k'] }] }).success, false)
  }
})
