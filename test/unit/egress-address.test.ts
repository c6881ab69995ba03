import assert from 'node:assert/strict'
import test from 'node:test'
import ipaddr from 'ipaddr.js'
import { judge } from '../../src/egress/address.ts'

/** The IANA special-purpose registries, multicast, and the address that Azure keeps for itself. */
const SPECIAL_V4 = [
  '0.0.0.0/8',
  '0.0.0.0/32',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.0.0/29',
  '192.0.0.8/32',
  '192.0.0.9/32',
  '192.0.0.10/32',
  '192.0.0.170/31',
  '192.0.2.0/24',
  '192.31.196.0/24',
  '192.52.193.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '192.175.48.0/24',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  '240.0.0.0/4',
  '255.255.255.255/32',
  '168.63.129.16/32',
  '100.100.100.200/32',
  '169.254.169.254/32',
]

const SPECIAL_V6 = [
  '::1/128',
  '::/128',
  '::/96',
  '::ffff:0:0/96',
  '64:ff9b::/96',
  '64:ff9b:1::/48',
  '100::/64',
  '100:0:0:1::/64',
  '2001::/23',
  '2001::/32',
  '2001:1::1/128',
  '2001:1::2/128',
  '2001:1::3/128',
  '2001:2::/48',
  '2001:3::/32',
  '2001:4:112::/48',
  '2001:10::/28',
  '2001:20::/28',
  '2001:30::/28',
  '2001:db8::/32',
  '2002::/16',
  '2620:4f:8000::/48',
  '3fff::/20',
  '5f00::/16',
  'fc00::/7',
  'fd00:ec2::254/128',
  'fe80::/10',
  'fec0::/10',
  'ff00::/8',
  '4000::/3',
  '6000::/3',
  '8000::/3',
  'a000::/3',
  'c000::/3',
  'e000::/4',
]

/** First, second, middle, last but one and last address of a block. */
function samples(cidr: string): string[] {
  const [base, bits] = ipaddr.parseCIDR(cidr)
  const first = base.toByteArray().reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n)
  const width = base.kind() === 'ipv4' ? 32 : 128
  const size = 1n << BigInt(width - bits)
  const picked = [0n, 1n, size / 2n, size - 2n, size - 1n].filter((offset) => offset >= 0n && offset < size)
  return picked.map((offset) => format(first + offset, width))
}

function format(value: bigint, width: number): string {
  const bytes = Array.from({ length: width / 8 }, (_, index) => Number((value >> BigInt(width - 8 - index * 8)) & 0xffn))
  return ipaddr.fromByteArray(bytes).toString()
}

function hex(v4: string): [string, string] {
  const [a = 0, b = 0, c = 0, d = 0] = v4.split('.').map(Number)
  return [((a << 8) | b).toString(16), ((c << 8) | d).toString(16)]
}

/** Every way that some parser, somewhere, reads as this IPv4 address. */
function spellingsV4(v4: string): string[] {
  const parts = v4.split('.').map(Number)
  const whole = parts.reduce((sum, part) => sum * 256 + part, 0)
  const [high, low] = hex(v4)
  return [
    v4,
    parts.map((part) => `0x${part.toString(16)}`).join('.'),
    parts.map((part) => `0${part.toString(8).padStart(3, '0')}`).join('.'),
    `0x${whole.toString(16)}`,
    String(whole),
    `0${whole.toString(8)}`,
    `${parts[0]}.${whole % 2 ** 24}`,
    `${parts[0]}.${parts[1]}.${whole % 2 ** 16}`,
    `${v4}.`,
    ` ${v4}`,
    `[${v4}]`,
    `${v4}%eth0`,
    `::${v4}`,
    `::${high}:${low}`,
    `::ffff:${v4}`,
    `::ffff:${high}:${low}`,
    `0:0:0:0:0:ffff:${high}:${low}`,
    `::ffff:0:${high}:${low}`,
    `64:ff9b::${v4}`,
    `64:ff9b::${high}:${low}`,
    `64:ff9b:1::${high}:${low}`,
    `2002:${high}:${low}::`,
    `2002:${high}:${low}::1`,
    `2001:0:${high}:${low}::1`,
    `::FFFF:${high.toUpperCase()}:${low.toUpperCase()}`,
  ]
}

