import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import fc from 'fast-check'
import { GenericContainer, Wait, type StartedTestContainer } from 'testcontainers'
import { createLog } from '../../src/log.ts'
import { connectRedis, waitForRedis, type Redis } from '../../src/redis.ts'
import { seatHeldBy } from '../../src/sandbox/sandbox.ts'
import { householdOf, seatOf } from '../../src/sandbox/seat.ts'
import { parseTenantId } from '../../src/tenant/tenant-id.ts'
import { createWorld, MAKE, type EngineFault, type World } from '../support/pool-world.ts'

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

const MAX = 4
const tenant = fc.constantFrom('ann', 'bob', 'cyd').map((name) => parseTenantId(name)!)
const gateway = fc.constantFrom('g1', 'g2')
const place = fc.record({ gateway, tenant, ordinal: fc.nat(1) })
const fault = fc.record({
  verb: fc.constantFrom('create' as const, 'start' as const, 'remove' as const),
  fault: fc.constantFrom<EngineFault>('fails', 'loses', 'dies before', 'dies after'),
})
const command = fc.oneof(
  { weight: 6, arbitrary: place.map((at) => ({ do: 'ask' as const, ...at })) },
  { weight: 3, arbitrary: place.map((at) => ({ do: 'answer' as const, ...at })) },
  { weight: 2, arbitrary: fc.constant({ do: 'stock' as const }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('sweep' as const), gateway, ms: fc.constantFrom(500, 1_500, 6_000) }) },
  { weight: 2, arbitrary: place.map((at) => ({ do: 'renew' as const, ...at })) },
  { weight: 2, arbitrary: fault.map((next) => ({ do: 'fault' as const, next })) },
  { weight: 1, arbitrary: gateway.map((name) => ({ do: 'gateway dies' as const, name })) },
  { weight: 1, arbitrary: fc.constant({ do: 'orchestrator dies' as const }) },
  { weight: 1, arbitrary: fc.nat(5).map((index) => ({ do: 'container dies' as const, index })) },
  { weight: 1, arbitrary: fc.constant({ do: 'Redis forgets' as const }) },
  { weight: 2, arbitrary: fc.constant({ do: 'reconcile' as const }) },
)
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never

/** What is going on: an act of a part that died never ends, and nobody waits for it. */
const inTime = async (act: Promise<unknown>): Promise<void> => {
  await Promise.race([act.catch(() => {}), new Promise((resolve) => setTimeout(resolve, 600))])
}

/** Whose request an 'answer' ends. */
function answering(world: World, at: { gateway: string; tenant: unknown }) {
  return [...world.gateways.get(at.gateway)!.entries.values()].find(({ inFlight, tenant: whose }) => inFlight > 0 && whose === at.tenant)
}

async function perform(world: World, one: Command): Promise<void> {
  const seatIn = (at: { tenant: ReturnType<typeof parseTenantId>; ordinal: number }) => seatOf(householdOf(at.tenant!, null), at.ordinal)
  switch (one.do) {
    case 'ask': {
      const own = world.gateways.get(one.gateway)!
      const seat = seatIn(one)
      let entry = own.households.serving.get(seat)
      if (entry === undefined || !entry.link.connected) {
        await inTime(own.placing.place({ seat, tenant: one.tenant, make: MAKE }))
        entry = own.households.serving.get(seat)
      }
      if (entry === undefined || !entry.link.connected) return
      entry.inFlight += 1
      for (const made of world.engine.values()) if (made.sandbox === entry.id) made.tenants.add(one.tenant)
      return
    }
    case 'answer': {
      const entry = answering(world, one)
      if (entry === undefined) return
      entry.inFlight -= 1
      entry.idleSince = world.clock
      if (entry.inFlight === 0 && entry.leaving !== undefined) await inTime(world.gateways.get(one.gateway)!.upkeep.leave(entry))
      return
    }
    case 'stock':
      return inTime(world.fleet.provision({ seat: null, tenant: null, make: MAKE }))
    case 'sweep':
      world.clock += one.ms
      return inTime(world.gateways.get(one.gateway)!.upkeep.sweep())
    case 'renew': {
      const entry = world.gateways.get(one.gateway)!.households.serving.get(seatIn(one))
      if (entry !== undefined) world.gateways.get(one.gateway)!.renewal.renew(entry, { make: MAKE, cause: 'recycled' })
      return inTime(new Promise((resolve) => setTimeout(resolve, 20)))
    }
    case 'fault':
      world.nextFault = one.next
      return
    case 'gateway dies':
      world.startGateway(one.name)
      return
    case 'orchestrator dies':
      return inTime(world.startOrchestrator())
    case 'container dies': {
      const made = [...world.engine.values()][one.index]
      if (made === undefined) return
      world.engine.delete(made.id)
      for (const { entries } of world.gateways.values()) for (const entry of entries.values()) if (entry.id === made.sandbox) entry.inFlight = 0
      await inTime(world.fleet.discard(made.sandbox, undefined, 'crash'))
      return
    }
    case 'Redis forgets':
      await world.flush()
      for (const { entries, upkeep } of world.gateways.values()) for (const id of entries.keys()) await upkeep.restore(id)
      return
    case 'reconcile':
      world.clock += 7_000
      return inTime(world.reconcile.run())
  }
}

/** What must hold at every moment. */
async function holds(world: World, busyBefore: readonly string[], lost: boolean): Promise<void> {
  const records = await world.store.list()
  assert.ok(records.length <= MAX, `${records.length} records`)
  const seats = records.map(seatHeldBy).filter((seat) => seat !== null)
  assert.equal(new Set(seats).size, seats.length, 'a seat has one sandbox')
  for (const { tenants } of world.engine.values()) assert.ok(tenants.size <= 1, 'a container serves one tenant')
  if (lost) return
  for (const id of busyBefore)
    assert.ok(
      [...world.engine.values()].some(({ sandbox, running }) => sandbox === id && running),
      'a busy container is neither killed nor removed',
    )
}

const busyIn = (world: World) =>
  [...world.gateways.values()].flatMap(({ entries }) =>
    [...entries.values()].filter(({ inFlight, link }) => inFlight > 0 && link.connected).map(({ id }) => id),
  )

test(
  'whatever dies, hangs or forgets: one tenant in a container, one sandbox on a seat, no busy one removed, and in the end nothing left over',
  { timeout: 300_000 },
  () =>
    fc.assert(
      fc.asyncProperty(fc.array(command, { maxLength: 40 }), async (commands) => {
        await using world = await createWorld(redis, MAX)
        for (const name of ['g1', 'g2']) world.startGateway(name)
        for (const one of commands) {
          const last = one.do === 'answer' ? answering(world, one) : undefined
          const busy = busyIn(world).filter((id) => id !== last?.id || last.inFlight > 1)
          await perform(world, one)
          await holds(world, busy, one.do === 'container dies' || one.do === 'gateway dies')
        }
        // All parts start anew; what no gateway uses any more is still accounted for.
        world.nextFault = undefined
        for (const name of ['g1', 'g2']) world.startGateway(name)
        await world.startOrchestrator()
        for (let look = 0; look < 3; look += 1) {
          world.clock += 70_000
          await world.reconcile.run()
        }
        const recorded = (await world.store.list()).map(({ id }) => id).toSorted()
        assert.deepEqual([...world.engine.values()].map(({ sandbox }) => sandbox).toSorted(), recorded, 'what runs is what is recorded')
      }),
      { numRuns: 100 },
    ),
)
