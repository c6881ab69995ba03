import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Claims } from '../../src/token/claims.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { createRevokedSet, ownersOf, tenantRevocation, tokenRevocation } from '../../src/token/revocation.ts'

const id = (char: string) => char.repeat(32)

function claims(changes: Partial<Claims> = {}): Claims {
  return { jti: id('0'), iat: 1000, ca: [], ten: ['acme'], pctx: mergeObjects(), dd: 1, dr: 0, mb: 0, pb: 2, limits: {}, ...changes }
}

test('revoking a token revokes all its descendants and nobody else', () => {
  const set = createRevokedSet()
  assert.equal(set.isRevoked(claims({ jti: id('a') })), false)
  assert.equal(set.add(tokenRevocation({ jti: id('a') }, [])), true)
  assert.equal(set.add(tokenRevocation({ jti: id('a') }, [])), false, 'no news')
  assert.equal(set.isRevoked(claims({ jti: id('a') })), true)
  assert.equal(set.isRevoked(claims({ jti: id('c'), ca: [id('a'), id('b')] })), true)
  assert.equal(set.isRevoked(claims({ jti: id('c'), ca: [id('b')] })), false)
})

test('revoking a tenant refuses what names it and was issued up to then, and nothing else', () => {
  const set = createRevokedSet()
  set.add(tenantRevocation('acme', 1000))
  assert.deepEqual([set.watermark('acme'), set.watermark('globex')], [1000, 0])
  for (const ten of [['acme'], ['globex', 'acme']]) assert.equal(set.isRevoked(claims({ ten })), true)
  assert.equal(set.isRevoked(claims({ iat: 999 })), true)
  assert.equal(set.isRevoked(claims({ iat: 1001 })), false)
  for (const ten of [null, ['globex'], ['/acme/'], ['acme2'], ['ten:acme']]) assert.equal(set.isRevoked(claims({ ten })), false)
  assert.equal(set.add(tenantRevocation('acme', 999)), false, 'the later one counts')
  assert.equal(set.isRevoked(claims()), true)
  assert.equal(set.add(tenantRevocation('acme', 1001)), true)
  assert.equal(set.isRevoked(claims({ iat: 1001 })), true)
})

test('what has expired is forgotten a minute later, and what never expires is not', () => {
  const set = createRevokedSet()
  set.add(tokenRevocation({ jti: id('a'), exp: 1000 }, ['acme', id('f')]))
  set.add(tokenRevocation({ jti: id('b') }, ['acme']))
  set.add(tenantRevocation('acme', 1))
  assert.deepEqual([set.count('acme'), set.count(id('f'))], [2, 1])
  assert.deepEqual(set.prune(1060), [])
  assert.deepEqual(set.prune(1061), [id('a')])
  assert.deepEqual([set.count('acme'), set.count(id('f'))], [1, 0])
  assert.deepEqual(
    [...set.entries()],
    [
      { subject: id('b'), value: '0 acme' },
      { subject: 'ten:acme', value: '1' },
    ],
  )
})

test('what is no revocation is ignored, wherever it came from', () => {
  const set = createRevokedSet()
  for (const [subject, value] of [
    ['x', '0'],
    ['', ''],
    [id('a'), ''],
    [id('a'), '-1'],
    [id('a'), '1e3'],
    [id('a'), 'never'],
    [id('a'), '0 a b c'],
    [id('a'), '0  '],
    [id('A'), '0'],
    ['ten:a b', '5'],
    ['ten:acme', 'x'],
    ['ten:acme', '99999999999999'],
  ] as const)
    assert.equal(set.add({ subject, value }), false, `${subject} ${value}`)
  assert.deepEqual([...set.entries()], [])
  assert.equal(set.add({ subject: id('a'), value: '0' }), true, 'as older gateways wrote it')
})

test('revocations count for the tenant and for the token its tokens come from, and for nobody when a master asks', () => {
  assert.deepEqual(ownersOf(claims({ ten: null, ca: [] })), [])
  assert.deepEqual(ownersOf(claims({ ten: null, ca: [id('1')] })), [])
  assert.deepEqual(ownersOf(claims({ jti: id('2'), ca: [id('1')] })), ['acme', id('2')])
  assert.deepEqual(ownersOf(claims({ jti: id('3'), ca: [id('1'), id('2')] })), ['acme', id('2')])
  assert.deepEqual(ownersOf(claims({ jti: id('4'), ca: [id('1'), id('2'), id('3')], ten: ['/x/'] })), [id('2')])
})
