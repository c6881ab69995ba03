import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { generateKeys, type KeyRecords } from '../../src/token/key-records.ts'
import { listKeys, promote, promotionTime, publish, retire, revoke, RotationRefused } from '../../src/token/key-rotation.ts'
import { openKeyring } from '../../src/token/keyring.ts'
import { openSecrets, sealSecrets } from '../../src/token/seal.ts'
import { createMasterToken, signToken } from '../../src/token/sign.ts'
import { authenticateToken } from '../../src/token/verify.ts'

const NOW = 1_800_000_000
const issuer = 'webtask:test'
const states = (ring: KeyRecords) => ring.keys.map((key) => `${key.use} ${key.state}`).sort()
const kidOf = (ring: KeyRecords, use: 'sig' | 'enc', state: string) => ring.keys.find((key) => key.use === use && key.state === state)?.kid ?? ''
const refused = (reason: RegExp) => (error: unknown) => error instanceof RotationRefused && reason.test(error.message)

test('a rotation has two steps: keys that everybody knows and nobody uses, then they take over', async () => {
  const first = await generateKeys(NOW)
  const published = await publish(first, { uses: ['sig', 'enc'], now: NOW + 10 })
  assert.deepEqual(states(published), ['enc active', 'enc next', 'sig active', 'sig next'])
  assert.equal(kidOf(published, 'enc', 'next'), 'kek-2')
  const ring = await openKeyring(published)
  assert.equal(ring.signing.header.kid, kidOf(first, 'sig', 'active'))
  assert.equal(ring.sealing, 'kek-1')
  const rotated = promote(published, { uses: ['sig', 'enc'], now: NOW + 20 })
  assert.deepEqual(states(rotated), ['enc active', 'enc retiring', 'sig active', 'sig retiring'])
  assert.equal(kidOf(rotated, 'sig', 'active'), kidOf(published, 'sig', 'next'))
  assert.equal(kidOf(rotated, 'sig', 'retiring'), kidOf(first, 'sig', 'active'))
})

test('what any key of a rotation signed or sealed is good at every step, whoever has taken the step already', async () => {
  const first = await generateKeys(NOW)
  const published = await publish(first, { uses: ['sig', 'enc'], now: NOW })
  const rotated = promote(published, { uses: ['sig', 'enc'], now: NOW })
  // Neighbouring steps may be in force at once in different gateways; the first and the last never are.
  for (const [ours, theirs] of [
    [first, published],
    [published, first],
    [published, rotated],
    [rotated, published],
  ] as const) {
    const [a, b] = [await openKeyring(ours), await openKeyring(theirs)]
    const { token, claims } = await createMasterToken({ keyring: a, issuer, now: NOW })
    const sealed = { ...claims, ectx: await sealSecrets({ a: 'b' }, { claims, keyring: a }) }
    await authenticateToken(token, { keyring: b, issuer })
    assert.deepEqual({ ...(await openSecrets(sealed, { keyring: b })) }, { a: 'b' })
  }
})

test('a rotation that was broken off is taken up again, not begun twice', async () => {
  const published = await publish(await generateKeys(NOW), { uses: ['sig'], now: NOW })
  assert.deepEqual(states(published), ['enc active', 'sig active', 'sig next'])
  assert.deepEqual(await publish(published, { uses: ['sig'], now: NOW + 5 }), published)
  const both = await publish(published, { uses: ['sig', 'enc'], now: NOW + 5 })
  assert.deepEqual(states(both), ['enc active', 'enc next', 'sig active', 'sig next'])
  assert.equal(promotionTime(published, { uses: ['sig'], overlapSeconds: 3 }), NOW + 4, 'whole seconds are rounded up')
  assert.equal(promotionTime(both, { uses: ['sig', 'enc'], overlapSeconds: 3 }), NOW + 9)
  assert.throws(() => promote(published, { uses: ['enc'], now: NOW }), refused(/no next key/))
})

test('retiring by hand: the next key takes over, a next key is dropped, and nothing else changes', async () => {
  const first = await generateKeys(NOW)
  const published = await publish(first, { uses: ['sig'], now: NOW })
  const [active, next] = [kidOf(published, 'sig', 'active'), kidOf(published, 'sig', 'next')]
  const retired = retire(published, active, NOW + 9)
  assert.deepEqual(states(retired), ['enc active', 'sig active', 'sig retiring'])
  assert.equal(kidOf(retired, 'sig', 'active'), next)
  assert.deepEqual(retire(retired, active, NOW + 10), retired)
  assert.deepEqual(retire(published, next, NOW).keys, first.keys)
  assert.throws(() => retire(first, active, NOW), refused(/the only active signing key/))
  assert.throws(() => retire(first, 'kek-1', NOW), refused(/the only active key-encryption key/))
  assert.throws(() => retire(first, 'kek-9', NOW), refused(/No key "kek-9"/))
  const revoked = revoke(retired, active, NOW)
  assert.throws(() => retire(revoked, active, NOW), refused(/revoked/))
})

