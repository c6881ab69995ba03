import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { GenericContainer, Wait, type StartedTestContainer } from 'testcontainers'
import { WebtaskError } from '../../src/errors.ts'
import type { Claims } from '../../src/token/claims.ts'
import { parseTenantId } from '../../src/tenant/tenant-id.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { openRevocationFile, type RevocationFile } from '../../src/token/revocation-file.ts'
import { createRevocations, type Revocations } from '../../src/token/revocations.ts'
import { newTokenId } from '../../src/token/sign.ts'

let container: StartedTestContainer

before(async () => {
  container = await new GenericContainer(process.env['WEBTASK_REDIS_IMAGE'] ?? 'redis:8-bookworm')
    .withCommand(['redis-server', '--save', '', '--bind', '0.0.0.0', '--protected-mode', 'no'])
    .withExposedPorts(6379)
    .withWaitStrategy(Wait.forLogMessage(/Ready to accept connections/))
    .start()
})
after(() => container.stop())

const now = () => Date.now() / 1000

function tokenClaims(changes: Partial<Claims> = {}): Claims {
  return { jti: newTokenId(), iat: 0, ca: [], ten: ['acme'], pctx: mergeObjects(), dd: 1, dr: 0, mb: 0, pb: 2, limits: {}, ...changes }
}

function connect(t: TestContext): Redis {
  const redis = new Redis({
    host: container.getHost(),
    port: container.getMappedPort(6379),
    retryStrategy: () => 50,
    commandTimeout: 2000,
    maxRetriesPerRequest: 1,
  })
  redis.on('error', () => undefined)
  t.after(() => redis.disconnect())
  return redis
}

interface Gateway {
  readonly revocations: Revocations
  readonly redis: Redis
  readonly subscriber: Redis
  readonly dataDir: string
  stop(): Promise<void>
}

interface StartOptions {
  readonly prefix: string
  readonly now?: () => number
  /** Of an earlier gateway, for one that is started again; otherwise a new one. */
  readonly dataDir?: string
  readonly file?: RevocationFile
  readonly staleMaxSeconds?: number
  readonly ownerMax?: number
}

async function startGateway(t: TestContext, options: StartOptions): Promise<Gateway> {
  const redis = connect(t)
  const subscriber = connect(t)
  const dataDir = options.dataDir ?? (await newDataDir(t))
  const file = options.file ?? (await openRevocationFile(path.join(dataDir, 'revocations'), { now: options.now ?? now }))
  const revocations = await createRevocations({ redis, subscriber, now, staleMaxSeconds: 30, ownerMax: 1000, ...options, file })
  const stop = async () => {
    revocations[Symbol.dispose]()
    redis.disconnect()
    subscriber.disconnect()
    await file[Symbol.asyncDispose]()
  }
  t.after(stop)
  return { revocations, redis, subscriber, dataDir, stop }
}

async function newDataDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'wt-revocations-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  return dir
}

function newPrefix(): string {
  return `wt-${randomBytes(4).toString('hex')}`
}

/** Waits until the claims are refused, and says how long that took in milliseconds. */
async function untilRevoked(gateway: Gateway, claims: Claims): Promise<number> {
  const started = performance.now()
  while (!gateway.revocations.isRevoked(claims)) {
    assert.ok(performance.now() - started < 5000, 'still not revoked after 5 s')
    await sleep(5)
  }
  return performance.now() - started
}

test('a revoked token and its descendants are refused by every gateway within a second, and others are not', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  const parent = tokenClaims()
  const child = tokenClaims({ ca: [parent.jti] })
  await a.revocations.revoke(parent)
  assert.equal(a.revocations.isRevoked(parent), true)
  assert.ok((await untilRevoked(b, child)) < 1000)
  assert.equal(b.revocations.isRevoked(tokenClaims()), false)
  const other = await startGateway(t, { prefix: newPrefix() })
  assert.equal(other.revocations.isRevoked(parent), false)
})

