import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { test } from 'node:test'
import { CompactEncrypt, CompactSign, generateKeyPair, importJWK } from 'jose'
import { WebtaskError } from '../../src/errors.ts'
import type { Claims } from '../../src/token/claims.ts'
import { generateKeys } from '../../src/token/key-records.ts'
import { openKeyring, type Keyring } from '../../src/token/keyring.ts'
import { toPayload } from '../../src/token/payload.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { createMasterToken, signToken } from '../../src/token/sign.ts'
import { authenticateToken, verifyToken } from '../../src/token/verify.ts'
import { parseWebtaskName } from '../../src/token/webtask-name.ts'

const NOW = 1_800_000_000
const ISSUER = 'webtask:test'
const records = await generateKeys(NOW)
const keyring = await openKeyring(records)
const own = { keyring, issuer: ISSUER, now: NOW }
const { jwk, kid } = records.keys[0]
const privateKey = (await importJWK(jwk, 'Ed25519')) as Keyring['signing']['key']

function claimsWith(changes: Partial<Claims> = {}): Claims {
  const jti = '0123456789abcdef0123456789abcdef'
  return { jti, iat: NOW, ca: [], ten: ['acme'], pctx: mergeObjects(), dd: 1, dr: 0, mb: 0, pb: 2, limits: {}, ...changes }
}

function encode(text: string): string {
  return Buffer.from(text).toString('base64url')
}

/** A token over any payload text, signed with the deployment's own key. */
function signText(payload: string | Uint8Array, header: Record<string, unknown> = {}): Promise<string> {
  return new CompactSign(Buffer.from(payload)).setProtectedHeader({ alg: 'Ed25519', typ: 'wt+jwt', kid, ...header }).sign(privateKey)
}

function payloadText(changes: Record<string, unknown> = {}): string {
  return JSON.stringify({ iss: ISSUER, aud: ISSUER, ...toPayload(claimsWith()), ...changes })
}

const messages = new Set<string>()

async function refused(text: string, options = own): Promise<void> {
  await assert.rejects(verifyToken(text, options), (error) => {
    assert.ok(error instanceof WebtaskError)
    assert.equal(error.code, 'token_invalid')
    messages.add(error.message)
    return true
  })
}

test('what was signed is what is read', async () => {
  const claims = claimsWith({
    ca: ['f'.repeat(32)],
    ten: ['a', '/^b,{1,2}/'],
    jtnm: [parseWebtaskName('n')!],
    url: 'https://x/',
    pctx: mergeObjects({ ü: '1', '2': '3' }),
    dd: 3,
    dr: 1,
    mb: 1,
    pb: 1,
    exp: NOW + 5,
    nbf: NOW,
    host: 'x.example',
    limits: { ls: 1, lto: 2 },
  })
  assert.deepEqual(toPayload(await verifyToken(await signToken(claims, own), own)), toPayload(claims))
})

test('the header and payload are readable, and typ is not JWT', async () => {
  const token = await signToken(claimsWith({ jtn: parseWebtaskName('hello'), url: 'https://x/' }), own)
  const [header = '', payload = ''] = token.split('.').map((part) => Buffer.from(part, 'base64url').toString())
  assert.deepEqual(JSON.parse(header), { alg: 'Ed25519', typ: 'wt+jwt', kid })
  const { ten, jtn, url } = JSON.parse(payload) as Record<string, unknown>
  assert.deepEqual({ ten, jtn, url }, { ten: 'acme', jtn: 'hello', url: 'https://x/' })
})

test('the master token reaches everything and does not expire', async () => {
  const { token } = await createMasterToken(own)
  const claims = await verifyToken(token, { ...own, now: NOW + 1e9 })
  assert.equal(claims.ten, null)
  assert.equal(claims.exp, undefined)
  assert.ok(claims.dd > 1000)
})

