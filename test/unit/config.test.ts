import assert from 'node:assert/strict'
import { test } from 'node:test'
import { describeSettings, parseConfig } from '../../src/config.ts'

test('no settings at all is a working configuration', () => {
  const config = parseConfig({})
  assert.equal(config.WEBTASK_PORT, 8080)
  assert.equal(config.WEBTASK_ADMIN_PORT, 8081)
  assert.equal(config.WEBTASK_RUNTIME, 'runc')
  assert.equal(config.REDIS_URL, undefined)
})

test('an unknown WEBTASK_ setting and every bad value are listed in one message', () => {
  assert.throws(
    () => parseConfig({ WEBTASK_PROT: '80', WEBTASK_PORT: '80a', WEBTASK_RUNTIME: 'podman', REDIS_URL: 'http://x', WEBTASK_SANDBOXES_MAX: '0' }),
    (error: Error) => {
      for (const part of [
        '5 problem',
        'WEBTASK_PROT: no such setting',
        'WEBTASK_PORT: must be a whole number (got "80a")',
        'WEBTASK_RUNTIME',
        'REDIS_URL: must start with',
        'WEBTASK_SANDBOXES_MAX: must be between 1 and 10000',
      ]) {
        assert.ok(error.message.includes(part), `${part} is missing in:\n${error.message}`)
      }
      return true
    },
  )
})

test('settings of other programs are none of ours, and an empty value is no value', () => {
  const config = parseConfig({ PATH: '/bin', PORT: '1', WEBTASK_PORT: '' })
  assert.equal(config.WEBTASK_PORT, 8080)
})

test('limits that cannot hold together are refused', () => {
  assert.throws(
    () => parseConfig({ WEBTASK_SANDBOX_MEMORY_MIB: '128', WEBTASK_WORKERS_MAX: '12' }),
    /12 loaded webtasks \(WEBTASK_WORKERS_MAX\) need at least/,
  )
  assert.throws(() => parseConfig({ WEBTASK_WORKER_HEAP_MIB: '4096' }), /must not be over WEBTASK_SANDBOX_MEMORY_MIB/)
})

test('a domain is a DNS name in lower case, and the public URL stays outside of what it leaves to tenants', () => {
  assert.equal(parseConfig({ WEBTASK_DOMAIN: 'Run.Example.com' }).WEBTASK_DOMAIN, 'run.example.com')
  assert.equal(parseConfig({ WEBTASK_DOMAIN: 'localhost' }).WEBTASK_DOMAIN, 'localhost')
  assert.equal(parseConfig({ WEBTASK_DOMAIN: '7.a1', WEBTASK_PUBLIC_URL: 'https://7.a1' }).WEBTASK_DOMAIN, '7.a1')
  const labels = (length: number) => `${'a'.repeat(62)}.${'a'.repeat(62)}.${'a'.repeat(length - 126)}`
  assert.equal(parseConfig({ WEBTASK_DOMAIN: labels(189) }).WEBTASK_DOMAIN, labels(189))
  for (const bad of [
    '.example.com',
    'example.com.',
    '*.example.com',
    'example.com:80',
    'https://example.com',
    'a_b.com',
    '-a.com',
    'a..b',
    '10.0.0.1',
    '[::1]',
    'ä.de',
    'a b',
    `${'a'.repeat(64)}.com`,
    labels(189).replace('.', '.a.'),
  ])
    assert.throws(() => parseConfig({ WEBTASK_DOMAIN: bad }), /WEBTASK_DOMAIN: must be a DNS name/, bad)
  for (const url of ['https://api.run.example.com', 'http://A.B.RUN.example.com:8080/x'])
    assert.throws(
      () => parseConfig({ WEBTASK_DOMAIN: 'run.example.com', WEBTASK_PUBLIC_URL: url }),
      /WEBTASK_PUBLIC_URL: must not be below WEBTASK_DOMAIN/,
    )
})

test('every setting says what it means', () => {
  for (const { name, means } of describeSettings()) assert.ok(means.length > 10, `${name} has no description`)
})

test('the configuration cannot be changed afterwards', () => {
  const config = parseConfig({}) as { WEBTASK_PORT: number }
  assert.throws(() => (config.WEBTASK_PORT = 1), TypeError)
})