test('a revoked key keeps its name and loses everything else, and the last active one cannot be revoked', async () => {
  const first = await generateKeys(NOW)
  const active = kidOf(first, 'sig', 'active')
  assert.throws(() => revoke(first, active, NOW), refused(/npm run keys -- rotate/))
  assert.throws(() => revoke(first, 'kek-1', NOW), refused(/npm run keys -- rotate/))
  const published = await publish(first, { uses: ['sig', 'enc'], now: NOW })
  const { token, claims } = await createMasterToken({ keyring: await openKeyring(first), issuer, now: NOW })
  const sealed = { ...claims, ectx: await sealSecrets({ a: 'b' }, { claims, keyring: await openKeyring(first) }) }
  const revoked = revoke(revoke(published, active, NOW + 7), 'kek-1', NOW + 8)
  assert.deepEqual(states(revoked), ['enc active', 'enc revoked', 'sig active', 'sig revoked'])
  assert.deepEqual(
    revoked.keys.filter((key) => key.state === 'revoked'),
    [
      { kid: active, use: 'sig', state: 'revoked', createdAt: NOW, since: NOW + 7 },
      { kid: 'kek-1', use: 'enc', state: 'revoked', createdAt: NOW, since: NOW + 8 },
    ],
  )
  assert.deepEqual(revoke(revoked, active, NOW + 99), revoked)
  const keyring = await openKeyring(revoked)
  await assert.rejects(authenticateToken(token, { keyring, issuer }))
  await assert.rejects(openSecrets(sealed, { keyring }))
  const again = await publish(revoked, { uses: ['enc'], now: NOW })
  assert.equal(kidOf(again, 'enc', 'next'), 'kek-3', 'a name is never used twice')
})

test('a token whose secrets are sealed by a revoked key is refused as a whole', async () => {
  const first = await generateKeys(NOW)
  const before = await openKeyring(first)
  const { claims: master } = await createMasterToken({ keyring: before, issuer, now: NOW })
  const bare = { ...master, url: 'https://code.example/' }
  const claims = { ...bare, ectx: await sealSecrets({ a: 'b' }, { claims: bare, keyring: before }) }
  const published = await publish(first, { uses: ['enc'], now: NOW })
  const token = await signToken(claims, { keyring: before, issuer })
  await authenticateToken(token, { keyring: await openKeyring(published), issuer })
  const keyring = await openKeyring(revoke(published, 'kek-1', NOW))
  await assert.rejects(authenticateToken(token, { keyring, issuer }), { code: 'token_invalid' })
})

test('the list tells state and ages, and no key material', async () => {
  const published = await publish(await generateKeys(NOW), { uses: ['sig'], now: NOW + 50 })
  const listed = listKeys(promote(published, { uses: ['sig'], now: NOW + 60 }), NOW + 100)
  assert.deepEqual(
    listed.map(({ use, state, ageSeconds, stateSeconds }) => ({ use, state, ageSeconds, stateSeconds })),
    [
      { use: 'sig', state: 'active', ageSeconds: 50, stateSeconds: 40 },
      { use: 'sig', state: 'retiring', ageSeconds: 100, stateSeconds: 40 },
      { use: 'enc', state: 'active', ageSeconds: 100, stateSeconds: 100 },
    ],
  )
  assert.deepEqual(Object.keys(listed[0]!).sort(), ['ageSeconds', 'createdAt', 'kid', 'state', 'stateSeconds', 'use'])
})

test('whatever the steps, a ring keeps exactly one active key of each use, and every ring can be opened', async () => {
  const first: KeyRecords = await generateKeys(NOW)
  const step = fc.tuple(fc.constantFrom('publish', 'promote', 'retire', 'revoke'), fc.nat(8), fc.constantFrom('sig' as const, 'enc' as const))
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      let ring = first
      let now = NOW
      for (const [what, which, use] of steps) {
        now += 1
        const kid = ring.keys[which % ring.keys.length]!.kid
        try {
          if (what === 'publish') ring = await publish(ring, { uses: [use], now })
          else if (what === 'promote') ring = promote(ring, { uses: [use], now })
          else ring = what === 'retire' ? retire(ring, kid, now) : revoke(ring, kid, now)
        } catch (error) {
          if (!(error instanceof RotationRefused)) throw error
        }
        for (const each of ['sig', 'enc']) assert.equal(ring.keys.filter((key) => key.use === each && key.state === 'active').length, 1)
      }
      await openKeyring(ring)
    }),
    { numRuns: 60 },
  )
})