test('time decides: no leeway for exp and nbf, one minute for iat', async () => {
  const token = await signToken(claimsWith({ nbf: NOW + 10, exp: NOW + 20 }), own)
  await refused(token, { ...own, now: NOW + 9 })
  await verifyToken(token, { ...own, now: NOW + 10 })
  await verifyToken(token, { ...own, now: NOW + 19.9 })
  await refused(token, { ...own, now: NOW + 20 })
  await verifyToken(await signToken(claimsWith({ iat: NOW + 60 }), own), own)
  await refused(await signToken(claimsWith({ iat: NOW + 61 }), own))
  assert.equal((await authenticateToken(token, own)).exp, NOW + 20)
})

test('a token of another deployment or another key is refused', async () => {
  const token = await signToken(claimsWith(), own)
  await refused(token, { ...own, issuer: 'webtask:other' })
  await refused(token, { ...own, keyring: await openKeyring(await generateKeys(NOW)) })
  await refused(await signText(payloadText({ aud: [ISSUER] })))
  await refused(await signText(payloadText({ aud: 'webtask:other' })))
  await refused(await signText(payloadText({ iss: undefined })))
})

test('no header but our own is accepted, even signed with our key', async () => {
  await verifyToken(await signText(payloadText()), own)
  const bad: Record<string, unknown>[] = [
    { typ: 'JWT' },
    { typ: 'WT+JWT' },
    { typ: undefined },
    { kid: undefined },
    { kid: '__proto__' },
    { kid: '../../etc/passwd' },
    { kid: `${kid} ` },
    { jku: 'https://evil/' },
    { jwk: { kty: 'OKP', crv: 'Ed25519', x: jwk.x } },
    { x5u: 'https://evil/' },
    { x5c: ['x'] },
    { zip: 'DEF' },
    { cty: 'JWT' },
  ]
  for (const header of bad) {
    await refused(await signText(payloadText(), header))
  }
})

test('no other algorithm is accepted: none, HS256 with the public key, the EdDSA alias, b64 and crit', async () => {
  const payload = encode(payloadText())
  for (const alg of ['none', 'None', 'HS256', 'EdDSA', 'ES256', 'ed25519']) {
    const signed = `${encode(JSON.stringify({ alg, typ: 'wt+jwt', kid }))}.${payload}`
    for (const secret of [jwk.x, Buffer.from(jwk.x, 'base64url'), JSON.stringify({ kty: 'OKP', crv: 'Ed25519', x: jwk.x })]) {
      await refused(`${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`)
    }
    for (const signature of ['', 'A'.repeat(86), 'A'.repeat(43)]) await refused(`${signed}.${signature}`)
  }
  const alias = await new CompactSign(Buffer.from(payloadText())).setProtectedHeader({ alg: 'EdDSA', typ: 'wt+jwt', kid }).sign(privateKey)
  await refused(alias)
  for (const header of [{ b64: false, crit: ['b64'] }, { crit: ['exp'], exp: 1 }, { b64: true }]) {
    const head = encode(JSON.stringify({ alg: 'Ed25519', typ: 'wt+jwt', kid, ...header }))
    await refused(`${head}.${payload}.${'A'.repeat(86)}`)
  }
})

test('an encrypted token and JSON serializations are not tokens', async () => {
  const pair = await generateKeyPair('ECDH-ES+A256KW', { crv: 'X25519' })
  const jwe = await new CompactEncrypt(Buffer.from(payloadText()))
    .setProtectedHeader({ alg: 'ECDH-ES+A256KW', enc: 'A256GCM', typ: 'wt+jwt', kid })
    .encrypt(pair.publicKey)
  await refused(jwe)
  const [header = '', payload, signature] = (await signText(payloadText())).split('.')
  await refused(JSON.stringify({ protected: header, payload, signature }))
  await refused(JSON.stringify({ payload, signatures: [{ protected: header, signature }] }))
})

