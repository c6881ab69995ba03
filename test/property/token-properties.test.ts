import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { WebtaskError } from '../../src/errors.ts'
import type { TenantId } from '../../src/tenant/tenant-id.ts'
import { allowsContainer, CONTAINER_LIMITS, isMaster, type Claims } from '../../src/token/claims.ts'
import { parseIssueInput } from '../../src/token/issue-input.ts'
import { generateKeys } from '../../src/token/key-records.ts'
import { openKeyring } from '../../src/token/keyring.ts'
import { derive } from '../../src/token/narrow.ts'
import { toPayload } from '../../src/token/payload.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { mayManage } from '../../src/token/rights.ts'
import { openSecrets, sealSecrets } from '../../src/token/seal.ts'
import { createMasterToken, signToken } from '../../src/token/sign.ts'
import { createRevokedSet, tokenRevocation } from '../../src/token/revocation.ts'
import { authenticateToken } from '../../src/token/verify.ts'

const NOW = 1_800_000_000
const own = { keyring: await openKeyring(await generateKeys(NOW)), issuer: 'webtask:test', now: NOW }
const master = (await createMasterToken(own)).claims

const TENANTS = ['acme', 'acme1', 'beta', 'b', '~'] as const
const tenant = fc.constantFrom(...TENANTS)
const source = fc.oneof(tenant, fc.constantFrom('/^acme/', '/^b/', '/.*/', '/a/'))
const ten = fc.oneof(
  source,
  fc.array(source, { minLength: 1, maxLength: 3 }),
  fc.array(tenant, { minLength: 1, maxLength: 3 }).map((names) => names.join(',')),
)
const name = fc.constantFrom('n1', 'n2', 'n3')
const limits = Object.fromEntries([...CONTAINER_LIMITS].map((limit) => [limit, fc.integer({ min: 1, max: 9 })]))
const url = fc.constantFrom(
  'https://x/1',
  'https://x/2',
  'webtask://localhost/api/data/code/acme%2Fn1',
  'webtask://localhost/api/data/code/beta%2Fn2',
)
const whole = fc.record({
  ten,
  jtn: name,
  jtnm: fc.array(name, { maxLength: 2 }),
  url,
  code: fc.constantFrom('a', 'b'),
  pctx: fc.dictionary(fc.constantFrom('k', 'l'), fc.constantFrom('1', '2')),
  exp: fc.integer({ min: NOW - 2, max: NOW + 8 }),
  nbf: fc.integer({ min: NOW - 9, max: NOW + 2 }),
  mb: fc.constantFrom(0, 1),
  ...limits,
})
/** A few claims only, or hardly any request would be granted. */
const asked = fc
  .tuple(whole, fc.subarray(['ten', 'jtn', 'jtnm', 'url', 'code', 'pctx', 'exp', 'nbf', 'mb', ...CONTAINER_LIMITS], { maxLength: 3 }))
  .map(([claims, keys]) => Object.fromEntries(Object.entries(claims).filter(([key]) => (keys as string[]).includes(key))))
const requestsOf = fc.array(fc.record({ claims: asked, depth: fc.constantFrom(0, 0.5, 0.9, 0.9, 0.9, 1) }), { minLength: 1, maxLength: 10 })

/** Derives as far as the requests allow, skipping what is refused; every refusal is a proper one. */
function chain(requests: readonly { claims: unknown; depth: number }[]): readonly Claims[] {
  const tokens: Claims[] = [master]
  for (const [index, { claims, depth }] of requests.entries()) {
    const parent = tokens.at(-1) ?? master
    const child = tryDerive(parent, {
      input: { ...(claims as object), dd: Math.floor(parent.dd * depth) },
      jti: String(index).padStart(32, '0'),
    })
    if (child !== undefined) tokens.push(child)
  }
  return tokens
}

function tryDerive(parent: Claims, { input, jti }: { input: unknown; jti: string }): Claims | undefined {
  try {
    return derive(parent, parseIssueInput(input, NOW), { now: NOW, jti })
  } catch (error) {
    assert.ok(error instanceof WebtaskError && (error.code === 'forbidden' || error.code === 'bad_request'), String(error))
    return undefined
  }
}

