import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { drift } from '../../src/sandbox/policy.ts'
import { transition, type Sandbox, type SandboxEvent } from '../../src/sandbox/sandbox.ts'
import type { TenantId } from '../../src/tenant/tenant-id.ts'

const tenant = fc.constantFrom('ann', 'bob', 'cyd') as fc.Arbitrary<TenantId>
const gateway = fc.constantFrom('g1', 'g2')
const cause = fc.constantFrom('idle', 'memory', 'timeout', 'crash', 'evicted', 'platform')
const event: fc.Arbitrary<SandboxEvent> = fc.oneof(
  fc.constant({ kind: 'started' } as const),
  fc.record({ kind: fc.constant('adopted' as const), tenant, gateway }),
  fc.record({ kind: fc.constant('released' as const), gateway }),
  fc.record({ kind: fc.constant('inherited' as const), gateway, dead: fc.subarray(['g1', 'g2']) }),
  fc.record({ kind: fc.constant('rested' as const), gateway, at: fc.nat() }),
  fc.record({ kind: fc.constant('resumed' as const), gateway }),
  fc.record({ kind: fc.constant('retired' as const), cause }),
  fc.record({ kind: fc.constant('removed' as const), cause }),
) as fc.Arbitrary<SandboxEvent>
const start = (owner: TenantId | null): Sandbox => ({ id: 's', state: 'starting', tenant: owner, generation: 0, createdAt: 0 })

/** Applies events as the store would: an illegal one changes nothing. */
function history(owner: TenantId | null, events: readonly SandboxEvent[]): Sandbox[] {
  const states = [start(owner)]
  for (const one of events) {
    const next = transition(states.at(-1)!, one)
    if (next !== undefined) states.push(next)
  }
  return states
}

test('a sandbox never serves two tenants', () => {
  fc.assert(
    fc.property(fc.option(tenant), fc.array(event, { maxLength: 30 }), (owner, events) => {
      const owners = new Set(history(owner, events).flatMap((state) => ('tenant' in state && state.tenant !== null ? [state.tenant] : [])))
      assert.ok(owners.size <= 1)
    }),
  )
})

test('every change raises the generation by one, so a stale write is always told apart', () => {
  fc.assert(
    fc.property(fc.option(tenant), fc.array(event, { maxLength: 30 }), (owner, events) => {
      assert.deepEqual(
        history(owner, events).map((state) => state.generation),
        history(owner, events).map((_, index) => index),
      )
    }),
  )
})

test('removed is final, and from draining there is no way back', () => {
  fc.assert(
    fc.property(fc.option(tenant), fc.array(event, { maxLength: 30 }), (owner, events) => {
      const names = history(owner, events).map((state) => state.state)
      const at = names.indexOf('draining')
      if (at >= 0) assert.ok(names.slice(at).every((name) => name === 'draining' || name === 'removed'))
      const end = names.indexOf('removed')
      if (end >= 0) assert.equal(end, names.length - 1)
    }),
  )
})

test('a sandbox that a gateway still uses is not released into draining by another', () => {
  fc.assert(
    fc.property(tenant, (owner) => {
      const used = history(null, [
        { kind: 'started' },
        { kind: 'adopted', tenant: owner, gateway: 'g1' },
        { kind: 'adopted', tenant: owner, gateway: 'g2' },
        { kind: 'released', gateway: 'g1' },
      ]).at(-1)!
      assert.equal(used.state, 'warm')
      assert.equal(transition(used, { kind: 'released', gateway: 'g2' })?.state, 'draining')
    }),
  )
})

test('orphans and ghosts are exactly the difference of what runs and what is recorded', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.string()), fc.uniqueArray(fc.string()), (recorded, running) => {
      const { orphans, ghosts } = drift(new Set(recorded), new Set(running))
      assert.deepEqual(new Set(orphans), new Set(running.filter((id) => !recorded.includes(id))))
      assert.deepEqual(new Set(ghosts), new Set(recorded.filter((id) => !running.includes(id))))
    }),
  )
})
