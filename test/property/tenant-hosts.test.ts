import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { staysOnHost } from '../../src/gateway/own-origin.ts'
import { parseTenantHost } from '../../src/gateway/tenant-host.ts'

const DOMAIN = 'run.example.com'
const HOST = `acme.${DOMAIN}`
/** Hosts of others: siblings, those above, and strangers. */
const OTHERS = [
  `other.${DOMAIN}`,
  `acm.${DOMAIN}`,
  `xacme.${DOMAIN}`,
  `acme-2.${DOMAIN}`,
  DOMAIN,
  'example.com',
  'www.example.com',
  'acme.example.com',
  'com',
  'evil.test',
]

/** Ways in which browsers read, or once read, a Set-Cookie: all must come to the same. */
interface Reader {
  readonly quotes: boolean
  readonly last: boolean
  /** Longer attribute values are ignored. */
  readonly most: number
  readonly trim: RegExp
}
const READERS: readonly Reader[] = [true, false].flatMap((quotes) =>
  [true, false].flatMap((last) =>
    [1024, Infinity].flatMap((most) => [/^[ \t]+|[ \t]+$/g, /^[\s\x80-\xa0"]+|[\s\x80-\xa0"]+$/g].map((trim) => ({ quotes, last, most, trim }))),
  ),
)

/** The Domain of a cookie as a browser reads it (RFC 6265bis §5.6); '' is the host alone. */
function domainOf(cookie: string, { quotes, last, most, trim }: Reader): string {
  const parts = quotes ? (cookie.match(/(?:"[^"]*"|[^;])*;?/g) ?? []).map((part) => part.replace(/;$/, '')) : cookie.split(';')
  const found = parts
    .slice(1)
    .map((part) => {
      const [name, ...value] = part.split('=')
      return [name!.replace(trim, '').toLowerCase(), value.join('=').replace(trim, '').toLowerCase().replace(/^\./, '')] as const
    })
    .filter(([name, value]) => name === 'domain' && value.length <= most)
    .map(([, value]) => value)
  return (last ? found.at(-1) : found[0]) ?? ''
}

/** RFC 6265bis §5.1.3. */
const matches = (host: string, domain: string) => host === domain || host.endsWith(`.${domain}`)

const space = fc.constantFrom('', ' ', '\t', ' \t ', '\u00a0', '\u0085', '"')
const name = fc.constantFrom('Domain', 'domain', 'DOMAIN', 'doMaiN', 'Path', 'Secure', 'X-Domain', 'dom', '', 'a')
const value = fc.oneof(
  fc.constantFrom(
    HOST,
    HOST.toUpperCase(),
    `.${HOST}`,
    `..${HOST}`,
    `${HOST}.`,
    `"${HOST}"`,
    `${HOST}:80`,
    ...OTHERS,
    ...OTHERS.map((other) => `.${other}`),
    '',
    '.',
    '/',
    'x'.repeat(1025),
  ),
  fc.string({ unit: fc.constantFrom(...'.;=", \tacmerunx'), maxLength: 12 }),
)
const attribute = fc.tuple(space, name, space, fc.constantFrom('=', '', '=='), space, value, space).map((parts) => parts.join(''))
const cookie = fc.oneof(
  fc
    .tuple(fc.constantFrom('a=b', 'a="b', 'Domain=x', '', 'a'), fc.array(attribute, { maxLength: 4 }), fc.constantFrom(';', ';;', ',', '; '))
    .map(([pair, attributes, between]) => [pair, ...attributes].join(between)),
  fc.string({ unit: fc.constantFrom(...'domainDOMAIN;;==".,  \trunexplc'), maxLength: 60 }),
)

test('no cookie that passes can apply to the host of anybody else, however a browser reads it', () => {
  let passed = 0
  let withDomain = 0
  fc.assert(
    fc.property(cookie, (text) => {
      if (!staysOnHost({ name: 'set-cookie', value: text }, HOST)) return
      passed += 1
      for (const reader of READERS) {
        const domain = domainOf(text, reader)
        if (domain !== '') withDomain += 1
        // A browser refuses a Domain that does not match the host; any other reaches all hosts that match it.
        if (domain === '' || !matches(HOST, domain)) continue
        assert.deepEqual(
          OTHERS.filter((other) => matches(other, domain)),
          [],
          JSON.stringify({ text, domain }),
        )
      }
    }),
    { numRuns: 20_000 },
  )
  assert.ok(passed > 1000 && withDomain > 100, `${passed} passed, ${withDomain} of them named a domain`)
})

test('a cookie without a Domain, or with the very host, passes', () => {
  const harmless = fc.constantFrom('Path=/', 'Secure', 'HttpOnly', 'SameSite=Lax', 'Max-Age=1', '__Host-x', `domain=${HOST}`, ` Domain = .${HOST} `)
  fc.assert(fc.property(fc.array(harmless), (attributes) => staysOnHost({ name: 'set-cookie', value: ['a=b', ...attributes].join('; ') }, HOST)))
})

const host = fc.oneof(
  fc
    .tuple(
      fc.array(fc.oneof(fc.stringMatching(/^[-a-zA-Z0-9_]{0,8}$/), fc.string({ maxLength: 4 })), { maxLength: 3 }),
      fc.constantFrom(DOMAIN, DOMAIN.toUpperCase(), 'example.com', 'evil.test'),
      fc.constantFrom('', ':8080', ':', '.', '.:1'),
    )
    .map(([labels, domain, tail]) => [...labels, domain].join('.') + tail),
  fc.string(),
)

test('a browser at a host below the domain never meets the shared origin, and a host is of one tenant alone', () => {
  let below = 0
  fc.assert(
    fc.property(host, (text) => {
      const found = parseTenantHost(text, DOMAIN)
      if (found?.tenant !== undefined) assert.equal(found.name, `${found.tenant}.${DOMAIN}`)
      // What a browser makes of it, and sends as Host.
      const url = URL.parse(`http://${text}/`)
      if (url === null) return
      const hostname = url.hostname.replace(/\.+$/, '')
      const sent = parseTenantHost(url.host, DOMAIN)
      assert.equal(sent !== undefined, hostname.endsWith(`.${DOMAIN}`), url.host)
      if (sent === undefined) return
      below += 1
      assert.equal(sent.name, hostname)
      if (sent.tenant !== undefined) assert.equal(`${sent.tenant}.${DOMAIN}`, hostname)
    }),
    { numRuns: 5000 },
  )
  assert.ok(below > 200, String(below))
})
