import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createFairQueue } from '../../src/tenant/fair-queue.ts'

const tenants = ['ann', 'bob', 'cyd'] as const
const always = () => true

test('while tenants wait, their turns are as their weights, to within one turn', () => {
  const weights = fc.record({ ann: fc.integer({ min: 1, max: 9 }), bob: fc.integer({ min: 1, max: 9 }) })
  fc.assert(
    fc.property(weights, fc.integer({ min: 1, max: 200 }), (weight, turns) => {
      const queue = createFairQueue<'ann' | 'bob'>()
      for (const tenant of ['ann', 'bob'] as const) for (let i = 0; i < 300; i += 1) queue.push(tenant, weight[tenant], tenant)
      const got = { ann: 0, bob: 0 }
      for (let i = 0; i < turns; i += 1) got[queue.next(always)!] += 1
      assert.ok(Math.abs(got.ann / weight.ann - got.bob / weight.bob) <= 1 / weight.ann + 1 / weight.bob)
    }),
  )
})

test('each tenant is served in the order of its arrivals, and nothing is lost or served twice', () => {
  const command = fc.oneof(
    fc.record({ do: fc.constant('push' as const), tenant: fc.constantFrom(...tenants), weight: fc.integer({ min: 1, max: 5 }) }),
    fc.record({ do: fc.constant('next' as const), allowed: fc.subarray([...tenants]) }),
    fc.record({ do: fc.constant('remove' as const), tenant: fc.constantFrom(...tenants) }),
  )
  fc.assert(
    fc.property(fc.array(command, { maxLength: 100 }), (commands) => {
      const queue = createFairQueue<{ tenant: string; number: number }>()
      const model = new Map<string, { tenant: string; number: number }[]>(tenants.map((tenant) => [tenant, []]))
      let number = 0
      for (const one of commands) {
        if (one.do === 'push') {
          const item = { tenant: one.tenant, number: (number += 1) }
          queue.push(one.tenant, one.weight, item)
          model.get(one.tenant)!.push(item)
        } else if (one.do === 'remove') {
          const item = model.get(one.tenant)!.pop()
          if (item !== undefined) queue.remove(one.tenant, item)
        } else {
          const item = queue.next((tenant) => one.allowed.some((allowed) => allowed === tenant))
          const some = one.allowed.some((tenant) => model.get(tenant)!.length > 0)
          assert.equal(item !== undefined, some, 'whoever may have a turn gets one')
          if (item === undefined) continue
          assert.ok(one.allowed.some((tenant) => tenant === item.tenant))
          assert.equal(model.get(item.tenant)!.shift(), item)
        }
        assert.equal(
          queue.size,
          [...model.values()].reduce((sum, items) => sum + items.length, 0),
        )
        for (const tenant of tenants) assert.equal(queue.waiting(tenant), model.get(tenant)!.length)
      }
    }),
  )
})

test('a tenant with a hundred times the load delays the next item of another by one turn', () => {
  const queue = createFairQueue<string>()
  for (let i = 0; i < 1000; i += 1) queue.push('loud', 1, 'loud')
  for (let i = 0; i < 500; i += 1) queue.next(always)
  for (let i = 0; i < 10; i += 1) queue.push('quiet', 1, 'quiet')
  const turns = Array.from({ length: 20 }, () => queue.next(always))
  assert.equal(turns.filter((who) => who === 'quiet').length, 10)
  assert.ok(turns.indexOf('quiet') <= 1)
})
