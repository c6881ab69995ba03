import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CompactEncrypt } from 'jose'
import { WebtaskError } from '../../src/errors.ts'
import type { Claims } from '../../src/token/claims.ts'
import { hashCode } from '../../src/token/code-url.ts'
import { generateKeys } from '../../src/token/key-records.ts'
import { openKeyring } from '../../src/token/keyring.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { openSecrets, sealSecrets } from '../../src/token/seal.ts'

const NOW = 1_800_000_000
const keyring = await openKeyring(await generateKeys(NOW))
const secrets = mergeObjects({ password: 'hunter2', nested: { key: 'ü' } })

function claimsWith(changes: Partial<Claims> = {}): Claims {
  const jti = '0123456789abcdef0123456789abcdef'
  return {
    jti,
    iat: NOW,
    ca: [],
    ten: ['acme'],
    url: 'https://x/',
    pctx: mergeObjects(),
    dd: 1,
    dr: 0,
    mb: 0,
    pb: 2,
    limits: {},
    ...changes,
  }
}

async function sealed(changes: Partial<Claims> = {}, plain = secrets): Promise<Claims> {
  const claims = claimsWith(changes)
  return { ...claims, ectx: await sealSecrets(plain, { claims, keyring }) }
}

async function refused(claims: Claims, ring = keyring): Promise<void> {
  await assert.rejects(
    openSecrets(claims, { keyring: ring }),
    (error) => error instanceof WebtaskError && error.code === 'token_invalid' && !error.message.includes('hunter2'),
  )
}

/** A seal with any header and plaintext, under the very key of the tenant `acme`. */
async function sealBy(header: Record<string, string>, plain = Buffer.from('{"a":"b"}')): Promise<string> {
  const full = {
    alg: 'A256KW',
    enc: 'A256GCM',
    typ: 'webtask-secrets+jwe',
    kid: keyring.sealing,
    ten: 'acme',
    jti: claimsWith().jti,
    ...header,
  }
  return new CompactEncrypt(plain).setProtectedHeader(full).encrypt(await keyring.wrapping(keyring.sealing, 'acme'))
}

test('secrets come back as they were, in objects without a prototype', async () => {
  for (const ten of [['acme'], ['a', '/^b/'], null]) {
    const opened = await openSecrets(await sealed({ ten, cph: hashCode('x') }), { keyring })
    assert.equal(JSON.stringify(opened), JSON.stringify(secrets))
    assert.equal(Object.getPrototypeOf(opened), null)
  }
  assert.deepEqual(Object.keys(await openSecrets(claimsWith(), { keyring })), [])
})

test('the sealed form shows neither secrets nor their exact length', async () => {
  const short = await sealed({}, mergeObjects({ a: 'b' }))
  const longer = await sealed({}, mergeObjects({ a: 'b'.repeat(200) }))
  assert.equal(short.ectx?.length, longer.ectx?.length)
  assert.equal((await sealed()).ectx?.includes('hunter2'), false)
})

test('secrets spliced into another token do not open', async () => {
  const victim = await sealed()
  await refused({ ...victim, jti: 'f'.repeat(32) })
  await refused({ ...victim, ten: ['evil'] })
  await refused({ ...victim, ten: ['acme', 'evil'] })
  await refused({ ...victim, ten: null })
  await refused({ ...victim, cph: hashCode('x') })
  const bound = await sealed({ cph: hashCode('x') })
  await refused({ ...bound, cph: undefined })
  await refused({ ...bound, cph: hashCode('y') })
})

test('secrets of another deployment or with a changed character do not open', async () => {
  const victim = await sealed()
  await refused(victim, await openKeyring(await generateKeys(NOW)))
  const text = victim.ectx ?? ''
  const positions = Array.from({ length: 40 }, (_, i) => Math.floor((i * (text.length - 2)) / 40))
  for (const at of positions) {
    if (text[at] === '.') continue
    await refused({ ...victim, ectx: `${text.slice(0, at)}${text[at] === 'A' ? 'B' : 'A'}${text.slice(at + 1)}` })
  }
  for (const junk of ['', '.', '....', 'x', text.slice(0, -30), `${text}.x`, '\0', '💥']) await refused({ ...victim, ectx: junk })
})

test('only our header opens, even under the right key', async () => {
  assert.deepEqual({ ...(await openSecrets(claimsWith({ ectx: await sealBy({}) }), { keyring })) }, { a: 'b' })
  for (const header of [{ typ: 'JWT' }, { enc: 'A128CBC-HS256' }, { cty: 'x' }, { kid: '__proto__' }]) {
    await refused(claimsWith({ ectx: await sealBy(header) }))
  }
  for (const plain of ['', '[]', 'null', '{"__proto__":{}}', '{']) {
    await refused(claimsWith({ ectx: await sealBy({}, Buffer.from(plain)) }))
  }
})
