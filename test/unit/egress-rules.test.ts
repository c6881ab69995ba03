import assert from 'node:assert/strict'
import test from 'node:test'
import { judgeUrl, parseAllowList } from '../../src/egress/rules.ts'
import type { UrlRefusal } from '../../src/egress/rules.ts'

const NONE = { allow: [] }

function refusedBy(url: string, allow = ''): UrlRefusal['refused'] | undefined {
  const judged = judgeUrl(url, { allow: parseAllowList(allow) })
  return 'refused' in judged ? judged.refused : undefined
}

/** Host spellings of loopback, metadata and private places, from the public SSRF collections. */
const INNER_HOSTS = [
  '127.0.0.1',
  '127.0.0.1.',
  '127.1',
  '127.0.1',
  '127.000.000.001',
  '127.127.127.127',
  '0177.0.0.1',
  '0177.0.0.01',
  '00177.1',
  '0x7f.0.0.1',
  '0x7f.1',
  '0x7F000001',
  '0x7f.0x0.0x0.0x1',
  '2130706433',
  '017700000001',
  '0x7f000001.',
  '0',
  '0.0.0.0',
  '0x0',
  '00',
  '127.0.0.1%00',
  '①②⑦.⓪.⓪.①',
  '①②⑦。⓪。⓪。①',
  '127。0。0。1',
  '127．0．0．1',
  '１２７.0.0.1',
  '𝟏𝟐𝟕.0.0.1',
  '%31%32%37.0.0.1',
  '127%2e0%2e0%2e1',
  '[::1]',
  '[::]',
  '[0:0:0:0:0:0:0:1]',
  '[0000::1]',
  '[::ffff:127.0.0.1]',
  '[::ffff:7f00:1]',
  '[0:0:0:0:0:ffff:127.0.0.1]',
  '[::127.0.0.1]',
  '[::7f00:1]',
  '[64:ff9b::7f00:1]',
  '[64:ff9b::127.0.0.1]',
  '[2002:7f00:1::]',
  '[fe80::1]',
  '[fe80::1%25eth0]',
  '[fd00:ec2::254]',
  '[fc00::1]',
  '[ff02::1]',
  '[::1%lo]',
  '[2606:4700::1111]',
  'localhost',
  'LOCALHOST',
  'localhost.',
  'LocalHost.',
  'ⓛⓞⓒⓐⓛⓗⓞⓢⓣ',
  'lo%63alhost',
  'foo.localhost',
  'foo.localhost.',
  'localhost.localdomain',
  '169.254.169.254',
  '169.254.43518',
  '169.16689662',
  '2852039166',
  '0xA9FEA9FE',
  '0xa9.0xfe.0xa9.0xfe',
  '0251.0376.0251.0376',
  '0251.254.169.254',
  '[::ffff:169.254.169.254]',
  '[::ffff:a9fe:a9fe]',
  '[::a9fe:a9fe]',
  '①⑥⑨.②⑤④.①⑥⑨.②⑤④',
  '100.100.100.200',
  '168.63.129.16',
  '192.0.0.192',
  '10.0.0.1',
  '10.1',
  '012.0.0.1',
  '0xa.1',
  '167772161',
  '172.16.0.1',
  '172.31.255.255',
  '2886729729',
  '192.168.1.1',
  '192.168.257',
  '3232235777',
  '0300.0250.1.1',
  '[::ffff:10.0.0.1]',
  '[::ffff:c0a8:101]',
  '100.64.0.1',
  '198.18.0.1',
  '224.0.0.1',
  '255.255.255.255',
  '4294967295',
  '1.1.1.1',
  '8.8.8.8',
  '134744072',
  'metadata',
  'metadata.google.internal',
  'metadata.google.internal.',
  'METADATA.GOOGLE.INTERNAL',
  'instance-data',
  'redis',
  'orchestrator',
  'printer.local',
  'printer.LOCAL.',
  'host.docker.internal',
  'gateway.docker.internal',
  'kubernetes.default.svc.cluster.local',
  'router.lan',
  'nas.home',
  'router.home.arpa',
  'git.corp',
  'wiki.intranet',
  '1.0.0.127.in-addr.arpa',
  'example..com',
  '.example.com',
  'example.com..',
  '..',
  '.',
  'exa mple.com',
  'xn--',
  '-.',
  'facebookcorewwwi.onion',
  'thing.test',
  'thing.invalid',
  `${'a'.repeat(64)}.com`,
  `${'a.'.repeat(127)}com`,
]

/** Whole URLs that hide where they lead. */
const INNER_URLS = [
  'http://example.com/',
  'ftp://example.com/x.js',
  'file:///etc/passwd',
  'gopher://127.0.0.1:6379/_INFO',
  'dict://127.0.0.1:6379/',
  'data:text/javascript,1',
  'javascript:alert(1)',
  'blob:https://example.com/x',
  'unix:/var/run/docker.sock',
  'jar:https://example.com!/',
  'view-source:https://example.com/',
  'ws://example.com/',
  'wss://example.com/',
  'HTTPS:\\\\127.0.0.1\\',
  'https:\\\\example.com/',
  'https:/example.com/',
  'https:example.com',
  'https:127.0.0.1',
  'https:///127.0.0.1/',
  'https:////127.0.0.1/',
  '//example.com/',
  'example.com/x.js',
  '',
  ' ',
  'https://',
  'https://?',
  'https://#',
  'https:///',
  ' https://example.com/',
  '\thttps://example.com/',
  'ht\ttps://example.com/',
  'https://exam\nple.com/',
  'https://example.com/\r\nHost: x',
  'https://example.com/\0',
  'https://example.com\\@127.0.0.1/',
  'https://127.0.0.1\\@example.com/',
  'https://example.com@127.0.0.1/',
  'https://user@example.com/',
  'https://user:pass@example.com/',
  'https://:pass@example.com/',
  'https://@example.com/',
  'https://:@example.com/',
  'https://127.0.0.1:80@example.com/',
  'https://example.com%40127.0.0.1/',
  'https://127.0.0.1#@example.com/',
  'https://127.0.0.1?@example.com/',
  'https://127.0.0.1;example.com/',
  'https://example.com:80/',
  'https://example.com:22/',
  'https://example.com:8443/',
  'https://example.com:0/',
  'https://example.com:65536/',
  'https://example.com:-1/',
  'https://example.com:443:80/',
  'https://[::1/',
  'https://[::1]]/',
  'https://::1/',
  'https://127.0.0.1:443/',
  `https://example.com/${'a'.repeat(2048)}`,
]

