import assert from 'node:assert/strict'
import test from 'node:test'
import { abandonable, within } from '../../src/egress/abandon.ts'
import { createGate } from '../../src/egress/gate.ts'

const full = () => new Error('full')
const settled = () => new Promise((resolve) => setImmediate(resolve))

test('a gate lets in so many of each key, in order, and refuses past the line', async () => {
  const gate = createGate({ atOnce: 1, waiting: 2, full })
  const order: number[] = []
  const first = await gate.enter('a')
  const second = gate.enter('a').then((turn) => (order.push(2), turn))
  const third = gate.enter('a').then((turn) => (order.push(3), turn))
  await assert.rejects(gate.enter('a'), { message: 'full' })
  const other = await gate.enter('b')
  other[Symbol.dispose]()
  first[Symbol.dispose]()
  first[Symbol.dispose]()
  await settled()
  assert.deepEqual(order, [2], 'giving back twice counts once')
  const turn = await second
  turn[Symbol.dispose]()
  const last = await third
  last[Symbol.dispose]()
  const again = await gate.enter('a')
  again[Symbol.dispose]()
})

test('who leaves the line loses no place for the others', async () => {
  const gate = createGate({ atOnce: 1, waiting: 5, full })
  const first = await gate.enter('a')
  const leaver = new AbortController()
  const leaving = gate.enter('a', leaver.signal)
  const staying = gate.enter('a')
  leaver.abort(new Error('left'))
  await assert.rejects(leaving, { message: 'left' })
  first[Symbol.dispose]()
  const turn = await staying
  turn[Symbol.dispose]()
  await assert.rejects(gate.enter('a', leaver.signal), { message: 'left' })
})

test('who leaves just as the turn comes still gives it on', async () => {
  const gate = createGate({ atOnce: 1, waiting: 5, full })
  const first = await gate.enter('a')
  const leaver = new AbortController()
  const called = gate.enter('a', leaver.signal)
  first[Symbol.dispose]()
  leaver.abort(new Error('left'))
  const turn = await called
  turn[Symbol.dispose]()
  const next = await gate.enter('a')
  next[Symbol.dispose]()
})

test('an abandoned wait ends with the reason while the work goes on', async () => {
  const work = Promise.withResolvers<number>()
  const caller = new AbortController()
  const waiting = abandonable(work.promise, caller.signal)
  caller.abort(new Error('left'))
  await assert.rejects(waiting, { message: 'left' })
  work.resolve(1)
  assert.equal(await work.promise, 1)
  await assert.rejects(abandonable(new Promise(() => {}), caller.signal), { message: 'left' })
})

test('a time limit aborts its work, also work that does not listen', async () => {
  const parent = new AbortController().signal
  const expired = () => new Error('late')
  await assert.rejects(
    within({ ms: 5, parent, expired }, () => new Promise(() => {})),
    { message: 'late' },
  )
  const listener = (signal: AbortSignal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('lesser reason'))))
  await assert.rejects(within({ ms: 5, parent, expired }, listener), { message: 'late' })
  assert.equal(await within({ ms: 1000, parent, expired }, async () => 7), 7)
  await assert.rejects(
    within({ ms: 1000, parent, expired }, () => Promise.reject(new Error('own'))),
    { message: 'own' },
  )
})
