import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WebtaskError } from '../../src/errors.ts'
import { parseHostPath, parseRunPath, withoutKey } from '../../src/gateway/run-path.ts'
import { parseTenantHost } from '../../src/gateway/tenant-host.ts'

test('a path names the container, the webtask, and the part that leads to it', () => {
  const path = parseRunPath('/api/run/acme/greet/sub/x?q=1')
  assert.deepEqual([path.tenant, path.name, path.base], ['acme', 'greet', '/api/run/acme/greet'])
  assert.deepEqual([parseRunPath('/api/run/acme').name, parseRunPath('/api/run/acme/').name], [undefined, undefined])
  assert.equal(parseRunPath('/api/run/a%40b/x').tenant, 'a@b')
})

test('names that are none are refused, whatever their disguise', () => {
  for (const url of [
    '/api/run/..',
    '/api/run/%2e%2e',
    '/api/run/a%2Fb',
    '/api/run/a%00',
    '/api/run/%',
    '/api/run/',
    '/api/run/__proto__',
    '/api/run/acme/%2e%2e',
    '/api/run/acme/a%0d%0ab',
    `/api/run/${'a'.repeat(129)}`,
    '/api/run/a/__proto__',
  ]) {
    assert.throws(
      () => parseRunPath(url),
      (error: WebtaskError) => error.code === 'bad_request',
      url,
    )
  }
})

test('the platform reads its own query parameters and no others', () => {
  const { query } = parseRunPath(
    '/api/run/acme?key=t&webtask_url=https%3A%2F%2Fx&webtask_no_cache=1&webtask_pb=1&webtask_mb=0&webtask_share_token&a=b',
  )
  assert.deepEqual(query, { key: 't', codeUrl: 'https://x', noCache: true, shareToken: true, parseBody: 1, mergeBody: false })
  assert.equal(parseRunPath('/api/run/acme?k%65y=t').query.key, 't')
})

test('the code never sees the key that authorized it, however it is spelled', () => {
  assert.equal(withoutKey('/api/run/acme?key=secret'), '/api/run/acme')
  assert.equal(withoutKey('/api/run/acme?a=1&key=secret&b=%20&key=again'), '/api/run/acme?a=1&b=%20')
  assert.equal(withoutKey('/api/run/acme?k%65y=secret&monkey=1'), '/api/run/acme?monkey=1')
  assert.equal(withoutKey('/api/run/acme'), '/api/run/acme')
})

test("at a tenant's host the path names the webtask alone", () => {
  const host = parseTenantHost('Acme.run.example.com:8080', 'run.example.com')!
  const path = parseHostPath('/greet/sub/x?webtask_pb=1', host)
  assert.deepEqual([path.tenant, path.name, path.base, path.host, path.query.parseBody], ['acme', 'greet', '/greet', 'acme.run.example.com', 1])
  assert.deepEqual([parseHostPath('/gr%65et', host).name, parseHostPath('/gr%65et', host).base], ['greet', '/gr%65et'])
  assert.deepEqual([parseHostPath('/api/run/other/x', host).tenant, parseHostPath('/api/run/other/x', host).name], ['acme', 'api'])
  const codes = ['/', '/?key=t', '/..', '/%2e%2e/api', '/a%2Fb', '/%', '/__proto__', '/*'].map((url) => {
    try {
      return parseHostPath(url, host).name
    } catch (error) {
      return (error as WebtaskError).code
    }
  })
  assert.deepEqual(codes, ['not_found', 'not_found', ...Array(6).fill('bad_request')])
  assert.throws(
    () => parseHostPath('/greet', parseTenantHost('a.b.run.example.com', 'run.example.com')!),
    (error: WebtaskError) => error.code === 'not_found' && error.message.includes('a.b.run.example.com'),
  )
})