test('a gateway that starts later knows what was revoked before', async (t) => {
  const prefix = newPrefix()
  const [parent, child] = [tokenClaims(), tokenClaims({ exp: Math.floor(now()) + 100 })]
  const first = await startGateway(t, { prefix })
  await Promise.all([first.revocations.revoke(parent), first.revocations.revoke(child)])
  const second = await startGateway(t, { prefix })
  assert.deepEqual([second.revocations.isRevoked(parent), second.revocations.isRevoked(child)], [true, true])
})

test('a gateway that missed messages catches up within a second', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  // The connection stays open and silent, as after a network fault that nobody notices.
  await b.subscriber.unsubscribe(`${prefix}:revoked`)
  const claims = tokenClaims()
  await a.revocations.revoke(claims)
  assert.ok((await untilRevoked(b, claims)) < 1000)
})

test('a gateway whose connections were cut hears the next revocation within a second', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  await connect(t).call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await a.redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  const claims = tokenClaims()
  await a.revocations.revoke(claims)
  assert.ok((await untilRevoked(b, claims)) < 1000)
})

test('what Redis lost is not forgotten: gateways keep it and write it back', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  const claims = [tokenClaims(), tokenClaims()]
  for (const each of claims) {
    await a.revocations.revoke(each)
    await untilRevoked(b, each)
  }
  await a.redis.del(`${prefix}:revoked`, `${prefix}:revoked:version`)
  await sleep(1500)
  const late = await startGateway(t, { prefix })
  for (const gateway of [a, b, late])
    assert.deepEqual(
      claims.map((each) => gateway.revocations.isRevoked(each)),
      [true, true],
    )
  const version = await a.redis.get(`${prefix}:revoked:version`)
  await sleep(1000)
  assert.equal(await a.redis.get(`${prefix}:revoked:version`), version, 'gateways agree and stop writing')
})

test('what has expired leaves Redis', async (t) => {
  const prefix = newPrefix()
  const gateway = await startGateway(t, { prefix })
  const [mortal, immortal] = [tokenClaims({ exp: Math.floor(now()) + 5 }), tokenClaims()]
  await gateway.revocations.revoke(mortal)
  await gateway.revocations.revoke(immortal)
  await gateway.revocations.revoke(tokenClaims({ exp: 5 }))
  await gateway.stop()
  const later = await startGateway(t, { prefix, now: () => now() + 100, dataDir: gateway.dataDir })
  assert.deepEqual(await later.redis.hkeys(`${prefix}:revoked`), [immortal.jti])
})

test('without Redis a revocation is refused aloud, and the gateway knows how stale it is', async (t) => {
  const gateway = await startGateway(t, { prefix: newPrefix() })
  await sleep(600)
  assert.ok(gateway.revocations.staleSeconds() < 1)
  gateway.redis.disconnect()
  await assert.rejects(gateway.revocations.revoke(tokenClaims()), (error) => error instanceof WebtaskError && error.code === 'unavailable')
  await sleep(1500)
  assert.ok(gateway.revocations.staleSeconds() > 1)
})

test('a thousand revocations at once are one thousand everywhere', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  const claims = Array.from({ length: 1000 }, () => tokenClaims())
  await Promise.all(claims.map((each, index) => (index % 2 ? a : b).revocations.revoke(each)))
  const last = Math.max(...(await Promise.all(claims.map((each) => Promise.all([untilRevoked(a, each), untilRevoked(b, each)])))).flat())
  assert.ok(last < 1000)
})

const acme = parseTenantId('acme')!

