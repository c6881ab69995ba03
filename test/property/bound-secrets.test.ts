import assert from 'node:assert/strict'
import tls, { type PeerCertificate } from 'node:tls'
import { test } from 'node:test'
import fc from 'fast-check'
import { judgeRequest } from '../../src/egress/bound-request.ts'
import { fillHeader, secretsFor, type BoundSecrets } from '../../src/egress/bound-secrets.ts'
import { partSecrets, checkBoundSecrets } from '../../src/token/bound-secret.ts'
import { copyObject } from '../../src/token/plain-json.ts'

const hex = (length: number) => fc.array(fc.constantFrom(...'0123456789abcdef'), { minLength: length, maxLength: length }).map((all) => all.join(''))
const placeholder = hex(40).map((digits) => `wtsecret-${digits}`)
const printable = fc.string({ unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCodePoint(code)), minLength: 8, maxLength: 60 })
const secrets = fc.dictionary(placeholder, printable, { minKeys: 1, maxKeys: 4 }).map((all) => new Map(Object.entries(all)))
const label = fc.stringMatching(/^[a-z][a-z0-9]{0,5}$/)
const host = fc.array(label, { minLength: 2, maxLength: 4 }).map((labels) => labels.join('.'))
/** Text around placeholders, known and unknown. */
const parts = (known: ReadonlyMap<string, string>) =>
  fc.array(fc.oneof(fc.constantFrom(...known.keys()), placeholder, fc.constantFrom('', ' ', '-', 'wtsecret-', ', Bearer ')), { maxLength: 8 })

test('each placeholder that is known becomes its value, once, and nothing else changes', () =>
  fc.assert(
    fc.property(
      secrets.chain((known) => fc.tuple(fc.constant(known), parts(known))),
      ([known, pieces]) => assert.equal(fillHeader('x-key', pieces.join('|'), known), pieces.map((piece) => known.get(piece) ?? piece).join('|')),
    ),
  ))

test('within Basic credentials too, and credentials without placeholders stay as they are, to the byte', () =>
  fc.assert(
    fc.property(
      secrets.chain((known) => fc.tuple(fc.constant(known), parts(known))),
      fc.constantFrom('Basic ', 'basic ', 'BASIC  '),
      ([known, pieces], scheme) => {
        const credentials = pieces.join(':')
        const sent = scheme + Buffer.from(credentials).toString('base64')
        const got = fillHeader('Authorization', sent, known)
        const expected = pieces.map((piece) => known.get(piece) ?? piece).join(':')
        assert.equal(got, credentials === expected ? sent : scheme + Buffer.from(expected).toString('base64'))
        assert.equal(fillHeader('x-authorization', sent, known), sent)
      },
    ),
  ))

test('any other text is left alone', () =>
  fc.assert(fc.property(secrets, fc.string(), (known, text) => assert.equal(fillHeader('authorization', text, known), text))))

test('a host gets the secrets that its certificate could be shown for, by the same reading of names', () =>
  fc.assert(
    fc.property(fc.array(fc.tuple(host, fc.boolean()), { minLength: 1, maxLength: 3 }), fc.array(label, { maxLength: 2 }), (names, more) => {
      const hosts = names.map(([name, isWild]) => (isWild && name.includes('.', name.indexOf('.') + 1) ? name.replace(/^[^.]+/, '*') : name))
      const asked = [...more, names[0]![0]].join('.')
      const bound: BoundSecrets = {
        id: '',
        certificate: '',
        key: '',
        secrets: hosts.map((each, i) => ({ placeholder: `p${i}`, value: 'v', hosts: [each] })),
      }
      const allowed = hosts.flatMap((each, i) => {
        const peer = { subject: {}, subjectaltname: `DNS:${each}` } as PeerCertificate
        return tls.checkServerIdentity(asked, peer) === undefined ? [`p${i}`] : []
      })
      assert.deepEqual([...(secretsFor(bound, asked)?.keys() ?? [])], [...new Set(allowed)])
    }),
  ))

test('whatever a request says, what is sent on names the one host, and has one reading of its length', () => {
  const name = fc.constantFrom(
    'Host',
    'host',
    'Connection',
    'Content-Length',
    'Transfer-Encoding',
    'TE',
    'Upgrade',
    'Trailer',
    'X-Key',
    'Expect',
    'Cookie',
  )
  const value = fc.oneof(
    host,
    fc.constantFrom('api.example.com', 'chunked', 'Host', 'content-length, host', '5', 'gzip, chunked', 'api.example.com:443'),
  )
  const target = fc.oneof(
    fc.webPath().map((path) => `/${path}`),
    fc.webUrl(),
    fc.constantFrom('*', 'https://api.example.com/x', 'https://api.example.com', '//other.example.com/', 'https:\\\\api.example.com/'),
    fc.string(),
  )
  fc.assert(
    fc.property(
      fc.constantFrom('GET', 'POST', 'TRACE', 'OPTIONS'),
      target,
      fc.array(fc.tuple(name, value), { maxLength: 8 }),
      (method, asked, headers) => {
        const rawHeaders = headers.flat()
        const judged = judgeRequest({ method, target: asked, rawHeaders }, { host: 'api.example.com', secrets: new Map() })
        if ('refused' in judged) return assert.ok([400, 405, 421, 431, 501].includes(judged.refused))
        assert.notEqual(judged.method, 'TRACE')
        assert.ok(judged.path.startsWith('/') || judged.path === '*')
        const sent = judged.headers.filter((_, i) => i % 2 === 0).map((each) => each.toLowerCase())
        assert.deepEqual(
          judged.headers.filter((_, i) => i % 2 === 1 && sent[(i - 1) / 2] === 'host'),
          ['api.example.com'],
        )
        for (const own of ['connection', 'te', 'upgrade', 'trailer', 'expect']) assert.equal(sent.includes(own), false)
        // Two lengths, or a length beside chunks, never get as far as this: the parser refuses them.
        assert.equal(sent.filter((each) => each === 'transfer-encoding').length, headers.some(([each]) => each === 'Transfer-Encoding') ? 1 : 0)
      },
    ),
  )
})

test('parting secrets loses none, and whatever the check lets through as bound is bound', () =>
  fc.assert(
    fc.property(
      fc.dictionary(
        label,
        fc.oneof(
          fc.jsonValue({ maxDepth: 2 }).filter((json) => !JSON.stringify(json).includes('__proto__')),
          fc.record({ value: printable, hosts: fc.array(host, { maxLength: 3 }) }),
        ),
      ),
      (input) => {
        const all = copyObject(JSON.parse(JSON.stringify(input)), 'ectx')
        const { ordinary, bound } = partSecrets(all)
        assert.deepEqual([...Object.keys(ordinary), ...bound.keys()].sort(), Object.keys(all).sort())
        try {
          checkBoundSecrets(all)
        } catch {
          return
        }
        for (const member of Object.values(ordinary))
          assert.ok(!(typeof member === 'object' && member !== null && 'value' in member && 'hosts' in member))
      },
    ),
  ))
