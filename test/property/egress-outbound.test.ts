import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { judge } from '../../src/egress/address.ts'
import {
  isOpened,
  mayLookUp,
  mayReach,
  outboundRules,
  parseOpenedPlaces,
  parseOutboundRules,
  placeOf,
  refusalOf,
} from '../../src/egress/outbound-rules.ts'
import { judgeHost } from '../../src/egress/rules.ts'
import { createUsage } from '../../src/egress/usage.ts'
import { parseConnectReply, parseEgressRequest, parseEndedReply, parseResolveReply, RRTYPES } from '../../src/protocol/egress.ts'

const DEFAULT = parseOutboundRules('deny *:25, allow *:*')
const asked = (rules: string, opened = '') => ({ rules: parseOutboundRules(rules), opened: parseOpenedPlaces(opened) })
const v4 = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255)).map((parts) => parts.join('.'))
const v6 = fc.array(fc.nat(0xff_ff), { minLength: 8, maxLength: 8 }).map((parts) => parts.map((part) => part.toString(16)).join(':'))
const port = fc.integer({ min: 1, max: 65_535 })

describe('the default rules', () => {
  test('allow public addresses on every port but 25, and no other address on any', () =>
    fc.assert(
      fc.property(fc.oneof(v4, v6), port, (address, at) => {
        const refusal = refusalOf(address, { host: null, port: at }, { rules: DEFAULT, opened: [] })
        assert.equal(refusal === undefined, judge(address) === 'public' && at !== 25)
      }),
    ))

  test('hold whatever name led to the address', () =>
    fc.assert(
      fc.property(fc.domain(), v4, port, (host, address, at) =>
        assert.equal(
          refusalOf(address, { host, port: at }, { rules: DEFAULT, opened: [] }),
          refusalOf(address, { host: null, port: at }, { rules: DEFAULT, opened: [] }),
        ),
      ),
    ))
})

describe('rules', () => {
  test('the first that matches decides; none denies', () => {
    const { rules } = asked('deny evil.example.com:*, allow *.example.com:443, allow 198.51.100.0/24:1000-2000, deny *:*')
    const may = (host: string | null, at: number, address: string | null = null) => mayReach(rules, { host, port: at, address })
    assert.equal(may('evil.example.com', 443, '192.0.2.1'), false)
    assert.equal(may('a.b.example.com', 443, '192.0.2.1'), true)
    assert.equal(may('example.com', 443, '192.0.2.1'), false)
    assert.equal(may('notexample.com', 443, '192.0.2.1'), false)
    assert.equal(may('a.example.com', 80, '192.0.2.1'), false)
    assert.equal(may(null, 1500, '198.51.100.7'), true)
    assert.equal(may(null, 2001, '198.51.100.7'), false)
    // As long as the address is not known, a rule about addresses may turn out to allow it.
    assert.equal(may('other.example.net', 1500), true)
    assert.equal(may('other.example.net', 80), false)
    assert.equal(may('other.example.net', 1500, '192.0.2.1'), false)
  })

  test('a denied block is not let through by a later rule for all', () => {
    const { rules } = asked('deny 192.0.2.0/24:*, allow *:*')
    assert.equal(mayReach(rules, { host: 'x.example.com', port: 80, address: null }), true)
    assert.equal(mayReach(rules, { host: 'x.example.com', port: 80, address: '192.0.2.9' }), false)
  })

  test('a name may be looked up when it may be reached on some port', () => {
    assert.equal(mayLookUp(DEFAULT, 'x.example.com'), true)
    const { rules } = asked('allow *.example.com:443')
    assert.equal(mayLookUp(rules, 'x.example.com'), true)
    assert.equal(mayLookUp(rules, 'x.example.net'), false)
    assert.equal(mayLookUp([], 'x.example.com'), false)
  })

  test('what the operator opened is reached although it is not public, and only that', () => {
    const { rules, opened } = asked('allow *:*', '127.0.0.1:5432, 10.0.0.0/8:443, [fd00::/8]:1-9, db.internal:5432')
    const refused = (host: string | null, at: number, address: string) => refusalOf(address, { host, port: at }, { rules, opened }) !== undefined
    assert.equal(refused(null, 5432, '127.0.0.1'), false)
    assert.equal(refused(null, 5433, '127.0.0.1'), true)
    assert.equal(refused(null, 5432, '127.0.0.2'), true)
    assert.equal(refused(null, 443, '10.9.9.9'), false)
    assert.equal(refused(null, 5, 'fd12::1'), false)
    assert.equal(refused('db.internal', 5432, '172.16.0.9'), false)
    assert.equal(refused('db2.internal', 5432, '172.16.0.9'), true)
    assert.equal(refused(null, 5432, '::ffff:127.0.0.1'), true)
    // The tenant's own rules still hold there.
    assert.notEqual(refusalOf('127.0.0.1', { host: null, port: 5432 }, { rules: [], opened }), undefined)
  })

  test('a place is opened by an entry that names it, never by chance', () =>
    fc.assert(
      fc.property(v4, port, (address, at) => {
        const opened = parseOpenedPlaces('127.0.0.1:5432')
        assert.equal(isOpened(opened, { host: null, port: at, address }), address === '127.0.0.1' && at === 5432)
      }),
    ))

  test('text that cannot be read is quoted', () => {
    assert.throws(() => parseOutboundRules('allow *:*, permit x:1'), /"permit x:1"/)
    for (const bad of ['allow x', 'allow x:99999', 'allow x:9-1', 'allow 1.2.3.4/33:*', 'allow a*b.com:*', 'deny', 'allow [::1:*'])
      assert.throws(() => parseOutboundRules(bad), TypeError, bad)
    for (const bad of ['*:80', '127.0.0.1', '10.0.0.0/8', 'x:y']) assert.throws(() => parseOpenedPlaces(bad), TypeError, bad)
    assert.deepEqual(parseOpenedPlaces(''), [])
  })

  test('rules from outside are bounded and whole', () => {
    assert.equal(outboundRules.safeParse(DEFAULT).success, true)
    for (const bad of [
      null,
      {},
      [{ action: 'allow' }],
      [{ action: 'allow', to: 'x', ports: [0] }],
      [{ action: 'allow', to: 'x y', ports: [0, 1] }],
      [{ action: 'allow', to: '*', ports: [0, 65_536] }],
      Array(300).fill(DEFAULT[0]),
    ])
      assert.equal(outboundRules.safeParse(bad).success, false, JSON.stringify(bad).slice(0, 80))
  })
})