test('a revoked tenant: what names it and was issued before is refused everywhere within a second, what is issued afterwards is not', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  const issue = (gateway: Gateway, ten = ['acme']) => tokenClaims({ ten, iat: Math.max(Math.floor(now()), gateway.revocations.earliestIssue(ten)) })
  const [before, other] = [issue(a), issue(a, ['globex'])]
  assert.equal(a.revocations.isRevoked(before), false)
  await a.revocations.revokeTenant(acme)
  assert.equal(a.revocations.isRevoked(before), true)
  assert.ok((await untilRevoked(b, before)) < 1000)
  for (const gateway of [a, b]) {
    const after = issue(gateway)
    assert.ok(after.iat - now() < 60, 'no gateway takes it for issued in the future')
    assert.deepEqual(
      [after, other, tokenClaims({ ten: null })].map((each) => gateway.revocations.isRevoked(each)),
      [false, false, false],
    )
  }
  // In the same second: what was issued in between is refused too.
  const between = issue(a)
  await b.revocations.revokeTenant(acme)
  await untilRevoked(a, between)
  assert.equal(b.revocations.isRevoked(between), true)
  for (let i = 0; i < 100; i += 1) await a.revocations.revokeTenant(acme).catch((error: WebtaskError) => assert.equal(error.code, 'quota_exceeded'))
  assert.ok(issue(a).iat - now() < 60)
})

test('a flushed Redis forgets nothing: running gateways go on refusing, and within a second it has everything again', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  const claims = tokenClaims()
  await a.revocations.revoke(claims)
  await b.revocations.revokeTenant(acme)
  await Promise.all([untilRevoked(b, claims), untilRevoked(a, tokenClaims())])
  const epoch = await a.redis.get(`${prefix}:revoked:epoch`)
  assert.ok(epoch)
  await a.redis.flushall()
  for (let i = 0; i < 20; i += 1) {
    for (const { revocations } of [a, b]) assert.deepEqual([revocations.isRevoked(claims), revocations.isRevoked(tokenClaims())], [true, true])
    await sleep(50)
  }
  assert.deepEqual(Object.keys(await a.redis.hgetall(`${prefix}:revoked`)).sort(), [claims.jti, 'ten:acme'].sort())
  assert.notEqual(await a.redis.get(`${prefix}:revoked:epoch`), epoch)
  const late = await startGateway(t, { prefix })
  assert.deepEqual([late.revocations.isRevoked(claims), late.revocations.isRevoked(tokenClaims())], [true, true])
})

test('a Redis flushed while no gateway ran: the durable copy of any of them brings everything back', async (t) => {
  const prefix = newPrefix()
  const first = await startGateway(t, { prefix })
  const listener = await startGateway(t, { prefix })
  const [claims, mortal] = [tokenClaims(), tokenClaims({ exp: Math.floor(now()) + 1000 })]
  await first.revocations.revoke(claims)
  await first.revocations.revoke(mortal)
  await first.revocations.revokeTenant(acme)
  const known = [claims, mortal, tokenClaims()]
  for (const each of known) await untilRevoked(listener, each)
  await first.stop()
  await listener.stop()
  for (const { dataDir } of [first, listener]) {
    await connect(t).flushall()
    const again = await startGateway(t, { prefix, dataDir })
    const stranger = await startGateway(t, { prefix })
    for (const { revocations } of [again, stranger])
      assert.deepEqual(
        known.map((each) => revocations.isRevoked(each)),
        [true, true, true],
      )
    await again.stop()
    await stranger.stop()
  }
})

test('what the durable copy or Redis did not take is refused here, not acknowledged, and made good when it can be', async (t) => {
  const prefix = newPrefix()
  const lines: string[] = []
  let full = true
  const file: RevocationFile = {
    read: async () => [],
    append: async ({ subject }) => {
      if (full) throw new Error('ENOSPC')
      lines.push(subject)
    },
    async [Symbol.asyncDispose]() {},
  }
  const gateway = await startGateway(t, { prefix, file })
  const claims = tokenClaims()
  const refusal = { code: 'unavailable', message: /ask again/ }
  await assert.rejects(gateway.revocations.revoke(claims), refusal)
  assert.equal(gateway.revocations.isRevoked(claims), true)
  await assert.rejects(gateway.revocations.revoke(claims), refusal)
  full = false
  await sleep(1000)
  assert.ok(lines.includes(claims.jti))
  await gateway.revocations.revoke(claims)
  const other = await startGateway(t, { prefix })
  assert.equal(other.revocations.isRevoked(claims), true)
})

