import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WebtaskError } from '../../src/errors.ts'
import type { TenantId } from '../../src/tenant/tenant-id.ts'
import { allowsContainer, isMaster, soleContainer, type Claims } from '../../src/token/claims.ts'
import { hashCode } from '../../src/token/code-url.ts'
import { issueToken, type Issued } from '../../src/token/issue.ts'
import { generateKeys } from '../../src/token/key-records.ts'
import { openKeyring } from '../../src/token/keyring.ts'
import { toPayload } from '../../src/token/payload.ts'
import { mayInspect, mayManage, mayRevoke } from '../../src/token/rights.ts'
import { openSecrets } from '../../src/token/seal.ts'
import { createMasterToken } from '../../src/token/sign.ts'
import { verifyToken } from '../../src/token/verify.ts'
import { parseWebtaskName } from '../../src/token/webtask-name.ts'

const NOW = 1_800_000_000
const own = { keyring: await openKeyring(await generateKeys(NOW)), issuer: 'webtask:test', now: NOW }
const master = (await createMasterToken(own)).claims
const tenant = (await issue(master, { ten: 'acme', dd: 3 })).claims
const CODE_URL = 'webtask://localhost/api/data/code/'

function issue(parent: Claims, input: unknown): Promise<Issued> {
  return issueToken({ ...own, parent, input })
}

async function refused(code: string, parent: Claims, input: unknown, message = /./): Promise<void> {
  await assert.rejects(
    issue(parent, input),
    (error) => error instanceof WebtaskError && error.code === code && message.test(error.message),
    `${JSON.stringify(input)} should be ${code}`,
  )
}

async function secretsOf(claims: Claims): Promise<unknown> {
  return JSON.parse(JSON.stringify(await openSecrets(claims, own)))
}

test('an issued token verifies, knows its ancestors and says what was asked', async () => {
  const { token, claims, container } = await issue(tenant, {
    ten: 'acme',
    jtn: 'hello',
    code: 'x',
    mb: 1,
    dr: 1,
    exp: NOW + 9,
    ltm: '5',
    meta: { a: 'b' },
  })
  assert.deepEqual(toPayload(await verifyToken(token, own)), toPayload(claims))
  assert.match(claims.jti, /^[0-9a-f]{32}$/)
  assert.deepEqual(claims.ca, [master.jti, tenant.jti])
  assert.deepEqual([claims.dd, claims.mb, claims.dr, claims.exp, claims.limits.ltm, claims.iat, container], [0, 1, 1, NOW + 9, 5, NOW, 'acme'])
})

test('inline code is not in the token: its URL is, by name or by hash', async () => {
  const named = await issue(tenant, { jtn: 'hello', code: 'secret code', meta: { m: '1' } })
  assert.equal(named.claims.url, `${CODE_URL}acme%2Fhello`)
  assert.equal(named.claims.cph, undefined)
  assert.deepEqual(named.code, { tenant: 'acme', key: 'hello', text: 'secret code' })
  assert.deepEqual({ ...named.meta }, { m: '1' })
  const digest = hashCode('secret code')
  const unnamed = await issue(tenant, { code: 'secret code' })
  assert.equal(unnamed.claims.url, `${CODE_URL}acme%2F${digest}`)
  assert.equal(unnamed.claims.cph, digest)
  assert.deepEqual(unnamed.code, { tenant: 'acme', key: digest, text: 'secret code' })
  assert.equal((await issue(tenant, { url: 'https://x/y#z' })).code, undefined)
  await refused('bad_request', master, { code: 'x' }, /one container/)
  await refused('bad_request', master, { code: 'x', ten: ['a', 'b'] }, /one container/)
  await refused('bad_request', tenant, { code: 'x', cph: hashCode('y') }, /not the hash/)
})

test('a webtask URL keeps stored code of the same container, and never reads another', async () => {
  assert.equal((await issue(tenant, { ten: 'acme', jtn: 'hello', url: `${CODE_URL}acme%2Fhello` })).claims.url, `${CODE_URL}acme%2Fhello`)
  await refused('forbidden', tenant, { url: `${CODE_URL}evil%2Fhello` })
  await refused('forbidden', tenant, { url: `${CODE_URL}acme%2F..%2Fevil%2Fhello` })
  await refused('forbidden', tenant, { url: 'webtask://localhost/api/data/storage/acme%2Fhello' })
  await refused('forbidden', master, { url: `${CODE_URL}acme%2Fhello` })
  await refused('forbidden', master, { ten: 'evil', url: `${CODE_URL}acme%2Fhello` })
  await refused('forbidden', master, { ten: ['acme', 'evil'], url: `${CODE_URL}acme%2Fhello` })
  const named = (await issue(tenant, { jtnm: ['a'], dd: 1 })).claims
  await refused('forbidden', named, { url: `${CODE_URL}acme%2Fb`, jtn: 'a' })
  await issue(named, { url: `${CODE_URL}acme%2Fa`, jtn: 'a' })
})

