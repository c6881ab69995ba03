import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WebtaskError } from '../../src/errors.ts'
import { parseTenantId, type TenantId } from '../../src/tenant/tenant-id.ts'
import { codeUrl, hashCode, parseCodeUrl } from '../../src/token/code-url.ts'
import { parseIssueInput } from '../../src/token/issue-input.ts'
import { parseTenantPattern, patternMatches, patternWithin } from '../../src/token/tenant-pattern.ts'
import { parseWebtaskName } from '../../src/token/webtask-name.ts'

const NOW = 1_800_000_000
const acme = 'acme' as TenantId

function refuses(code: string, message: RegExp, act: () => unknown): void {
  assert.throws(act, (error) => error instanceof WebtaskError && error.code === code && message.test(error.message))
}

test('names that Auth0 clients allow are allowed, and names that trick paths or objects are not', () => {
  for (const name of ['acme', 'wt-0f-0', 'A.b_c~d!e$f+g=h:i@j', '...', 'constructor', 'x'.repeat(128)]) assert.equal(parseTenantId(name), name)
  for (const name of ['', '.', '..', '__proto__', 'a/b', 'a%2Fb', 'a b', 'a\n', 'é', 'x'.repeat(129), 5, null, ['a']])
    assert.equal(parseTenantId(name), undefined)
})

test('no webtask can have the name under which unnamed code is stored', () => {
  assert.equal(parseWebtaskName(hashCode('x')), undefined)
  assert.equal(parseWebtaskName('sha256-short'), 'sha256-short')
})

test('ten is a literal, a comma list, a regex or an array of these', () => {
  assert.deepEqual(parseTenantPattern('acme'), ['acme'])
  assert.deepEqual(parseTenantPattern('a, b,a'), ['a', 'b'])
  assert.deepEqual(parseTenantPattern(['a,b', '/^x{1,2}$/']), ['a', 'b', '/^x{1,2}$/'])
  const foo = parseTenantPattern('/^foo[0-9]$/')
  assert.equal(patternMatches(foo, 'foo7' as TenantId), true)
  assert.equal(patternMatches(foo, 'foo77' as TenantId), false)
  assert.equal(patternMatches(parseTenantPattern('/oo/'), 'foo' as TenantId), true)
})

test('a ten that is broken says how', () => {
  for (const [ten, message] of [
    ['', /not a container name/],
    ['a,,b', /not a container name/],
    ['a/b', /not a container name/],
    [[], /names no container/],
    [[['a']], /string or an array of strings/],
    ['/[/', /missing closing/],
    ['/a/i', /between slashes/],
    ['//', /between slashes/],
    [`/${'a'.repeat(200)}/`, /longer than/],
    ['/(?=a)/', /Perl syntax/],
    ['/\\p{L}{1000}{2}\\p{L}{1000}/', /too complex|repeat|nested/],
    ['/\\p{L}{900}\\p{L}{900}\\p{L}{900}/', /too complex/],
    [Array.from({ length: 101 }, (_, i) => `t${i}`), /more than 100/],
  ] as const) {
    refuses('bad_request', message, () => parseTenantPattern(ten))
  }
})

test('a regex that takes others exponential time is matched at once', () => {
  const started = performance.now()
  assert.equal(patternMatches(parseTenantPattern('/^((a+)+)+$/'), `${'a'.repeat(127)}b` as TenantId), false)
  assert.ok(performance.now() - started < 200)
})

test('a pattern is inside another only when that is certain', () => {
  assert.equal(patternWithin(['a1', 'a2'], ['/^a/']), true)
  assert.equal(patternWithin(['a1', 'b'], ['/^a/']), false)
  assert.equal(patternWithin(['/^a1/'], ['/^a/']), false)
  assert.equal(patternWithin(['/^a/', 'b'], ['b', '/^a/']), true)
  assert.equal(patternWithin(['/a/'], ['a']), false)
})

test('stored code has one URL, and no other webtask URL is one', () => {
  assert.equal(codeUrl({ tenant: acme, key: 'hello' }), 'webtask://localhost/api/data/code/acme%2Fhello')
  assert.deepEqual(parseCodeUrl('webtask://localhost/api/data/code/acme%2Fhello'), { tenant: 'acme', key: 'hello' })
  assert.deepEqual(parseCodeUrl(codeUrl({ tenant: acme, key: hashCode('') })), { tenant: 'acme', key: hashCode('') })
  for (const rest of [
    'acme',
    'acme%2F',
    '%2Fhello',
    'acme%2F..',
    'acme%2Fa%2Fb',
    'acme%252Fhello',
    'acme%2Fhello?x',
    'acme%2Fhello#x',
    'acme%2F%',
    '..%2Facme%2Fhello',
    'acme%2F__proto__',
  ]) {
    assert.equal(parseCodeUrl(`webtask://localhost/api/data/code/${rest}`), undefined, rest)
  }
  assert.equal(parseCodeUrl('webtask://other/api/data/code/acme%2Fhello'), undefined)
})

