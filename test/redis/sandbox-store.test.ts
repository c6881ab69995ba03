import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, before, test } from 'node:test'
import { GenericContainer, Wait, type StartedTestContainer } from 'testcontainers'
import { createLog } from '../../src/log.ts'
import { connectRedis, waitForRedis, type Redis } from '../../src/redis.ts'
import { transition, type Sandbox } from '../../src/sandbox/sandbox.ts'
import { createSandboxStore, type SandboxStore } from '../../src/sandbox/store.ts'
import { householdOf, seatOf, type Seat } from '../../src/sandbox/seat.ts'
import { parseTenantId, type TenantId } from '../../src/tenant/tenant-id.ts'

let container: StartedTestContainer
let redis: Redis

before(async () => {
  container = await new GenericContainer(process.env.WEBTASK_REDIS_IMAGE ?? 'redis:8-bookworm')
    .withCommand(['redis-server', '--save', '', '--bind', '0.0.0.0', '--protected-mode', 'no'])
    .withExposedPorts(6379)
    .withWaitStrategy(Wait.forLogMessage(/Ready to accept connections/))
    .start()
  redis = connectRedis(`redis://${container.getHost()}:${container.getMappedPort(6379)}`, createLog('silent', 'test'))
  await waitForRedis(redis, { signal: AbortSignal.timeout(10_000), waiting: () => {} })
})
after(async () => {
  redis.disconnect()
  await container.stop()
})

const newStore = (): SandboxStore => createSandboxStore(redis, `test:${randomBytes(6).toString('hex')}`)
const tenant = (name: string): TenantId => parseTenantId(name)!
const KIND = { make: 'runc-512-1000', spec: 'a' } as const
const seat = (name: string, ordinal = 0): Seat => seatOf(householdOf(tenant(name), null), ordinal)
const starting = (id: string, owner: string | null = null) =>
  ({
    id,
    state: 'starting',
    tenant: owner === null ? null : tenant(owner),
    seat: owner === null ? null : seat(owner),
    generation: 0,
    createdAt: 1,
    ...KIND,
  }) as const
const adopt = (store: SandboxStore, name: string, options: { gateway: string; candidates: readonly string[] }) =>
  store.adopt(seat(name), { tenant: tenant(name), ...options })

async function prewarm(store: SandboxStore, id: string): Promise<void> {
  await store.register(starting(id), 100)
  await store.swap(starting(id), transition(starting(id), { kind: 'started' })!)
}

test('500 provisions of one tenant register one sandbox', async () => {
  const store = newStore()
  const results = await Promise.all(Array.from({ length: 500 }, (_, index) => store.register(starting(`s${index}`, 'ann'), 1000)))
  assert.equal(results.filter((result) => result === 'registered').length, 1)
  assert.equal((await store.list()).length, 1)
})

test('no more sandboxes than the deployment may have', async () => {
  const store = newStore()
  const results = await Promise.all(Array.from({ length: 10 }, (_, index) => store.register(starting(`s${index}`), 4)))
  assert.equal(results.filter((result) => result === 'registered').length, 4)
  assert.equal(results.filter((result) => result === 'full').length, 6)
})

test("tenants that race for prewarmed sandboxes get one each, and none gets another's", async () => {
  const store = newStore()
  const ids = Array.from({ length: 8 }, (_, index) => `s${index}`)
  for (const id of ids) await prewarm(store, id)
  const adoptions = await Promise.all(Array.from({ length: 12 }, (_, index) => adopt(store, `t${index}`, { gateway: 'g1', candidates: ids })))
  const won = adoptions.flatMap((adoption) => (adoption.kind === 'adopted' ? [adoption.id] : []))
  assert.equal(won.length, 8)
  assert.equal(new Set(won).size, 8)
  assert.equal(adoptions.filter((adoption) => adoption.kind === 'none').length, 4)
})