test('a gateway that could not read Redis for too long refuses to call a token good, and knows again when it can', async (t) => {
  const gateway = await startGateway(t, { prefix: newPrefix(), staleMaxSeconds: 2 })
  const [good, revoked] = [tokenClaims({ ten: ['globex'] }), tokenClaims()]
  await gateway.revocations.revoke(revoked)
  const admin = connect(t)
  await admin.call('CLIENT', 'PAUSE', '4500', 'ALL')
  const began = performance.now()
  let refusedAt = 0
  while (performance.now() - began < 4000) {
    assert.equal(gateway.revocations.isRevoked(revoked), true)
    try {
      assert.equal(gateway.revocations.isRevoked(good), false)
    } catch (error) {
      assert.ok(error instanceof WebtaskError && error.code === 'unavailable' && error.retryAfterSeconds === 1, String(error))
      refusedAt ||= performance.now() - began
    }
    await sleep(50)
  }
  // The limit, and the second in which one that was away may be found again.
  assert.ok(refusedAt > 2400 && refusedAt < 3700, `refused after ${refusedAt} ms`)
  await sleep(3500)
  assert.equal(gateway.revocations.isRevoked(good), false)
})

test('one tenant cannot fill Redis: over its limit it is told what to do instead, and nobody else is', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix, ownerMax: 5 }), startGateway(t, { prefix, ownerMax: 5 })])
  const first = newTokenId()
  const each = Array.from({ length: 6 }, () => tokenClaims())
  for (const claims of each.slice(0, 5)) await a.revocations.revoke(claims, ['acme', first])
  await untilRevoked(b, each[4]!)
  const refusal = { code: 'quota_exceeded', message: /the token that they were made from, or the tenant/ }
  for (const gateway of [a, b]) {
    await assert.rejects(gateway.revocations.revoke(each[5]!, ['acme', first]), refusal)
    await assert.rejects(gateway.revocations.revoke(each[5]!, ['elsewhere', first]), refusal)
    assert.equal(gateway.revocations.isRevoked(each[5]!), false)
    await gateway.revocations.revoke(each[0]!, ['acme', first])
  }
  await a.revocations.revoke(tokenClaims(), ['globex', newTokenId()])
  await a.revocations.revoke(tokenClaims(), [])
  await a.revocations.revokeTenant(acme)
})

test('200 revocations: how long until another gateway refuses', async (t) => {
  const prefix = newPrefix()
  const [a, b] = await Promise.all([startGateway(t, { prefix }), startGateway(t, { prefix })])
  const acknowledged: number[] = []
  const heard: number[] = []
  for (let i = 0; i < 200; i += 1) {
    const claims = tokenClaims({ ten: ['globex'] })
    const began = performance.now()
    const revoking = a.revocations.revoke(claims).then(() => acknowledged.push(performance.now() - began))
    while (!b.revocations.isRevoked(claims)) await new Promise((resolve) => setImmediate(resolve))
    heard.push(performance.now() - began)
    await revoking
  }
  const at = (times: number[], share: number) => times.sort((x, y) => x - y)[Math.ceil(times.length * share) - 1]!
  const line = (times: number[]) => `p50 ${at(times, 0.5).toFixed(1)} ms, p99 ${at(times, 0.99).toFixed(1)} ms`
  t.diagnostic(`revoked to refused by another gateway: ${line(heard)}; revoked to acknowledged, on disk and in Redis: ${line(acknowledged)}`)
  assert.ok(at(heard, 0.99) < 1000)
  assert.ok(at(acknowledged, 0.99) < 1000)
})