test('a child never reaches a container that its parent does not', async () => {
  assert.deepEqual((await issue(tenant, {})).claims.ten, ['acme'])
  for (const ten of ['evil', 'acme,evil', ['acme', 'evil'], '/^acme$/', '/.*/']) {
    await refused('forbidden', tenant, { ten })
  }
  const wide = (await issue(master, { ten: '/^acme/', dd: 5 })).claims
  assert.deepEqual((await issue(wide, { ten: ['acme', 'acme2'] })).claims.ten, ['acme', 'acme2'])
  assert.deepEqual((await issue(wide, { ten: '/^acme/' })).claims.ten, ['/^acme/'])
  await refused('forbidden', wide, { ten: '/^acme1/' })
  await refused('forbidden', wide, { ten: 'ac' })
})

test('depth ends: each generation has less, and zero issues nothing', async () => {
  assert.equal(tenant.dd, 3)
  await refused('forbidden', tenant, { dd: 3 })
  const child = (await issue(tenant, { dd: 2 })).claims
  const leaf = (await issue(child, {})).claims
  assert.equal(leaf.dd, 0)
  await refused('forbidden', leaf, {})
})

test('a chain of tokens ends at 32 ancestors', async () => {
  let claims = master
  for (let depth = 1; depth <= 32; depth += 1) {
    const next = await issue(claims, { dd: 1000 - depth })
    claims = await verifyToken(next.token, own)
  }
  assert.equal(claims.ca.length, 32)
  await refused('forbidden', claims, {})
})

test('a child lives within its parent', async () => {
  const parent = (await issue(tenant, { dd: 1, nbf: NOW - 5, exp: NOW + 100 })).claims
  const heir = (await issue(parent, {})).claims
  assert.deepEqual([heir.nbf, heir.exp], [NOW - 5, NOW + 100])
  assert.equal((await issue(parent, { exp: NOW + 50 })).claims.exp, NOW + 50)
  assert.equal((await issue(parent, { nbf: NOW - 50 })).claims.nbf, NOW - 5)
  assert.equal((await issue(parent, { nbf: NOW + 50 })).claims.nbf, NOW + 50)
  await refused('forbidden', parent, { exp: NOW + 101 })
})

test('container limits only shrink, and token limits belong to one token', async () => {
  const parent = (await issue(tenant, { dd: 1, ls: 10, lm: 20, lts: 1 })).claims
  assert.deepEqual((await issue(parent, { ls: 50, lm: 5, lo: 7, ltm: 9 })).claims.limits, { ls: 10, lm: 5, lo: 7, ltm: 9 })
})

test('secrets need fixed code', async () => {
  await refused('bad_request', tenant, { ectx: { a: 'b' } }, /secrets need/)
  await refused('bad_request', tenant, { cph: hashCode('x') }, /"cph"/)
  await refused('bad_request', tenant, { jtn: 'x' }, /"jtn"/)
  await refused('bad_request', master, { jtn: 'x', url: 'https://x/' }, /"jtn".*one container/)
  assert.equal((await issue(tenant, { ectx: {} })).claims.ectx, undefined)
  const { token, claims } = await issue(tenant, { code: 'x', ectx: { a: 'hunter2' } })
  assert.deepEqual(await secretsOf(await verifyToken(token, own)), { a: 'hunter2' })
  assert.equal(Buffer.from(token.split('.')[1] ?? '', 'base64url').includes('hunter2'), false)
  assert.equal(claims.ectx?.split('.').length, 5)
})

test('a token bound to code passes on that code, its secrets and its parameters, and nothing can replace them', async () => {
  const parent = (await issue(tenant, { dd: 2, url: 'https://x/y', ectx: { auth: 'a', deep: { b: 'c' } }, pctx: { p: '1' }, host: 'h.example' }))
    .claims
  const child = (await issue(parent, { url: 'https://x/y', ectx: { more: 'm', auth: 'a' }, pctx: { q: '2' }, host: 'h.example' })).claims
  assert.equal(child.url, 'https://x/y')
  assert.deepEqual(await secretsOf(child), { auth: 'a', deep: { b: 'c' }, more: 'm' })
  assert.deepEqual({ ...child.pctx }, { p: '1', q: '2' })
  assert.deepEqual(await secretsOf((await issue(parent, { dd: 1 })).claims), { auth: 'a', deep: { b: 'c' } })
  const wider = [
    { url: 'https://x/z' },
    { code: 'x' },
    { ectx: { auth: 'z' } },
    { ectx: { deep: {} } },
    { pctx: { p: '2' } },
    { ectx: { p: '2' } },
    { mb: 1 },
    { pb: 1 },
    { host: 'other.example' },
    { jtn: 'public' },
  ]
  for (const input of wider) await refused('forbidden', parent, input)
  const bound = (await issue(parent, { dd: 1, cph: hashCode('x') })).claims
  await refused('forbidden', bound, { cph: hashCode('y') })
  assert.equal((await issue(bound, {})).claims.cph, hashCode('x'))
})

