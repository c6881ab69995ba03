import assert from 'node:assert/strict'
import type { IncomingMessage } from 'node:http'
import { test } from 'node:test'
import { allowOrigin, preflight } from '../../src/gateway/cors.ts'
import { staysOnHost } from '../../src/gateway/own-origin.ts'
import { parseTenantHost } from '../../src/gateway/tenant-host.ts'

const HOST = 'acme.run.example.com'
const stays = (name: string, value: string) => staysOnHost({ name, value }, HOST)

test('a cookie passes without a Domain, or with the very host', () => {
  for (const cookie of [
    'a=b',
    '',
    'a=b; Path=/; Secure; HttpOnly; SameSite=None; Partitioned',
    '__Host-a=b; Path=/; Secure',
    'domain=run.example.com',
    'a=b; Domain=acme.run.example.com',
    'a=b;DOMAIN=ACME.run.example.com',
    'a=b; \tdoMain \t=\t .acme.run.example.com \t; Path=/',
    'a=b; Path=/domain; X-Domain=run.example.com',
    'a=b; Domain=acme.run.example.com; Domain=.acme.run.example.com',
  ])
    assert.equal(stays('set-cookie', cookie), true, cookie)
})

test('a cookie with any other Domain, or a doubtful one, does not', () => {
  for (const cookie of [
    'a=b; Domain=run.example.com',
    'a=b; Domain=.run.example.com',
    'a=b; domain=example.com',
    'a=b; domain=com',
    'a=b; domain=other.run.example.com',
    'a=b; domain=x.acme.run.example.com',
    'a=b; Domain=acme.run.example.com.',
    'a=b; Domain=..acme.run.example.com',
    'a=b; Domain=acme.run.example.com:8080',
    'a=b; Domain="acme.run.example.com"',
    'a=b; Domain=acme.run.example.com,run.example.com',
    'a=b; Domain==acme.run.example.com',
    'a=b; Domain=\u00a0acme.run.example.com',
    'a=b; Domain=',
    'a=b; Domain',
    'a=b; Domain=.',
    'a=b; Domain=acme.run.example.com; Domain=run.example.com',
    'a=b; Domain=run.example.com; Domain=acme.run.example.com',
    `a=b; Domain=acme.run.example.com; Domain=${'x'.repeat(2000)}`,
    'a=b; Do\u00a0main=run.example.com',
    'a=b; \u0085Domain=run.example.com',
    'a="x; Domain=run.example.com"',
    ';Domain=run.example.com',
  ])
    assert.equal(stays('set-cookie', cookie), false, cookie)
})

test('site data is cleared of the origin alone: cookies belong to all hosts of a registrable domain', () => {
  for (const value of ['"cache"', '"storage" , "cache"', '"executionContexts"']) assert.equal(stays('clear-site-data', value), true, value)
  for (const value of ['"*"', '"cookies"', '"storage", "cookies"', '"cache", "*"', 'storage', '', '"cache",', '"storage:x"', '"Cookies"'])
    assert.equal(stays('clear-site-data', value), false, value)
})

test('policies of one host pass, what speaks for the connection or the certificate does not', () => {
  for (const name of ['service-worker-allowed', 'strict-transport-security', 'nel', 'report-to', 'reporting-endpoints'])
    assert.equal(stays(name, 'x'), true, name)
  for (const name of ['alt-svc', 'public-key-pins']) assert.equal(stays(name, 'x'), false, name)
})

test("at a tenant's host the platform lets no page of another origin read what came with cookies", () => {
  const host = parseTenantHost(HOST, 'run.example.com')
  const request = {
    method: 'OPTIONS',
    headers: { origin: 'https://evil.test', 'access-control-request-method': 'PUT' },
  } as unknown as IncomingMessage
  for (const headers of [allowOrigin('https://evil.test', host), preflight(request, host)!]) {
    assert.equal(headers['access-control-allow-origin'], '*')
    assert.equal(headers['access-control-allow-credentials'], undefined)
  }
  assert.equal(preflight(request)!['access-control-allow-origin'], 'https://evil.test')
})
