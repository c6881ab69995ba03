import type { ExchangeCase } from '../exchange-case.ts'

const get = (headers: string, target = '$ECHO') => `GET ${target} HTTP/1.1\r\nHost: x\r\n${headers}\r\n\r\n`
const ECHOED = /"method"/
const NO: ExchangeCase['hears'] = ['bad_request', 'closed']

/** Headers: too many, too long, or with a meaning that was not meant. */
export const HEADERS: readonly ExchangeCase[] = [
  {
    name: 'ten thousand headers',
    sent: get(Array.from({ length: 10_000 }, (_, i) => `x${i}: y`).join('\r\n')),
    hears: ['header_too_large', 'closed'],
  },
  {
    name: 'a thousand headers without a value',
    sent: get(Array.from({ length: 1_000 }, () => 'a:').join('\r\n')),
    hears: ['header_too_large', ECHOED, ...NO],
  },
  { name: 'one header of a megabyte', sent: get(`x: ${'y'.repeat(2 ** 20)}`), hears: ['header_too_large', 'closed'] },
  { name: 'a header without a name', sent: get(': x'), hears: NO },
  { name: 'a header without a colon', sent: get('nonsense'), hears: NO },
  { name: 'a name with a space', sent: get('x y: z'), hears: NO },
  { name: 'NUL in a value', sent: get('x: a\x00b'), hears: NO },
  { name: '__proto__ and its friends', sent: get('__proto__: x\r\nconstructor: y\r\nhasOwnProperty: z\r\ntoString: 1'), hears: [ECHOED] },
  {
    name: 'an expectation that nobody meets',
    sent: `POST $ECHO HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\nContent-Length: 5\r\n\r\nhello`,
    hears: NO,
  },
  {
    name: 'an expectation whose body never comes',
    sent: `POST $ECHO HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n`,
    hears: [ECHOED, 'invocation_timeout', ...NO],
  },
  {
    name: 'a switch to web sockets',
    sent: get('Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='),
    hears: [ECHOED, ...NO],
  },
  {
    name: 'a switch to HTTP/2',
    sent: get('Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__'),
    hears: [ECHOED, ...NO],
  },
  {
    name: 'ranges without end',
    sent: get(`Range: bytes=${Array.from({ length: 1000 }, (_, i) => `${i}-`).join(',')}`),
    hears: [ECHOED, 'header_too_large'],
  },
  {
    name: 'conditions of all kinds',
    sent: get('If-Match: "x"\r\nIf-None-Match: *\r\nIf-Range: x\r\nIf-Modified-Since: never\r\nIf-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT'),
    hears: [ECHOED, 304, 412],
  },
  {
    name: 'a body that says it is compressed',
    sent: `POST $HELLO HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\x00\x00`,
    hears: [/hello/, ...NO],
  },
  {
    name: 'a type that is none',
    sent: `POST $HELLO HTTP/1.1\r\nHost: x\r\nContent-Type: ;;;=,,\x80/\r\nContent-Length: 2\r\n\r\n{}`,
    hears: [/hello/, ...NO],
  },
  {
    name: 'forwarding headers that lie',
    sent: get(
      'X-Forwarded-Proto: javascript\r\nX-Forwarded-Host: evil\r\nForwarded: for="_x;proto=gopher"\r\nX-Original-URL: $VICTIM\r\nX-Rewrite-URL: $VICTIM\r\nX-HTTP-Method-Override: DELETE',
    ),
    hears: [ECHOED],
  },
  { name: 'cookies', sent: get('Cookie: a=b; session=victim'), hears: [/^(?!.*cookie)/i] },
  { name: 'the origin null', sent: get('Origin: null'), hears: [ECHOED] },
  { name: 'an origin with more lines', sent: get('Origin: https://a\r\n\tb: c\r\nX: y'), hears: [ECHOED, ...NO] },
  {
    name: 'an origin with characters of no header',
    sent: get('Origin: https://\xff\xfe\x80', '/api/run/nobody/nothing'),
    hears: ['not_found', ...NO],
  },
  {
    name: 'a preflight with odd wishes',
    sent: `OPTIONS $ECHO HTTP/1.1\r\nHost: x\r\nOrigin: https://\xe9\r\nAccess-Control-Request-Method: FROB\xff\r\nAccess-Control-Request-Headers: ${'a,'.repeat(3000)}\r\n\r\n`,
    hears: [204, ...NO],
  },
  {
    name: 'a preflight whose wish is a tab',
    sent: `OPTIONS $ECHO HTTP/1.1\r\nHost: x\r\nOrigin: a\r\nAccess-Control-Request-Method: \t\r\n\r\n`,
    hears: [204, ECHOED, ...NO],
  },
]