test(`none of ${INNER_HOSTS.length} spellings of inner hosts may be fetched from`, () => {
  assert(INNER_HOSTS.length > 100)
  for (const host of INNER_HOSTS)
    for (const url of [`https://${host}/x.js`, `http://${host}/x.js`, `https://${host}:443/`, `https://example.com@${host}/`])
      assert.notEqual(refusedBy(url), undefined, url)
})

test(`none of ${INNER_URLS.length} misleading URLs may be fetched`, () => {
  for (const url of INNER_URLS) assert.notEqual(refusedBy(url), undefined, url)
})

test('a refusal names the rule', () => {
  const cases = {
    'http://example.com/': 'scheme',
    'ftp://example.com/': 'malformed',
    'https://127.0.0.1/': 'ip_literal',
    'https://0x7f.1/': 'ip_literal',
    'https://[::1]/': 'ip_literal',
    'https://redis/': 'inner_host',
    'https://a.localhost./': 'inner_host',
    'https://example.com:8443/': 'port',
    'https://u:p@example.com/': 'userinfo',
    'https://@example.com/': 'userinfo',
    'https://example.com\\x': 'malformed',
    [`https://example.com/${'a'.repeat(2048)}`]: 'too_long',
  }
  for (const [url, rule] of Object.entries(cases)) assert.equal(refusedBy(url), rule, url)
})

test('a public https URL is parsed once: canonical host, no fragment, no trailing dot', () => {
  const judged = judgeUrl('https://RAW.GitHubUserContent.com.:443/a/b.js?x=1@2#frag', NONE)
  assert('host' in judged)
  assert.deepEqual(
    { ...judged, url: judged.url.href },
    { url: 'https://raw.githubusercontent.com/a/b.js?x=1@2', host: 'raw.githubusercontent.com', port: 443, secure: true, allowed: false },
  )
  const unicode = judgeUrl('https://bücher.example.com/x', NONE)
  assert('host' in unicode && unicode.host === 'xn--bcher-kva.example.com')
  assert.equal(refusedBy('https://example.com/a b.js'), undefined)
  assert.equal(refusedBy('https://127.0.0.1.example.com/'), undefined, 'a name: its address is judged later')
})

test('a place on the list may be http, private and an IP literal, on its port only', () => {
  const allow = '127.0.0.1:9000, code.internal:443 [::1]:9001 localhost:80'
  for (const url of [
    'http://127.0.0.1:9000/x',
    'https://127.0.0.1:9000/x',
    'http://0x7f.1:9000/',
    'https://code.internal/',
    'https://CODE.internal.:443/',
    'http://code.internal:443/',
    'http://[0:0::1]:9001/',
    'http://localhost/',
    'http://localhost.:80/',
  ])
    assert.equal(refusedBy(url, allow), undefined, url)
  const refusals = {
    'http://127.0.0.1:9001/': 'scheme',
    'https://127.0.0.1/': 'ip_literal',
    'http://127.0.0.2:9000/': 'scheme',
    'https://localhost/': 'inner_host',
    'http://code.internal/': 'scheme',
    'https://x.code.internal/': 'inner_host',
    'http://[::ffff:127.0.0.1]:9000/': 'scheme',
    'http://u@127.0.0.1:9000/': 'userinfo',
    'http:\\\\127.0.0.1:9000/': 'malformed',
    [`http://127.0.0.1:9000/${'a'.repeat(2048)}`]: 'too_long',
  }
  for (const [url, rule] of Object.entries(refusals)) assert.equal(refusedBy(url, allow), rule, url)
})

test('the list is read whole or not at all, and every bad entry is quoted', () => {
  assert.deepEqual(parseAllowList(''), [])
  assert.deepEqual(parseAllowList(' , \n'), [])
  assert.deepEqual(parseAllowList('127.0.0.1:9000,code.internal:443'), [
    { host: '127.0.0.1', port: 9000 },
    { host: 'code.internal', port: 443 },
  ])
  assert.deepEqual(parseAllowList('[0::1]:80 CODE.Internal.:8080  0x7f.1:1'), [
    { host: '::1', port: 80 },
    { host: 'code.internal', port: 8080 },
    { host: '127.0.0.1', port: 1 },
  ])
  for (const bad of [
    'code.internal',
    ':443',
    'a:0',
    'a:65536',
    'a:x',
    'a:80/path',
    'http://a:80',
    'u@a:80',
    '*.internal:443',
    '::1:80',
    '[::1]',
    'a..b:80',
    'a:',
    '%61:80',
    'a?:80',
    'a#:80',
    'a\\b:80',
  ])
    assert.throws(
      () => parseAllowList(`ok.internal:443, ${bad}`),
      (error) => error instanceof TypeError && error.message.includes(JSON.stringify(bad)) && !error.message.includes('ok.internal'),
      bad,
    )
})
