import assert from 'node:assert/strict'
import { isIP } from 'node:net'
import test from 'node:test'
import fc from 'fast-check'
import { judgeUrl, parseAllowList } from '../../src/egress/rules.ts'

const piece = fc.constantFrom(
  'https://',
  'http://',
  'https:',
  '//',
  '/',
  '\\',
  '@',
  ':',
  '443',
  '80',
  '127.0.0.1',
  '0x7f.1',
  'localhost',
  '.',
  'internal',
  'example.com',
  '[::1]',
  '[',
  ']',
  '?',
  '#',
  '%2e',
  '%00',
  '\t',
  '①',
  '。',
  'a',
  '-',
  'xn--',
  '\u00ad',
)
const urlish = fc.oneof(
  fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join('')),
  fc.array(piece, { maxLength: 6 }).map((pieces) => `https://${pieces.join('')}`),
  fc.webUrl(),
  fc.string(),
)

test('whatever the text, what may be fetched without a list is https, port 443, a dotted public name, no credentials', () => {
  fc.assert(
    fc.property(urlish, (text) => {
      const judged = judgeUrl(text, { allow: [] })
      if ('refused' in judged) return
      const { url, host, port } = judged
      assert.equal(url.protocol, 'https:')
      assert.equal(port, 443)
      assert.equal(url.port, '')
      assert.equal(url.hostname, host)
      assert.equal(isIP(host), 0)
      assert.match(host, /^[^.]+(\.[^.]+)+$/)
      assert.doesNotMatch(host, /(^|\.)(localhost|local|internal)$/)
      assert.equal(url.username + url.password + url.hash, '')
    }),
    { numRuns: 20_000 },
  )
})

test('what was judged is judged the same again', () => {
  fc.assert(
    fc.property(urlish, (text) => {
      const judged = judgeUrl(text, { allow: [{ host: '127.0.0.1', port: 80 }] })
      if ('refused' in judged) return
      const again = judgeUrl(judged.url.href, { allow: [{ host: '127.0.0.1', port: 80 }] })
      assert('refused' in again ? again.refused === 'too_long' : again.host === judged.host && again.url.href === judged.url.href)
    }),
    { numRuns: 20_000 },
  )
})

test('a list that was read allows exactly its entries', () => {
  const place = fc.tuple(fc.domain(), fc.integer({ min: 1, max: 65_535 }))
  fc.assert(
    fc.property(fc.array(place), (places) => {
      const text = places.map(([host, port]) => `${host}:${port}`).join(',')
      assert.deepEqual(
        parseAllowList(text),
        places.map(([host, port]) => ({ host: host.toLowerCase(), port })),
      )
    }),
  )
})
