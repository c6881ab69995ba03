import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createHouseholds } from '../../src/sandbox/households.ts'
import type { LifecycleQueue } from '../../src/sandbox/lifecycle.ts'
import { createPlacing, type PlacingOptions } from '../../src/sandbox/placing.ts'
import { householdOf, seatOf } from '../../src/sandbox/seat.ts'
import type { SandboxStore } from '../../src/sandbox/store.ts'
import { parseTenantId } from '../../src/tenant/tenant-id.ts'

const tenant = parseTenantId('ann')!
const wanted = { tenant, seat: seatOf(householdOf(tenant, null), 0), make: 'runc-512-1000' }

function placingWith(provision: () => Promise<void>) {
  const never = () => {
    throw new Error('Not a part of this test')
  }
  const options: PlacingOptions = {
    store: { adopt: async () => ({ kind: 'none' }) } as unknown as SandboxStore,
    queue: { provision } as unknown as LifecycleQueue,
    log: { info() {}, warn() {} } as unknown as PlacingOptions['log'],
    gateway: 'g',
    waitMs: 50,
    now: Date.now,
    households: createHouseholds(),
    open: never,
    makeRoom: never,
  }
  return createPlacing(options)
}

test('a wait that ends while the engine is being asked is told so, and harms nobody else', async () => {
  const unhandled: unknown[] = []
  const note = (error: unknown) => void unhandled.push(error)
  process.on('unhandledRejection', note)
  try {
    for (const provision of [() => sleep(100), () => sleep(20).then(() => Promise.reject(new Error('Redis is away')))])
      await assert.rejects(placingWith(provision).place(wanted), { name: 'WebtaskError' })
    await sleep(100)
  } finally {
    process.off('unhandledRejection', note)
  }
  assert.deepEqual(unhandled, [])
})
