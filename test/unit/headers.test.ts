import assert from 'node:assert/strict'
import { test } from 'node:test'
import { requestHeaders, responseHeaders } from '../../src/gateway/headers.ts'

test('what belongs to one connection or to the platform does not reach the webtask, nor what is not for it', () => {
  const raw = [
    'Host',
    'h',
    'Connection',
    'keep-alive, X-Hop',
    'X-Hop',
    '1',
    'Cookie',
    'a=b',
    'X-WT-Params',
    'evil',
    'Transfer-Encoding',
    'chunked',
    'Authorization',
    'Bearer t',
    'X-Own',
    'kept',
  ]
  assert.deepEqual(requestHeaders(raw, new Set()), ['Host', 'h', 'Cookie', 'a=b', 'Authorization', 'Bearer t', 'X-Own', 'kept'])
  assert.deepEqual(requestHeaders(raw, new Set(['cookie', 'authorization'])), ['Host', 'h', 'X-Own', 'kept'])
})

test('on the shared origin a webtask sets no cookie and no origin-wide policy, and repeated headers stay repeated', () => {
  const raw = [
    'Set-Cookie',
    'a=b',
    'Link',
    '<a>',
    'Link',
    '<b>',
    'Clear-Site-Data',
    '"*"',
    'Service-Worker-Allowed',
    '/',
    'X-WT-Outcome',
    'script_error',
    'X-Wt-Else',
    '1',
    'Connection',
    'close',
  ].map((text) => Buffer.from(text))
  const { headers, outcome, allowsOrigin } = responseHeaders(raw, undefined)
  assert.deepEqual(headers, ['Link', '<a>', 'Link', '<b>'])
  assert.equal(outcome, 'script_error')
  assert.equal(allowsOrigin, false)
})

test("at a tenant's own host what stays there passes, each header judged alone, and all else is as everywhere", () => {
  const given = [
    ['Set-Cookie', 'a=b'],
    ['Set-Cookie', 'c=d; Domain=run.example.com'],
    ['Set-Cookie', 'e=f; Domain=acme.run.example.com'],
    ['Service-Worker-Allowed', '/'],
    ['Strict-Transport-Security', 'max-age=1; includeSubDomains'],
    ['Clear-Site-Data', '"storage"'],
    ['Clear-Site-Data', '"cookies"'],
    ['Alt-Svc', 'h3=":444"'],
    ['Connection', 'X-Hop'],
    ['X-Hop', '1'],
    ['X-WT-Else', '1'],
    ['X-Request-Id', 'mine'],
    ['Transfer-Encoding', 'chunked'],
  ]
  const { headers } = responseHeaders(given.flat(), 'acme.run.example.com')
  assert.deepEqual(headers, [...given[0]!, ...given[2]!, ...given[3]!, ...given[4]!, ...given[5]!])
})
