import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WebtaskError } from '../../src/errors.ts'
import type { Claims } from '../../src/token/claims.ts'
import { invalidToken } from '../../src/token/invalid.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { createVerifiedTokens } from '../../src/token/verified-cache.ts'

const NOW = 1_800_000_000

function claimsWith(changes: Partial<Claims> = {}): Claims {
  const jti = '0123456789abcdef0123456789abcdef'
  return { jti, iat: NOW, ca: [], ten: ['acme'], pctx: mergeObjects(), dd: 1, dr: 0, mb: 0, pb: 2, limits: {}, ...changes }
}

/** A cache over a table of good texts, with a clock and a count of verifications. */
function setUp(good: Record<string, Claims>, max = 100) {
  const world = { now: NOW, verified: 0, revoked: new Set<string>(), good: new Map(Object.entries(good)) }
  const tokens = createVerifiedTokens({
    authenticate: async (text) => {
      world.verified += 1
      await Promise.resolve()
      const claims = world.good.get(text)
      if (claims === undefined) throw invalidToken('test')
      return claims
    },
    isRevoked: (claims) => world.revoked.has(claims.jti),
    now: () => world.now,
    max,
  })
  const refused = (text: string) => assert.rejects(tokens.get(text), (error) => error instanceof WebtaskError && error.code === 'token_invalid')
  return { world, tokens, refused }
}

test('a token is verified once, even by a burst of first requests', async () => {
  const { world, tokens } = setUp({ a: claimsWith() })
  await Promise.all(Array.from({ length: 50 }, () => tokens.get('a')))
  await tokens.get('a')
  assert.equal(world.verified, 1)
})

test('a remembered token still expires, and is refused in the moment it is revoked', async () => {
  const { world, tokens, refused } = setUp({ a: claimsWith({ exp: NOW + 10 }) })
  await tokens.get('a')
  world.revoked.add(claimsWith().jti)
  await refused('a')
  world.revoked.clear()
  await tokens.get('a')
  world.now = NOW + 10
  await refused('a')
  assert.equal(world.verified, 1)
})

test('a token that came too early works from its first second', async () => {
  const { world, tokens, refused } = setUp({ a: claimsWith({ nbf: NOW + 1 }) })
  await refused('a')
  world.now = NOW + 1
  await tokens.get('a')
})

test('a flood of garbage costs little and pushes no good token out', async () => {
  const { world, tokens, refused } = setUp({ a: claimsWith() }, 10)
  await tokens.get('a')
  for (let i = 0; i < 20; i += 1) {
    await refused('bad')
    await refused(`bad${i}`)
  }
  await refused('x'.repeat(1_000_000))
  const before = world.verified
  await tokens.get('a')
  await refused('bad19')
  assert.equal(world.verified, before)
})

test('a refusal is forgotten after a while, and everything when keys change', async () => {
  const { world, tokens, refused } = setUp({})
  await refused('a')
  world.good.set('a', claimsWith())
  await refused('a')
  world.now += 10
  await tokens.get('a')
  world.good.clear()
  const late = tokens.get('b')
  world.good.set('b', claimsWith())
  tokens.clear()
  await late
  world.good.clear()
  await refused('a')
  await refused('b')
})