test('two gateways that adopt for one tenant end up in the same sandbox, and both are its users', async () => {
  const store = newStore()
  await prewarm(store, 'a')
  await prewarm(store, 'b')
  const [one, two] = await Promise.all([
    adopt(store, 'ann', { gateway: 'g1', candidates: ['a', 'b'] }),
    adopt(store, 'ann', { gateway: 'g2', candidates: ['b', 'a'] }),
  ])
  assert.ok(one.kind !== 'none' && two.kind !== 'none' && one.id === two.id)
  const record = await store.read(one.id)
  assert.ok(record?.state === 'warm')
  assert.deepEqual([...record.users].sort(), ['g1', 'g2'])
})

test('a paused sandbox is resumed for its tenant alone, by one of those who ask at once', async () => {
  const store = newStore()
  await prewarm(store, 's1')
  await adopt(store, 'ann', { gateway: 'g1', candidates: ['s1'] })
  const warm = (await store.read('s1'))!
  await store.swap(warm, transition(warm, { kind: 'rested', gateway: 'g1', at: 7 })!)
  assert.deepEqual(await adopt(store, 'bob', { gateway: 'g1', candidates: ['s1'] }), { kind: 'none' })
  const asked = await Promise.all(['g1', 'g2', 'g3'].map((gateway) => adopt(store, 'ann', { gateway, candidates: [] })))
  assert.deepEqual(asked.map(({ kind }) => kind).toSorted(), ['existing', 'existing', 'resumed'])
  const { users, ...record } = (await store.read('s1')) as Sandbox & { state: 'warm' }
  assert.deepEqual(record, { id: 's1', state: 'warm', tenant: 'ann', seat: 'ann', createdAt: 1, ...KIND, generation: warm.generation + 4 })
  assert.deepEqual(users.toSorted(), ['g1', 'g2', 'g3'])
})

test('a sandbox that was adopted is never a candidate again', async () => {
  const store = newStore()
  await prewarm(store, 'a')
  await adopt(store, 'ann', { gateway: 'g1', candidates: ['a'] })
  assert.deepEqual(await adopt(store, 'bob', { gateway: 'g1', candidates: ['a'] }), { kind: 'none' })
  const record = await store.read('a')
  assert.ok(record?.state === 'warm' && record.tenant === 'ann')
})

test('a write that read an older generation does not land', async () => {
  const store = newStore()
  await prewarm(store, 'a')
  const read = (await store.read('a')) as Sandbox
  await adopt(store, 'ann', { gateway: 'g1', candidates: ['a'] })
  assert.equal(await store.swap(read, transition(read, { kind: 'retired', cause: 'idle', at: 5 })!), 'stale')
  assert.equal((await store.read('a'))?.state, 'warm')
})

test('a tenant whose sandbox drains may have a successor at once', async () => {
  const store = newStore()
  await prewarm(store, 'a')
  await prewarm(store, 'b')
  await adopt(store, 'ann', { gateway: 'g1', candidates: ['a'] })
  const read = (await store.read('a')) as Sandbox
  assert.equal(await store.swap(read, transition(read, { kind: 'released', gateway: 'g1', cause: 'idle', at: 5 })!), 'swapped')
  assert.deepEqual(await adopt(store, 'ann', { gateway: 'g1', candidates: ['a', 'b'] }), { kind: 'adopted', id: 'b' })
  assert.equal(await store.forget('a'), true)
  assert.deepEqual(await adopt(store, 'ann', { gateway: 'g2', candidates: [] }), { kind: 'existing', id: 'b' })
})

test('what is forgotten leaves nothing behind', async () => {
  const store = newStore()
  await store.register(starting('a', 'ann'), 10)
  assert.equal(await store.forget('a'), true)
  assert.equal(await store.forget('a'), false)
  assert.deepEqual(await store.list(), [])
  assert.equal(await store.register(starting('b', 'ann'), 10), 'registered')
})

