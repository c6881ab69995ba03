import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseTenantHost } from '../../src/gateway/tenant-host.ts'

const DOMAIN = 'run.example.com'
const tenantOf = (host: string) => {
  const found = parseTenantHost(host, DOMAIN)
  return found === undefined ? 'shared' : (found.tenant ?? 'nobody')
}

test('one label before the domain is a tenant, whatever port, case and trailing dot', () => {
  for (const host of [
    'acme.run.example.com',
    'acme.run.example.com:8080',
    'ACME.Run.Example.COM:',
    'acme.run.example.com.',
    'acme.run.example.com..:1',
  ])
    assert.deepEqual(parseTenantHost(host, DOMAIN), { name: 'acme.run.example.com', tenant: 'acme' }, host)
  assert.deepEqual(
    ['a', '7', 'a--b', 'xn--bcher-kva', 'a'.repeat(63)].map((label) => tenantOf(`${label}.${DOMAIN}`)),
    ['a', '7', 'a--b', 'xn--bcher-kva', 'a'.repeat(63)],
  )
})

test('the domain itself, and every host that is not below it, is the shared origin', () => {
  for (const host of [
    '',
    ':',
    '.',
    'run.example.com',
    'RUN.example.com:80',
    'run.example.com.',
    'example.com',
    'acmerun.example.com',
    'acme.run.example.com.evil.test',
    'acme.run.example.org',
    'acme.run.example.com:80:80',
    'acme.run.example.com:http',
    'acme.run.example.com, x',
    '127.0.0.1:8080',
    '[::1]:8080',
    '[::1]',
    '[acme.run.example.com]',
  ])
    assert.equal(tenantOf(host), 'shared', host)
})

test("what is below the domain and no tenant's host is nobody's, and never the shared origin", () => {
  for (const label of [
    '',
    '.',
    '..',
    'a.b',
    '.a',
    'a.',
    '*',
    'a_b',
    '-a',
    'a-',
    'a@b',
    'x@acme',
    'http://acme',
    'a/b',
    'a b',
    '%61',
    'a\t',
    '[',
    '[::1]',
    'ä',
    'a'.repeat(64),
    'a$b',
    '~',
  ])
    assert.equal(tenantOf(`${label}.${DOMAIN}`), 'nobody', label)
})

test('a Host of dots alone is read in no time', () => {
  const began = performance.now()
  for (const host of [`${'.'.repeat(16_000)}x`, `x${'.'.repeat(16_000)}`, `${':'.repeat(16_000)}x`]) assert.equal(tenantOf(host), 'shared')
  assert.ok(performance.now() - began < 100)
})
