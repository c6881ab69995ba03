import assert from 'node:assert/strict'
import { test } from 'node:test'
import { requestHeaders, responseHeaders } from '../../src/gateway/headers.ts'

test('what belongs to one connection, to the platform or to the shared origin does not reach the webtask', () => {
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
  assert.deepEqual(requestHeaders(raw, new Set()), ['Host', 'h', 'Authorization', 'Bearer t', 'X-Own', 'kept'])
  assert.deepEqual(requestHeaders(raw, new Set(['authorization'])), ['Host', 'h', 'X-Own', 'kept'])
})

test('a webtask sets no cookie and no origin-wide policy, and repeated headers stay repeated', () => {
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
  const { headers, outcome, allowsOrigin } = responseHeaders(raw, 'x-wt-outcome')
  assert.deepEqual(headers, ['Link', '<a>', 'Link', '<b>'])
  assert.equal(outcome, 'script_error')
  assert.equal(allowsOrigin, false)
})