function spellingsV6(v6: string): string[] {
  const parsed = ipaddr.parse(v6)
  assert(parsed instanceof ipaddr.IPv6)
  const long = parsed.parts.map((part) => part.toString(16).padStart(4, '0')).join(':')
  return [
    v6,
    v6.toUpperCase(),
    parsed.toNormalizedString(),
    parsed.toRFC5952String(),
    long,
    long.toUpperCase(),
    `${v6}%eth0`,
    `${v6}%25lo`,
    `[${v6}]`,
  ]
}

for (const cidr of SPECIAL_V4)
  test(`${cidr} is never public, however it is written`, () => {
    for (const address of samples(cidr)) for (const spelling of spellingsV4(address)) assert.notEqual(judge(spelling), 'public', spelling)
  })

for (const cidr of SPECIAL_V6)
  test(`${cidr} is never public, however it is written`, () => {
    for (const address of samples(cidr)) for (const spelling of spellingsV6(address)) assert.notEqual(judge(spelling), 'public', spelling)
  })

test('a public IPv4 address inside an IPv6 transition form is refused too', () => {
  for (const spelling of spellingsV4('8.8.8.8').slice(1)) assert.notEqual(judge(spelling), 'public', spelling)
})

test('the neighbours of every special IPv4 block are public', () => {
  const neighbours = [
    '1.0.0.0',
    '9.255.255.255',
    '11.0.0.0',
    '100.63.255.255',
    '100.128.0.0',
    '126.255.255.255',
    '128.0.0.0',
    '168.63.129.15',
    '168.63.129.17',
    '169.253.255.255',
    '169.255.0.0',
    '172.15.255.255',
    '172.32.0.0',
    '191.255.255.255',
    '192.0.1.0',
    '192.0.1.255',
    '192.0.3.0',
    '192.31.195.255',
    '192.31.197.0',
    '192.52.192.255',
    '192.52.194.0',
    '192.88.98.255',
    '192.88.100.0',
    '192.167.255.255',
    '192.169.0.0',
    '192.175.47.255',
    '192.175.49.0',
    '198.17.255.255',
    '198.20.0.0',
    '198.51.99.255',
    '198.51.101.0',
    '203.0.112.255',
    '203.0.114.0',
    '223.255.255.255',
    '8.8.8.8',
    '140.82.112.3',
  ]
  for (const address of neighbours) assert.equal(judge(address), 'public', address)
})

test('ordinary IPv6 addresses of the internet are public in any spelling', () => {
  for (const address of [
    '2000::',
    '2001:200::1',
    '2001:4860:4860::8888',
    '2001:db7:ffff::',
    '2001:db9::',
    '2003::1',
    '2606:50c0:8000::153',
    '2620:4f:7fff::1',
    '2620:4f:8001::1',
    '2a00:1450:4001:82b::200e',
    '3ffe:ffff::1',
    '3fff:1000::',
  ])
    for (const spelling of [address, address.toUpperCase(), ipaddr.parse(address).toNormalizedString()])
      assert.equal(judge(spelling), 'public', spelling)
})

test('the reason tells what kind of address it is', () => {
  assert.equal(judge('127.0.0.1'), 'loopback')
  assert.equal(judge('10.1.2.3'), 'private')
  assert.equal(judge('169.254.169.254'), 'link_local')
  assert.equal(judge('168.63.129.16'), 'metadata')
  assert.equal(judge('::7f00:1'), 'not_global')
  assert.equal(judge('2002:7f00:1::'), 'relay')
  assert.equal(judge('localhost'), 'not_an_address')
  assert.equal(judge(''), 'not_an_address')
})