test('a token limited to some webtasks issues for these only', async () => {
  const parent = (await issue(tenant, { dd: 2, jtnm: 'a,b' })).claims
  assert.deepEqual(parent.jtnm, ['a', 'b'])
  assert.deepEqual((await issue(parent, { jtn: 'a', code: 'x' })).claims.jtnm, ['a', 'b'])
  assert.deepEqual((await issue(parent, { jtnm: ['b'] })).claims.jtnm, ['b'])
  await refused('forbidden', parent, { jtn: 'c', code: 'x' })
  await refused('forbidden', parent, { jtnm: ['a', 'c'] })
})

test('a token may inspect its descendants and itself, unless it is bound to code', async () => {
  const child = (await issue(tenant, { dd: 2 })).claims
  const grandchild = (await issue(child, { dd: 1, code: 'x' })).claims
  const leaf = (await issue(grandchild, {})).claims
  const stranger = (await issue(master, { ten: 'acme', dd: 1 })).claims
  assert.deepEqual([mayInspect(tenant, leaf), mayInspect(master, leaf), mayInspect(child, child)], [true, true, true])
  assert.deepEqual(
    [mayInspect(stranger, leaf), mayInspect(child, tenant), mayInspect(grandchild, leaf), mayInspect(leaf, leaf)],
    [false, false, false, false],
  )
})

test('a token is revoked by its ancestors, or by itself unless dr forbids it', async () => {
  const open = (await issue(tenant, { dd: 1 })).claims
  const locked = (await issue(open, { dr: 1 })).claims
  const stranger = (await issue(master, { ten: 'acme', dd: 1 })).claims
  assert.deepEqual([mayRevoke(open, open), mayRevoke(tenant, locked), mayRevoke(open, locked), mayRevoke(master, stranger)], [true, true, true, true])
  const lesserMaster = (await issue(master, {})).claims
  assert.deepEqual([mayRevoke(lesserMaster, open), mayRevoke(lesserMaster, master)], [true, false])
  assert.deepEqual([mayRevoke(locked, locked), mayRevoke(locked, open), mayRevoke(stranger, open)], [false, false, false])
})

test('only tokens that are not bound to code manage, each its own containers and names', async () => {
  const acme = 'acme' as TenantId
  const a = parseWebtaskName('a')
  assert.ok(a)
  const bound = (await issue(tenant, { code: 'x' })).claims
  const named = (await issue(tenant, { jtnm: ['b'] })).claims
  assert.deepEqual([mayManage(master, { tenant: acme }), mayManage(tenant, { tenant: acme, name: a })], [true, true])
  assert.deepEqual(
    [
      mayManage(tenant, { tenant: 'evil' as TenantId }),
      mayManage(bound, { tenant: acme }),
      mayManage(named, { tenant: acme, name: a }),
      mayManage(named, { tenant: acme }),
    ],
    [false, false, false, false],
  )
})

test('a token without containers is a master only while nothing else binds it', async () => {
  assert.equal(isMaster(master), true)
  assert.equal(isMaster((await issue(master, {})).claims), true)
  assert.equal(isMaster((await issue(master, { url: 'https://x/' })).claims), false)
  assert.equal(isMaster((await issue(master, { jtnm: ['a'] })).claims), false)
  assert.equal(isMaster((await issue(master, { ten: '/.*/' })).claims), false)
  assert.equal(allowsContainer(master, 'any' as TenantId), true)
  assert.deepEqual([soleContainer(master), soleContainer(tenant), soleContainer({ ten: ['/^a$/'] })], [undefined, 'acme', undefined])
})

test('the claims of a token can be issued again as they were inspected', async () => {
  const { claims } = await issue(tenant, { jtn: 'hello', code: 'x', ectx: { a: 'b' }, pctx: { p: '1' }, mb: 1, exp: NOW + 9, ls: 3 })
  const inspected = { iss: 'x', aud: 'x', ...toPayload(claims), ectx: await secretsOf(claims), webtask_url: 'http://x/', meta: {} }
  const again = (await issue(tenant, inspected)).claims
  const strip = (all: Claims) => ({ ...toPayload(all), jti: '', ectx: '' })
  assert.deepEqual(strip(again), strip(claims))
  assert.deepEqual(await secretsOf(again), { a: 'b' })
})
