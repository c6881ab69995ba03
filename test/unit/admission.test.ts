import assert from 'node:assert/strict'
import { test } from 'node:test'
import { defaultPlan, parseConfig } from '../../src/config.ts'
import { WebtaskError } from '../../src/errors.ts'
import { createAdmission, type Admission, type Admitted } from '../../src/tenant/admission.ts'
import type { Plan } from '../../src/tenant/plan.ts'
import { parseTenantId } from '../../src/tenant/tenant-id.ts'

const PLAN = defaultPlan(parseConfig({}))
const never = () => new AbortController().signal
const enter = (admission: Admission, name: string, options: { plan?: Partial<Plan>; token?: string; left?: () => AbortSignal } = {}) =>
  admission.enter({ tenant: parseTenantId(name)!, token: options.token ?? name, plan: { ...PLAN, ...options.plan } }, options.left ?? never)
const isNow = (entered: Admitted | Promise<Admitted>): entered is Admitted => !(entered instanceof Promise)
const isQuota = (error: unknown) => error instanceof WebtaskError && error.code === 'quota_exceeded' && error.retryAfterSeconds === 1

test('whoever finds room enters at once, without waiting for anything', () => {
  const admission = createAdmission({ most: 2, waitMs: 1000 })
  const entered = [enter(admission, 'ann'), enter(admission, 'bob')]
  assert.ok(entered.every(isNow))
  assert.equal(admission.running, 2)
  for (const one of entered) one[Symbol.dispose]()
  for (const one of entered) one[Symbol.dispose]()
  assert.equal(admission.running, 0, 'giving back twice counts once')
})

test('a tenant over its concurrency waits while others enter, and its queue is bounded', async () => {
  const admission = createAdmission({ most: 100, waitMs: 1000 })
  const plan = { concurrency: 1, queue: 1 }
  const first = enter(admission, 'ann', { plan })
  const second = enter(admission, 'ann', { plan })
  assert.ok(isNow(first) && !isNow(second))
  assert.throws(() => enter(admission, 'ann', { plan }), isQuota)
  assert.ok(isNow(enter(admission, 'bob', { plan })))
  first[Symbol.dispose]()
  ;(await second)[Symbol.dispose]()
  assert.ok(isNow(enter(admission, 'ann', { plan })), 'nothing of it is left behind')
})

test('a token has a count of its own, waiting requests included', async () => {
  const admission = createAdmission({ most: 1, waitMs: 1000 })
  const plan = { tokenConcurrency: 2 }
  const first = enter(admission, 'ann', { plan, token: 't' })
  const second = enter(admission, 'ann', { plan, token: 't' })
  assert.throws(() => enter(admission, 'ann', { plan, token: 't' }), isQuota)
  const other = enter(admission, 'ann', { plan, token: 'u' })
  assert.ok(isNow(first))
  first[Symbol.dispose]()
  ;(await second)[Symbol.dispose]()
  ;(await other)[Symbol.dispose]()
  const again = enter(admission, 'ann', { plan, token: 't' })
  assert.ok(isNow(again))
})

test('who leaves or waits too long gives up the place in the queue, and is counted nowhere', async () => {
  const admission = createAdmission({ most: 1, waitMs: 30 })
  const running = enter(admission, 'ann')
  const leaving = new AbortController()
  const left = enter(admission, 'bob', { left: () => leaving.signal })
  leaving.abort(new Error('left'))
  await assert.rejects(async () => left, /left/)
  await assert.rejects(async () => enter(admission, 'bob'), isQuota)
  assert.equal(admission.waiting, 0)
  assert.ok(isNow(running))
  running[Symbol.dispose]()
  assert.equal(admission.running, 0)
})

test('under contention tenants get turns by their weights', async () => {
  const admission = createAdmission({ most: 1, waitMs: 1000 })
  const running = enter(admission, 'zoe')
  const turns: string[] = []
  const take = async (name: string, weight: number) => {
    const admitted = await enter(admission, name, { plan: { weight } })
    turns.push(name)
    await new Promise(setImmediate)
    admitted[Symbol.dispose]()
  }
  const all = Promise.all([...Array.from({ length: 12 }, () => take('light', 1)), ...Array.from({ length: 12 }, () => take('heavy', 3))])
  assert.ok(isNow(running))
  running[Symbol.dispose]()
  await all
  const early = turns.slice(0, 8)
  assert.ok(Math.abs(early.filter((name) => name === 'heavy').length - 6) <= 1, early.join(' '))
})
