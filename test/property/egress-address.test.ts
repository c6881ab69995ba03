import assert from 'node:assert/strict'
import { BlockList } from 'node:net'
import test from 'node:test'
import fc from 'fast-check'
import { judge } from '../../src/egress/address.ts'

/** A second opinion on IPv4, from the first and last addresses of each block and Node's own range engine. */
const refused = new BlockList()
const RANGES = [
  ['0.0.0.0', '0.255.255.255'],
  ['10.0.0.0', '10.255.255.255'],
  ['100.64.0.0', '100.127.255.255'],
  ['127.0.0.0', '127.255.255.255'],
  ['168.63.129.16', '168.63.129.16'],
  ['169.254.0.0', '169.254.255.255'],
  ['172.16.0.0', '172.31.255.255'],
  ['192.0.0.0', '192.0.0.255'],
  ['192.0.2.0', '192.0.2.255'],
  ['192.31.196.0', '192.31.196.255'],
  ['192.52.193.0', '192.52.193.255'],
  ['192.88.99.0', '192.88.99.255'],
  ['192.168.0.0', '192.168.255.255'],
  ['192.175.48.0', '192.175.48.255'],
  ['198.18.0.0', '198.19.255.255'],
  ['198.51.100.0', '198.51.100.255'],
  ['203.0.113.0', '203.0.113.255'],
  ['224.0.0.0', '255.255.255.255'],
] as const
for (const [first, last] of RANGES) refused.addRange(first, last)

const byte = fc.integer({ min: 0, max: 255 })
/** Uniform addresses, and ones next to an edge of a block, where mistakes live. */
const edge = fc.tuple(fc.constantFrom(...RANGES.flat()), fc.integer({ min: -2, max: 2 })).map(([address, step]) => {
  const value = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0) + step
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) & 0xff).join('.')
})
const ipv4 = fc.oneof(
  fc.tuple(byte, byte, byte, byte).map((bytes) => bytes.join('.')),
  edge,
)
const group = fc.integer({ min: 0, max: 0xffff })
const groups = fc.array(group, { minLength: 8, maxLength: 8 })

test('an IPv4 address is public exactly when no special block holds it', () => {
  fc.assert(
    fc.property(ipv4, (address) => {
      assert.equal(judge(address) === 'public', !refused.check(address))
    }),
    { numRuns: 5000 },
  )
})

test('no IPv6 address outside 2000::/3 is public', () => {
  fc.assert(
    fc.property(groups, ([head = 0, ...rest]) => {
      fc.pre(head >> 13 !== 1)
      assert.equal(judge([head, ...rest].map((value) => value.toString(16)).join(':')), 'not_global')
    }),
    { numRuns: 2000 },
  )
})

test('no IPv4 address becomes public by being wrapped in IPv6', () => {
  fc.assert(
    fc.property(ipv4, (address) => {
      const [a = 0, b = 0, c = 0, d = 0] = address.split('.').map(Number)
      const [high, low] = [((a << 8) | b).toString(16), ((c << 8) | d).toString(16)]
      for (const wrapped of [
        `::${address}`,
        `::ffff:${address}`,
        `::${high}:${low}`,
        `64:ff9b::${address}`,
        `64:ff9b:1:${high}:${low}::`,
        `2002:${high}:${low}::1`,
        `2001:0:${high}:${low}::`,
      ])
        assert.notEqual(judge(wrapped), 'public', wrapped)
    }),
    { numRuns: 1000 },
  )
})

test('the verdict does not depend on the spelling of an IPv6 address', () => {
  fc.assert(
    fc.property(groups, (values) => {
      const short = values.map((value) => value.toString(16)).join(':')
      const long = values.map((value) => value.toString(16).padStart(4, '0').toUpperCase()).join(':')
      assert.equal(judge(short), judge(long))
      assert.equal(judge(new URL(`http://[${short}]/`).hostname.slice(1, -1)), judge(short))
    }),
    { numRuns: 1000 },
  )
})

test('any text gets a verdict, and only a canonical address a good one', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom(...'0123456789abcdefx.:%[] ') })), (text) => {
      if (judge(text) === 'public') assert.match(text, /^[\da-f.:]+$/i)
    }),
    { numRuns: 5000 },
  )
})