describe('hosts', () => {
  test('a text is an address, a public name, this machine, or nothing that is asked about', () => {
    const kinds = Object.fromEntries(
      [
        '8.8.8.8',
        '::1',
        'Example.COM.',
        'münchen.example',
        '_srv._tcp.example.com',
        'localhost',
        'a.LOCALHOST',
        'db',
        'x.internal',
        '127.1',
        '0x7f.0.0.1',
        '1.2.3.4.5',
        '127。0。0。1',
        '',
        'a..b',
        'a/b.com',
        'x.test',
      ].map((host) => [host, judgeHost(host).kind]),
    )
    assert.deepEqual(kinds, {
      '8.8.8.8': 'address',
      '::1': 'address',
      'Example.COM.': 'name',
      'münchen.example': 'name',
      '_srv._tcp.example.com': 'name',
      localhost: 'local',
      'a.LOCALHOST': 'local',
      db: 'none',
      'x.internal': 'none',
      '127.1': 'none',
      '0x7f.0.0.1': 'none',
      '1.2.3.4.5': 'none',
      '127。0。0。1': 'none',
      '': 'none',
      'a..b': 'none',
      'a/b.com': 'none',
      'x.test': 'none',
    })
    assert.equal(judgeHost('Example.COM.').host, 'example.com')
  })

  test('no text throws, and no text that is not an address becomes one', () =>
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.domain(), v4, v6), port, (host, at) => {
        const place = placeOf(host, at)
        assert.equal(place.address !== null, place.kind === 'address')
        assert.equal(place.host === null, place.kind === 'address')
      }),
    ))
})

describe('the protocol', () => {
  test('parsers take anything, and give only what the protocol knows', () =>
    fc.assert(
      fc.property(fc.anything(), (value) => {
        for (const parse of [parseEgressRequest, parseConnectReply, parseResolveReply, parseEndedReply]) parse(value)
      }),
    ))

  test('requests are bounded', () => {
    assert.deepEqual(parseEgressRequest({ kind: 'connect', host: 'x', port: 1, more: true }), { kind: 'connect', host: 'x', port: 1 })
    for (const rrtype of RRTYPES) assert.deepEqual(parseEgressRequest({ kind: 'resolve', name: 'x', rrtype }), { kind: 'resolve', name: 'x', rrtype })
    for (const bad of [
      { kind: 'connect', host: '', port: 1 },
      { kind: 'connect', host: 'x'.repeat(254), port: 1 },
      { kind: 'connect', host: 'x', port: 65_536 },
      { kind: 'connect', host: 'x', port: 1.5 },
      { kind: 'resolve', name: 'x', rrtype: 'AXFR' },
      { kind: 'ended', id: -1 },
      [],
    ])
      assert.equal(parseEgressRequest(bad), undefined, JSON.stringify(bad))
  })

  test('a failure has a code that Node knows', () => {
    const failure = { ok: false, code: 'EACCES', syscall: 'connect', message: '', address: null }
    assert.deepEqual(parseConnectReply(failure), failure)
    assert.equal(parseConnectReply({ ...failure, code: 'EVIL' }), undefined)
  })
})

describe('usage', () => {
  test('no more connections are open than the limit, in whatever order they begin and end', () =>
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 200 }), (steps) => {
        const usage = createUsage({ connections: 5, perSecond: 1000, bytesPerHour: 1 })
        let open = 0
        for (const begins of steps) {
          if (!begins) {
            if (open > 0) usage.end('a')
            open = Math.max(0, open - 1)
          } else if (usage.begin('a', 'connection', 0) === undefined) open += 1
          assert.ok(open <= 5)
        }
      }),
    ))

  test('over any second no more begin than twice the rate, and one tenant takes nothing from another', () =>
    fc.assert(
      fc.property(fc.array(fc.nat(200), { maxLength: 200 }), (pauses) => {
        const usage = createUsage({ connections: 1e9, perSecond: 10, bytesPerHour: 1 })
        const begun: number[] = []
        let now = 0
        for (const pause of pauses) {
          now += pause
          if (usage.begin('a', 'lookup', now) === undefined) begun.push(now)
          assert.ok(begun.filter((at) => at > now - 1000).length <= 20)
        }
        assert.equal(usage.begin('b', 'lookup', now), undefined)
      }),
    ))

  test('bytes over the limit end connections until time has paid for them', () => {
    const usage = createUsage({ connections: 9, perSecond: 9, bytesPerHour: 3_600_000 })
    assert.equal(usage.spend('a', 3_599_999, 0), false)
    assert.equal(usage.spend('a', 1001, 0), true)
    assert.equal(usage.begin('a', 'connection', 500)?.code, 'EDQUOT')
    assert.equal(usage.begin('a', 'connection', 2000), undefined)
    usage.end('a')
    usage.sweep(3_600_000 * 2)
    assert.equal(usage.tenants, 0)
  })
})
