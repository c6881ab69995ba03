import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { judge } from '../../src/sandbox/posture/judge.ts'
import { sandboxSpec, uidOf } from '../../src/sandbox/spec.ts'
import { sandboxFacts } from '../support/posture-facts.ts'

const deployment = fc.stringMatching(/^[a-z0-9]{1,16}$/)
const slot = fc.integer({ min: 0, max: 16_383 })
const limits = fc.record({
  image: fc.constant(`sha256:${'a'.repeat(64)}`),
  runtime: fc.constant('runc' as const),
  memoryMib: fc.integer({ min: 128, max: 65_536 }),
  cpuMillis: fc.integer({ min: 50, max: 64_000 }),
  pids: fc.integer({ min: 32, max: 4096 }),
  tmpMib: fc.integer({ min: 1, max: 4096 }),
  workerHeapMib: fc.nat(),
})
const input = fc.record({
  id: fc.stringMatching(/^[0-9a-f]{12}$/),
  deployment,
  slot,
  directory: fc.constant('/run/webtask/d/s/1'),
  egressDirectory: fc.constant('/run/webtask/d/e/1'),
  class: limits,
})

test('a uid is one of those set aside, the same every time, and no other slot or deployment of another block has it', () => {
  fc.assert(
    fc.property(deployment, deployment, slot, slot, (one, other, a, b) => {
      const uid = uidOf(one, a)
      assert.equal(uidOf(one, a), uid)
      assert.ok(uid >= 0x7000_0000 && uid <= 0x7ffd_ffff)
      assert.equal(uidOf(one, b) === uid, a === b)
      const block = (name: string) => uidOf(name, 0)
      assert.equal(uidOf(other, a) === uid, block(one) === block(other))
    }),
  )
  assert.throws(() => uidOf('x', 16_384), RangeError)
  assert.throws(() => uidOf('x', -1), RangeError)
})

test('no input makes a create body that falls short of Pod Security "restricted"', () => {
  fc.assert(
    fc.property(input, (asked) => {
      const uid = uidOf(asked.deployment, asked.slot)
      const ids = Array(4).fill(uid).join('\t')
      const facts = sandboxFacts({ body: (body) => Object.assign(body, sandboxSpec(asked)), status: { Uid: ids, Gid: ids } })
      const short = judge(facts).filter(({ control, verdict }) => control.startsWith('PSS') && verdict === 'FAIL')
      assert.deepEqual(short, [])
    }),
  )
})

test('sandboxes of one kind carry the same digest of their template, and another limit or image another', () => {
  const digest = (body: object) => (body as { Labels: Record<string, string> }).Labels['webtask.spec']
  fc.assert(
    fc.property(input, input, (one, other) => {
      assert.equal(digest(sandboxSpec(one)), digest(sandboxSpec({ ...other, class: one.class })))
      assert.notEqual(digest(sandboxSpec(one)), digest(sandboxSpec({ ...one, class: { ...one.class, pids: one.class.pids + 1 } })))
    }),
  )
})