test('numbers that arrive as strings are numbers', () => {
  const asked = parseIssueInput({ exp: '1999999999', nbf: '0', ls: '5', lto: '100', dd: '1', dr: '1', mb: '1', pb: '1' }, NOW)
  assert.deepEqual([asked.exp, asked.nbf, asked.dd, asked.dr, asked.mb, asked.pb], [1999999999, 0, 1, 1, 1, 1])
  assert.deepEqual(asked.limits, { ls: 5, lto: 100 })
})

test('what wt create sends is read as it is', () => {
  const asked = parseIssueInput(
    {
      ten: 'acme',
      dd: 0,
      code: '',
      mb: 1,
      dr: 1,
      jtn: 'hello',
      ectx: { a: { b: 'c' } },
      pctx: { p: '1' },
      meta: { m: '2' },
      host: 'API.example.com',
    },
    NOW,
  )
  assert.equal(asked.code, '')
  assert.equal(JSON.stringify(asked.ectx), '{"a":{"b":"c"}}')
  assert.equal(asked.host, 'api.example.com')
})

test('an inspect reply can be fed back: what only the server sets is ignored, and null is absent', () => {
  const asked = parseIssueInput({ jti: 'x', iat: -1, ca: 5, iss: {}, aud: [], webtask_url: 1, whatever: 1, exp: null, __proto: 1 }, NOW)
  assert.deepEqual(asked, { limits: {} })
})

test('a claim that restricts elsewhere but not here is refused rather than dropped', () => {
  refuses('bad_request', /"cnf": this server does not enforce it/, () => parseIssueInput({ cnf: { jkt: 'x' } }, NOW))
})

test('a malformed claim is refused by its name', () => {
  const cases: [unknown, RegExp][] = [
    [null, /must be a JSON object/],
    [[], /must be a JSON object/],
    ['x', /must be a JSON object/],
    [{ jtn: '../x' }, /"jtn"/],
    [{ jtn: '__proto__' }, /"jtn"/],
    [{ jtnm: ['ok', 'not ok'] }, /"jtnm.1"/],
    [{ exp: Infinity }, /"exp".*integer/],
    [{ exp: JSON.parse('1e400') as number }, /"exp".*integer/],
    [{ exp: 2 ** 53 }, /"exp"/],
    [{ exp: 1.5 }, /"exp"/],
    [{ exp: '1e9' }, /"exp"/],
    [{ exp: '' }, /"exp"/],
    [{ exp: NOW + 11 * 366 * 86_400 }, /"exp".*ten years/],
    [{ exp: 5, nbf: 5 }, /"exp".*after "nbf"/],
    [{ dd: -1 }, /"dd"/],
    [{ dd: 0.5 }, /"dd"/],
    [{ dr: 2 }, /"dr": it must be 0 or 1/],
    [{ pb: 3 }, /"pb": it must be 0, 1 or 2/],
    [{ ls: 0 }, /"ls": it must be 1 or more/],
    [{ url: 'ftp://x/' }, /"url"/],
    [{ url: 'x' }, /"url"/],
    [{ url: 'https://u:p@x/' }, /"url".*user name/],
    [{ url: `https://x/${'a'.repeat(3000)}` }, /"url".*longer/],
    [{ url: 'https://x/', code: '' }, /"code"/],
    [{ code: 5 }, /"code"/],
    [{ ectx: 'eyJ.a.b.c.d' }, /"ectx".*clear secrets/],
    [{ ectx: ['a'] }, /"ectx"/],
    [{ ectx: JSON.parse('{"a":{"__proto__":{"x":1}}}') as object }, /"ectx.a".*__proto__/],
    [{ pctx: JSON.parse(`${'{"a":'.repeat(9)}1${'}'.repeat(9)}`) as object }, /nest deeper/],
    [{ meta: { a: 1 } }, /"meta".*strings/],
    [{ host: 'a b' }, /"host"/],
    [{ host: 'a/b' }, /"host"/],
    [{ cph: 'sha256-x' }, /"cph"/],
  ]
  for (const [input, message] of cases) refuses('bad_request', message, () => parseIssueInput(input, NOW))
})

test('a webtask URL that names no stored code is forbidden', () => {
  refuses('forbidden', /"url"/, () => parseIssueInput({ url: 'webtask://localhost/etc/passwd' }, NOW))
  refuses('forbidden', /"url"/, () => parseIssueInput({ url: 'WEBTASK://evil/x' }, NOW))
})

test('a claim named __proto__ changes nothing', () => {
  const asked = parseIssueInput(JSON.parse('{"__proto__":{"exp":5},"dd":0}'), NOW)
  assert.equal(asked.exp, undefined)
  assert.equal(asked.dd, 0)
})
