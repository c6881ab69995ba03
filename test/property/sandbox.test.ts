import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { drift } from '../../src/sandbox/policy.ts'
import { END_CAUSES, transition, type Sandbox, type SandboxEvent } from '../../src/sandbox/sandbox.ts'
import { householdOf, placeOfSeat, seatOf } from '../../src/sandbox/seat.ts'
import type { TenantId } from '../../src/tenant/tenant-id.ts'

const tenant = fc.constantFrom('ann', 'bob', 'cyd') as fc.Arbitrary<TenantId>
const gateway = fc.constantFrom('g1', 'g2')
const cause = fc.constantFrom(...END_CAUSES)
const at = fc.nat()
const adopted = tenant.chain((owner) =>
  fc.record({
    kind: fc.constant('adopted' as const),
    tenant: fc.constant(owner),
    seat: fc.nat(2).map((ordinal) => seatOf(householdOf(owner, null), ordinal)),
    gateway,
  }),
)
const event: fc.Arbitrary<SandboxEvent> = fc.oneof(
  fc.constant({ kind: 'started' } as const),
  adopted,
  fc.record({ kind: fc.constant('released' as const), gateway, cause, at }),
  fc.record({ kind: fc.constant('succeeded' as const), cause, at }),
  fc.record({ kind: fc.constant('inherited' as const), gateway, dead: fc.subarray(['g1', 'g2']) }),
  fc.record({ kind: fc.constant('rested' as const), gateway, at }),
  fc.record({ kind: fc.constant('resumed' as const), gateway }),
  fc.record({ kind: fc.constant('retired' as const), cause, at }),
  fc.record({ kind: fc.constant('removed' as const), cause }),
)
const seatOfTenant = (owner: TenantId) => seatOf(householdOf(owner, null), 0)
const start = (owner: TenantId | null): Sandbox => ({
  id: 's',
  state: 'starting',
  tenant: owner,
  seat: owner === null ? null : seatOfTenant(owner),
  generation: 0,
  createdAt: 0,
  make: 'runc-512-1000',
  spec: 'a',
})

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

test('a sandbox never sits on two seats, and what drains has lost its own', () => {
  fc.assert(
    fc.property(fc.option(tenant), fc.array(event, { maxLength: 30 }), (owner, events) => {
      const states = history(owner, events)
      assert.ok(new Set(states.flatMap((state) => ('seat' in state && state.seat !== null ? [state.seat] : []))).size <= 1)
      for (const state of states) if (state.state === 'draining') assert.ok(!('seat' in state))
    }),
  )
})

test('a seat names its household and its number, and no two places have one name', () => {
  const place = fc.record({ tenant, webtask: fc.option(fc.constantFrom('w1', 'w2')), ordinal: fc.nat(20) })
  fc.assert(
    fc.property(place, place, (a, b) => {
      const seats = [a, b].map((one) => seatOf(householdOf(one.tenant, one.webtask), one.ordinal))
      assert.deepEqual(placeOfSeat(seats[0]!), { household: householdOf(a.tenant, a.webtask), ordinal: a.ordinal })
      assert.equal(seats[0] === seats[1], a.tenant === b.tenant && a.webtask === b.webtask && a.ordinal === b.ordinal)
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
      const seat = seatOfTenant(owner)
      const used = history(null, [
        { kind: 'started' },
        { kind: 'adopted', tenant: owner, seat, gateway: 'g1' },
        { kind: 'adopted', tenant: owner, seat, gateway: 'g2' },
        { kind: 'released', gateway: 'g1', cause: 'idle', at: 1 },
      ]).at(-1)!
      assert.equal(used.state, 'warm')
      assert.equal(transition(used, { kind: 'released', gateway: 'g2', cause: 'idle', at: 2 })?.state, 'draining')
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