test('a fresh sandbox takes the seat of an old one, which drains with its users, and only once', async () => {
  const store = newStore()
  for (const id of ['old', 'new', 'other']) await prewarm(store, id)
  await adopt(store, 'ann', { gateway: 'g1', candidates: ['old'] })
  await adopt(store, 'ann', { gateway: 'g2', candidates: [] })
  const renew = (candidates: string[]) => store.renew(seat('ann'), { old: 'old', gateway: 'g1', cause: 'recycled', at: 9, candidates })
  assert.deepEqual(await renew([]), { kind: 'none' })
  const both = await Promise.all([renew(['new', 'other']), renew(['other', 'new'])])
  assert.deepEqual(both.map(({ kind }) => kind).toSorted(), ['lost', 'renewed'])
  const old = await store.read('old')
  assert.ok(old?.state === 'draining' && old.cause === 'recycled' && old.since === 9)
  assert.deepEqual([...old.users].toSorted(), ['g1', 'g2'])
  const won = both.find((one) => one.kind === 'renewed')!
  assert.deepEqual(await adopt(store, 'ann', { gateway: 'g2', candidates: ['new', 'other'] }), { kind: 'existing', id: 'id' in won ? won.id : '' })
})

test('users that left one by one are a list to the last', async () => {
  const store = newStore()
  await prewarm(store, 'old')
  await prewarm(store, 'new')
  await store.register(starting('made', 'bob'), 10)
  await store.swap(starting('made', 'bob'), transition(starting('made', 'bob'), { kind: 'started' })!)
  // Made for bob, and nobody uses it yet: its list of users is empty.
  assert.equal((await store.renew(seat('bob'), { old: 'made', gateway: 'g1', cause: 'recycled', at: 9, candidates: ['new'] })).kind, 'renewed')
  const drained = await store.read('made')
  assert.ok(drained?.state === 'draining')
  assert.deepEqual(drained.users, [])
})

test('the seats of one tenant hold a sandbox each', async () => {
  const store = newStore()
  for (const id of ['a', 'b', 'c']) await prewarm(store, id)
  const adoptions = await Promise.all(
    [0, 1, 1, 2].map((ordinal) => store.adopt(seat('ann', ordinal), { tenant: tenant('ann'), gateway: 'g1', candidates: ['a', 'b', 'c'] })),
  )
  assert.equal(new Set(adoptions.map((one) => (one.kind === 'none' ? '' : one.id))).size, 3)
  assert.deepEqual(adoptions.map(({ kind }) => kind).toSorted(), ['adopted', 'adopted', 'adopted', 'existing'])
})

test('what first requests waited is kept for advice, the newest part of it', async () => {
  const store = newStore()
  const began = Date.now()
  for (const ms of [3, 250]) await store.recordStart({ at: began, make: KIND.make, how: ms < 100 ? 'adopted' : 'made', ms })
  assert.deepEqual(await store.starts(began - 1000), [
    { at: began, make: KIND.make, how: 'adopted', ms: 3 },
    { at: began, make: KIND.make, how: 'made', ms: 250 },
  ])
  assert.deepEqual(await store.starts(Date.now() + 60_000), [])
})

test('a gateway that is about to give a sandbox up does not, when one of its own requests asked for it meanwhile', async () => {
  const store = newStore()
  await prewarm(store, 'a')
  await adopt(store, 'ann', { gateway: 'g1', candidates: ['a'] })
  const read = (await store.read('a')) as Sandbox
  assert.deepEqual(await adopt(store, 'ann', { gateway: 'g1', candidates: [] }), { kind: 'existing', id: 'a' })
  assert.equal(await store.swap(read, transition(read, { kind: 'released', gateway: 'g1', cause: 'idle', at: 5 })!), 'stale')
  const kept = await store.read('a')
  assert.ok(kept?.state === 'warm')
  assert.deepEqual(kept.users, ['g1'])
})