test('whatever a derived token allows, all its ancestors allow', () => {
  fc.assert(
    fc.property(requestsOf, (requests) => {
      const tokens = chain(requests)
      for (const [index, child] of tokens.entries()) {
        for (const [depth, parent] of tokens.slice(0, index).entries()) {
          assert.equal(child.ca[depth], parent.jti)
          assert.ok(child.dd < parent.dd)
          assert.ok((child.exp ?? Infinity) <= (parent.exp ?? Infinity))
          assert.ok((child.nbf ?? 0) >= (parent.nbf ?? 0))
          assert.ok(!isMaster(child) || isMaster(parent))
          for (const limit of CONTAINER_LIMITS) assert.ok((child.limits[limit] ?? Infinity) <= (parent.limits[limit] ?? Infinity))
          for (const [key, value] of Object.entries(parent.pctx)) assert.equal(child.pctx[key], value)
          if (parent.url !== undefined) assert.deepEqual([child.url, child.mb, child.pb, child.jtn], [parent.url, parent.mb, parent.pb, undefined])
          if (parent.jtnm !== undefined) assert.ok(child.jtnm?.every((each) => parent.jtnm?.includes(each)))
          for (const text of TENANTS) {
            const id = text as TenantId
            assert.ok(!allowsContainer(child, id) || allowsContainer(parent, id))
            assert.ok(!mayManage(child, { tenant: id }) || mayManage(parent, { tenant: id }))
            for (const webtask of ['n1', 'n2'] as NonNullable<Claims['jtn']>[]) {
              assert.ok(!mayManage(child, { tenant: id, name: webtask }) || mayManage(parent, { tenant: id, name: webtask }))
            }
          }
        }
      }
    }),
    { numRuns: 2000 },
  )
})

test('revoking any ancestor revokes the token', () => {
  fc.assert(
    fc.property(requestsOf, fc.nat(), (requests, pick) => {
      const tokens = chain(requests)
      const revoked = pick % tokens.length
      const set = createRevokedSet()
      set.add(tokenRevocation(tokens[revoked] ?? master, []))
      assert.deepEqual(
        tokens.map((claims) => set.isRevoked(claims)),
        tokens.map((_, index) => index >= revoked),
      )
    }),
  )
})

test('every derived token survives the wire unchanged', async () => {
  await fc.assert(
    fc.asyncProperty(requestsOf, async (requests) => {
      const claims = chain(requests).at(-1) ?? master
      assert.deepEqual(toPayload(await authenticateToken(await signToken(claims, own), own)), toPayload(claims))
    }),
    { numRuns: 200 },
  )
})

test('no input to issue ends in anything but claims or a proper refusal', () => {
  const anything = fc.dictionary(
    fc.constantFrom(
      'ten',
      'jtn',
      'jtnm',
      'url',
      'code',
      'cph',
      'ectx',
      'pctx',
      'meta',
      'dd',
      'dr',
      'exp',
      'nbf',
      'mb',
      'pb',
      'host',
      'ls',
      'lto',
      '__proto__',
      'x',
    ),
    fc.anything({ withNullPrototype: true, withBigInt: true, withMap: true }),
  )
  fc.assert(
    fc.property(
      fc.oneof(
        anything,
        fc.anything(),
        fc.json().map((text): unknown => JSON.parse(text)),
      ),
      (input) => void tryDerive(master, { input, jti: '0'.repeat(32) }),
    ),
    { numRuns: 3000 },
  )
})

async function isRefused(text: string): Promise<void> {
  await assert.rejects(authenticateToken(text, own), (error) => error instanceof WebtaskError && error.code === 'token_invalid')
}

test('any other text than a token is refused in one way, whatever it holds', async () => {
  const part = fc.oneof(
    fc.base64String(),
    fc.string({ unit: 'binary' }),
    fc.json().map((text) => Buffer.from(text).toString('base64url')),
  )
  const parts = fc.array(part, { maxLength: 6 }).map((all) => all.join('.'))
  await fc.assert(fc.asyncProperty(fc.oneof(fc.string({ unit: 'binary' }), parts), isRefused), { numRuns: 3000 })
})

test('a valid token with any change at all is refused', async () => {
  const claims = { ...master, ten: ['acme'], url: 'https://x/' }
  const { token } = {
    token: await signToken({ ...claims, ectx: await sealSecrets(mergeObjects({ a: 'b' }), { claims, keyring: own.keyring }) }, own),
  }
  await authenticateToken(token, own)
  const change = fc.tuple(
    fc.nat(token.length),
    fc.nat(3),
    fc.oneof(fc.constantFrom('A', 'z', '0', '-', '_', '.', '=', '+', '/', ' ', '\n', '\0'), fc.string({ maxLength: 3, unit: 'binary' })),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
      const mutated = changes.reduce((text, [at, removed, added]) => text.slice(0, at) + added + text.slice(at + removed), token)
      if (mutated !== token) await isRefused(mutated)
    }),
    { numRuns: 3000 },
  )
})

test('any JSON secrets come back as they were, and open for no other id', async () => {
  const secrets = fc
    .dictionary(fc.string(), fc.oneof(fc.string({ unit: 'binary' }), fc.dictionary(fc.string(), fc.string())))
    .filter((all) => !JSON.stringify(all).includes('"__proto__":'))
  await fc.assert(
    fc.asyncProperty(secrets, async (plain) => {
      const claims = { ...master, url: 'https://x/' }
      const ectx = await sealSecrets(plain, { claims, keyring: own.keyring })
      assert.equal(JSON.stringify(await openSecrets({ ...claims, ectx }, own)), JSON.stringify(plain))
      await assert.rejects(openSecrets({ ...claims, ectx, jti: 'f'.repeat(32) }, own))
    }),
    { numRuns: 200 },
  )
})