test('a token has no twins: nothing can be appended, prepended or changed without effect', async () => {
  const token = await signText(payloadText())
  const [header = '', payload = '', signature = ''] = token.split('.')
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  for (const last of alphabet) {
    if (!signature.endsWith(last)) await refused(`${token.slice(0, -1)}${last}`)
  }
  for (const twin of [
    `${token} `,
    `${token}\n`,
    ` ${token}`,
    `${token}=`,
    `${token}==`,
    `${token}.`,
    `.${token}`,
    token.replace(/[-_]/g, (c) => (c === '-' ? '+' : '/')) + '\0',
    `${header}=.${payload}.${signature}`,
    `${header}.${payload}=.${signature}`,
    token.replace('.', '\u2024'),
  ]) {
    await refused(twin)
  }
})

test('claims that this deployment never writes are refused, even signed with its key', async () => {
  const bad = [
    payloadText({ exp: 1.5 }),
    payloadText({ exp: '1900000000' }),
    payloadText({ exp: -1 }),
    payloadText({ exp: null }),
    payloadText({ exp: NOW + 11 * 366 * 86_400 }),
    payloadText({ exp: 1e300 }),
    payloadText().replace('}', ',"exp":1e400}'),
    payloadText({ iat: undefined }),
    payloadText({ jti: 'x' }),
    payloadText({ jti: undefined }),
    payloadText({ ca: undefined }),
    payloadText({ ca: Array.from({ length: 33 }, () => 'f'.repeat(32)) }),
    payloadText({ dd: undefined }),
    payloadText({ dd: -1 }),
    payloadText({ ten: null }),
    payloadText({ ten: '/[/' }),
    payloadText({ ten: '__proto__' }),
    payloadText({ ten: [] }),
    payloadText({ jtn: '..' }),
    payloadText({ ten: ['a', 'b'], jtn: 'x' }),
    payloadText({ ectx: 'a.b.c.d.e' }),
    payloadText({ pctx: 'x' }),
    payloadText({ unknown: 1 }),
    payloadText({ lz: 1 }),
    payloadText().replace('{', '{"__proto__":{"ten":"x"},'),
    payloadText().replace('{', '{"jti":"ffffffffffffffffffffffffffffffff",'),
    payloadText().replace('{', '{ '),
    payloadText().replace('"acme"', '"\\u0061cme"'),
    `\u{feff}${payloadText()}`,
    '[]',
    'null',
    '"x"',
    '',
    '{}',
    '{',
  ]
  for (const text of bad) await refused(await signText(text))
  const [before = '', after = ''] = payloadText({ pctx: { p: '|' } }).split('|')
  const join = (between: number[]) => signText(Buffer.concat([Buffer.from(before), Buffer.from(between), Buffer.from(after)]))
  await verifyToken(await join([0xc3, 0xbc]), own)
  await refused(await join([0xff]))
  await refused(await join([0xed, 0xa0, 0x80]))
})

test('text of any size and alphabet is refused at once', async () => {
  const started = performance.now()
  const valid = await signText(payloadText())
  for (const text of [
    '',
    '.',
    '..',
    '...',
    'x',
    'a.b.c',
    '\0',
    '💥.💥.💥',
    '__proto__',
    '.'.repeat(1_000_000),
    'a'.repeat(1_000_000),
    `${valid}${'A'.repeat(1_000_000)}`,
    `${'A'.repeat(8000)}.${'A'.repeat(100)}.${'A'.repeat(86)}`,
  ]) {
    await refused(text)
  }
  for (const text of [undefined, null, 5, {}, [valid]]) {
    await refused(text as unknown as string)
  }
  assert.ok(performance.now() - started < 500)
})

test('a token that would not fit is refused at issue, and one that just fits is read', async () => {
  const long = (length: number) => claimsWith({ pctx: mergeObjects({ p: 'x'.repeat(length) }) })
  await verifyToken(await signToken(long(5500), own), own)
  await assert.rejects(
    signToken(long(6500), own),
    (error) => error instanceof WebtaskError && error.code === 'bad_request' && /over 8192/.test(error.message),
  )
})

test('every refusal reads the same, and none quotes the token', () => {
  assert.deepEqual([...messages], ['The token is not valid'])
})
