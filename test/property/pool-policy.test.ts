import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { afterBreaker, CLOSED, mayAsk, type Breaker } from '../../src/sandbox/breaker.ts'
import { isWorn, leastLoaded, toEvict } from '../../src/sandbox/policy.ts'
import { replay, stockTarget } from '../../src/sandbox/starts.ts'

const candidate = fc.record({
  id: fc.uuid(),
  inFlight: fc.nat(3),
  idleSince: fc.nat(10_000),
  isKept: fc.boolean(),
})

test('who makes room is idle, rested, not promised to anybody, and idle for longest', () => {
  fc.assert(
    fc.property(fc.uniqueArray(candidate, { selector: ({ id }) => id }), fc.nat(10), fc.nat(10_000), (all, count, restMs) => {
      const now = 10_000
      const chosen = toEvict(all, { count, now, restMs })
      const may = all.filter((one) => one.inFlight === 0 && !one.isKept && now - one.idleSince >= restMs)
      assert.equal(chosen.length, Math.min(count, may.length))
      const latest = Math.max(-1, ...all.filter(({ id }) => chosen.includes(id)).map(({ idleSince }) => idleSince))
      for (const id of chosen) assert.ok(may.some((one) => one.id === id))
      for (const one of may) if (!chosen.includes(one.id)) assert.ok(one.idleSince >= latest)
    }),
  )
})

test('a request goes to a connected sandbox with the fewest requests, the first of equals', () => {
  const place = fc.record({ inFlight: fc.nat(5), link: fc.record({ connected: fc.boolean() }) })
  fc.assert(
    fc.property(fc.array(place), (places) => {
      const chosen = leastLoaded(places)
      const connected = places.filter(({ link }) => link.connected)
      const fewest = Math.min(...connected.map(({ inFlight }) => inFlight))
      assert.equal(
        chosen,
        connected.find(({ inFlight }) => inFlight === fewest),
      )
    }),
  )
})

test('sandboxes of another template are worn at once, and those made together do not all wear out together', () => {
  const limits = { spec: 'a', ageMs: 1000, now: 10_000 }
  fc.assert(
    fc.property(
      fc.nat(2 ** 48 - 1).map((number) => number.toString(16).padStart(12, '0')),
      fc.integer({ min: 0, max: 3000 }),
      (id, age) => {
        const worn = isWorn({ id, spec: 'a', createdAt: limits.now - age }, limits)
        if (age <= 900) assert.equal(worn, false)
        if (age > 1000) assert.equal(worn, true)
        assert.equal(isWorn({ id, spec: 'b', createdAt: limits.now - age }, limits), true)
      },
    ),
  )
  assert.notEqual(
    isWorn({ id: '000000000000', spec: 'a', createdAt: 9050 }, limits),
    isWorn({ id: 'ffff00000000', spec: 'a', createdAt: 9050 }, limits),
  )
})

test('the stock is within its bounds, and as large as the largest recent burst that fits them', () => {
  const times = fc.array(fc.nat(1_000_000), { maxLength: 60 }).map((list) => list.toSorted((a, b) => a - b))
  fc.assert(
    fc.property(times, fc.nat(5), fc.nat(20), (list, min, more) => {
      const bounds = { min, max: min + more, now: 1_000_000 }
      const target = stockTarget(list, bounds)
      assert.ok(target >= min && target <= min + more)
      const recent = list.filter((at) => bounds.now - at <= 600_000)
      const burst = Math.max(0, ...recent.map((at) => recent.filter((other) => other >= at && other <= at + 2_000).length))
      assert.equal(target, Math.min(Math.max(burst, min), min + more))
    }),
  )
})

test('a larger stock never makes a history of first requests wait longer, and one for all of them leaves nobody waiting', () => {
  const times = fc.array(fc.nat(20_000), { minLength: 1, maxLength: 40 }).map((list) => list.toSorted((a, b) => a - b))
  const costs = { makeMs: 200, adoptMs: 5, atOnce: 4 }
  fc.assert(
    fc.property(times, (list) => {
      const all = replay(list, { ...costs, size: list.length })
      assert.deepEqual([all.ready, all.p95], [1, 5])
      const none = replay(list, { ...costs, size: 0 })
      assert.equal(none.ready, 0)
      assert.ok(none.p50 >= 200)
    }),
  )
})

test('an engine that fails again and again is left alone, then asked by one, and all is well after one answer', () => {
  const events = fc.array(fc.record({ after: fc.nat(10_000), answers: fc.boolean() }), { maxLength: 50 })
  fc.assert(
    fc.property(events, (list) => {
      let breaker: Breaker = CLOSED
      let now = 0
      let inARow = 0
      for (const { after, answers } of list) {
        now += after
        if (!mayAsk(breaker, now)) {
          assert.ok(inARow >= 3, 'refused only after three failures in a row')
          continue
        }
        breaker = afterBreaker(breaker, 'asked', now)
        if (inARow >= 3) assert.equal(mayAsk(breaker, now), false, 'one asks at a time')
        breaker = afterBreaker(breaker, answers ? 'answered' : 'failed', now)
        inARow = answers ? 0 : inARow + 1
        if (answers) assert.equal(mayAsk(breaker, now), true)
      }
      assert.equal(mayAsk(breaker, now + 5_001), true, 'never left alone for longer than five seconds')
    }),
  )
})
