import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isPlatformParameter, queryOf, stripBase, stripPlatformParameters } from '../../src/agent/address.ts'
import { describe } from '../../src/agent/describe.ts'
import { createLineCutter, createLineLimiter, cutLine, MAX_LINE_BYTES } from '../../src/agent/output.ts'
import { withoutVersion } from '../../src/agent/packages.ts'
import { copyInto } from '../../src/agent/records.ts'
import { parseFromThread } from '../../src/agent/thread-messages.ts'
import { classify } from '../../src/agent/webtask.ts'

test('a base is taken off a URL only where it ends a path segment, and the rest always begins with a slash', () => {
  const base = '/api/run/acme/hello'
  const cases = [
    ['', '/'],
    ['/', '/'],
    ['?a', '/?a'],
    ['/b/c?d', '/b/c?d'],
    ['//b', '//b'],
  ] as const
  for (const [rest, stripped] of cases) assert.equal(stripBase(base + rest, { base }), stripped)
  assert.equal(stripBase(`${base}s/x`, { base }), `${base}s/x`)
  assert.equal(stripBase('/x', { base: '' }), '/x')
  assert.equal(stripBase('/acme/x', { base: '/acme/' }), '/x')
  fc.assert(fc.property(fc.webPath(), (path) => stripBase(base + path, { base }).startsWith('/')))
})

test('no platform parameter survives stripping, and every other one does, as it was written', () => {
  const name = fc.oneof(fc.constantFrom('key', 'webtask_url', 'webtask_', 'keys', 'a'), fc.string())
  fc.assert(
    fc.property(fc.array(fc.tuple(name, fc.string())), (pairs) => {
      const written = pairs.map(([key, value]) => `${encodeURIComponent(key.toWellFormed())}=${encodeURIComponent(value.toWellFormed())}`)
      const expected = written.filter((_, i) => !isPlatformParameter(pairs[i]![0].toWellFormed()))
      assert.equal(stripPlatformParameters(written.join('&')), expected.join('&'))
    }),
  )
  assert.equal(stripPlatformParameters('%6Bey=1&x=%zz'), 'x=%zz')
  assert.equal(queryOf('/a?b?c'), 'b?c')
})

test('a version is taken off a specifier', () => {
  for (const [specifier, plain] of [
    ['x@1.2.3', 'x'],
    ['x@1/sub/y', 'x/sub/y'],
    ['@s/x@^1', '@s/x'],
    ['@s/x@1/y', '@s/x/y'],
    ['x', undefined],
    ['@s/x', undefined],
    ['@s/x/y@1', undefined],
    ['./x@1', undefined],
    ['node:fs', undefined],
  ] as const) {
    assert.equal(withoutVersion(specifier), plain)
  }
})

test('lines come out whole, whatever pieces they were written in', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ maxLength: 20 }).map((text) => text.replaceAll('\n', ' '))), fc.integer({ min: 1, max: 7 }), (lines, step) => {
      const out: string[] = []
      const cut = createLineCutter((line) => out.push(line))
      const text = lines.map((line) => `${line}\n`).join('')
      for (let i = 0; i < text.length; i += step) cut(text.slice(i, i + step))
      assert.equal(out.join('\n'), lines.join('\n'))
    }),
  )
})

test('no line is longer than the limit, and one that fits is not touched', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 40 }), fc.integer({ min: 0, max: 3000 }), (unit, times) => {
      const line = unit.repeat(times)
      const kept = cutLine(line)
      assert.ok(Buffer.byteLength(kept) <= MAX_LINE_BYTES)
      if (Buffer.byteLength(line) <= MAX_LINE_BYTES) assert.equal(kept, line)
      assert.equal(cutLine(kept), kept)
    }),
    { numRuns: 50 },
  )
})

test('a limiter passes at most its number in any window and counts all others', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 20 }), fc.array(fc.integer({ min: 0, max: 400 })), (limit, gaps) => {
      const limiter = createLineLimiter(limit)
      let now = 0
      let passed = 0
      for (const gap of gaps) if (limiter.admit((now += gap))) passed++
      assert.ok(passed <= limit * (Math.floor(now / 1000) + 1))
      assert.equal(passed + limiter.takeDropped(), gaps.length)
    }),
  )
})

test('anything can be described, and the description is JSON', () => {
  fc.assert(
    fc.property(fc.anything({ withBigInt: true, withNullPrototype: true, withDate: true, withMap: true }), (thrown) => {
      assert.equal(typeof describe(thrown).message, 'string')
      JSON.stringify(describe(thrown))
    }),
  )
})

test('anything a thread says is either one of our messages or nothing', () => {
  fc.assert(
    fc.property(fc.anything(), (value) => {
      parseFromThread(value)
    }),
  )
  const kind = fc.constantFrom('dialled', 'refused', 'tainted', 'drained', 'output', 'dropped', 'call')
  fc.assert(
    fc.property(
      fc.record({
        kind,
        gateway: fc.anything(),
        request: fc.anything(),
        line: fc.anything(),
        lines: fc.anything(),
        call: fc.anything(),
        claims: fc.anything(),
        failure: fc.anything(),
      }),
      (value) => {
        const message = parseFromThread(value)
        if (message?.kind === 'output') assert.equal(typeof message.line, 'string')
        if (message?.kind === 'dropped') assert.ok(message.lines >= 0)
      },
    ),
  )
})

test('copies never change a prototype', () => {
  fc.assert(
    fc.property(fc.string(), fc.anything(), (key, value) => {
      const target: Record<string, unknown> = {}
      copyInto(target, JSON.parse(`{"__proto__":{"polluted":1},${JSON.stringify(key)}:1}`) as Record<string, unknown>)
      assert.equal(Object.getPrototypeOf(target), Object.prototype)
      assert.equal(target.polluted, key === 'polluted' ? 1 : undefined)
      classify(value)
    }),
  )
})
