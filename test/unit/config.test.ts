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

test('every setting says what it means', () => {
  for (const { name, means } of describeSettings()) assert.ok(means.length > 10, `${name} has no description`)
})

test('the configuration cannot be changed afterwards', () => {
  const config = parseConfig({}) as { WEBTASK_PORT: number }
  assert.throws(() => (config.WEBTASK_PORT = 1), TypeError)
})
