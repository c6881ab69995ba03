import type { ExchangeCase } from '../exchange-case.ts'

/** A POST of these headers and this body. */
const post = (headers: string, body: string) => `POST $HELLO HTTP/1.1\r\nHost: x\r\n${headers}\r\n\r\n${body}`
const INNER = 'GET $SMUGGLED HTTP/1.1\r\nHost: x\r\n\r\n'
const REFUSED: ExchangeCase['hears'] = ['bad_request', 'closed']

/** Requests of which two parsers could read two different ones. */
export const SMUGGLING: readonly ExchangeCase[] = [
  { name: 'a length and chunks (CL.TE)', sent: post('Content-Length: 6\r\nTransfer-Encoding: chunked', `0\r\n\r\n${INNER}`), hears: REFUSED },
  {
    name: 'chunks and a length (TE.CL)',
    sent: post('Transfer-Encoding: chunked\r\nContent-Length: 4', `5c\r\n${INNER}\r\n0\r\n\r\n`),
    hears: REFUSED,
  },
  { name: 'two encodings (TE.TE)', sent: post('Transfer-Encoding: chunked\r\nTransfer-Encoding: x', `0\r\n\r\n${INNER}`), hears: REFUSED },
  { name: 'chunked, but not last', sent: post('Transfer-Encoding: chunked, identity', `0\r\n\r\n${INNER}`), hears: REFUSED },
  { name: 'an encoding spelled xchunked', sent: post('Transfer-Encoding: xchunked\r\nContent-Length: 5', `0\r\n\r\n${INNER}`), hears: REFUSED },
  { name: 'an encoding with a vertical tab', sent: post('Transfer-Encoding: \x0bchunked', `0\r\n\r\n${INNER}`), hears: REFUSED },
  {
    name: 'an encoding whose name ends in a space',
    sent: post('Transfer-Encoding : chunked\r\nContent-Length: 5', `0\r\n\r\n${INNER}`),
    hears: REFUSED,
  },
  {
    name: 'an encoding after a bare line feed',
    sent: post('X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5', `0\r\n\r\n${INNER}`),
    hears: REFUSED,
  },
  { name: 'two lengths', sent: post('Content-Length: 0\r\nContent-Length: 46', INNER), hears: REFUSED },
  { name: 'a list of lengths', sent: post('Content-Length: 0, 46', INNER), hears: REFUSED },
  { name: 'a length with a sign', sent: post('Content-Length: +0', INNER), hears: REFUSED },
  { name: 'a length below zero', sent: post('Content-Length: -1', INNER), hears: REFUSED },
  { name: 'a length in hex', sent: post('Content-Length: 0x2e', INNER), hears: REFUSED },
  { name: 'a length beyond all numbers', sent: post('Content-Length: 99999999999999999999', INNER), hears: REFUSED },
  { name: 'a length with a space in it', sent: post('Content-Length: 1 0', INNER), hears: REFUSED },
  { name: 'a folded line', sent: post('X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0', ''), hears: [/hello/, ...REFUSED] },
  { name: 'a folded length', sent: post('Content-Length:\r\n 5', `0\r\n\r\n${INNER}`), hears: REFUSED, most: 1 },
  { name: 'bare line feeds', sent: 'GET $HELLO HTTP/1.1\nHost: x\n\nGET $SMUGGLED HTTP/1.1\nHost: x\n\n', hears: REFUSED },
  { name: 'a bare carriage return', sent: 'GET $HELLO HTTP/1.1\r\nHost: x\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n', hears: REFUSED },
  { name: 'a chunk size beyond all numbers', sent: post('Transfer-Encoding: chunked', `fffffffffffffffff\r\n${INNER}`), hears: REFUSED },
  { name: 'a chunk size below zero', sent: post('Transfer-Encoding: chunked', `-1\r\n${INNER}0\r\n\r\n`), hears: REFUSED },
  { name: 'a chunk size with 0x', sent: post('Transfer-Encoding: chunked', `0x5\r\nhello\r\n0\r\n\r\n${INNER}`), hears: REFUSED },
  { name: 'a chunk that is longer than it says', sent: post('Transfer-Encoding: chunked', `1\r\nhello\r\n0\r\n\r\n${INNER}`), hears: REFUSED },
  { name: 'a chunk that ends in a line feed alone', sent: post('Transfer-Encoding: chunked', `5\r\nhello\n0\r\n\r\n${INNER}`), hears: REFUSED },
  { name: 'a chunk extension with a line feed', sent: post('Transfer-Encoding: chunked', `0;a\n\r\n${INNER}`), hears: REFUSED },
  {
    name: 'chunk extensions without end',
    sent: post('Transfer-Encoding: chunked', `5;${'x'.repeat(200_000)}\r\nhello\r\n0\r\n\r\n`),
    hears: ['bad_request', 'body_too_large', 'header_too_large', 'closed', 413],
  },
  {
    name: 'trailers that set a length',
    sent: post('Transfer-Encoding: chunked\r\nTrailer: Content-Length', '0\r\nContent-Length: 46\r\nHost: y\r\n\r\n'),
    hears: [/hello/, ...REFUSED],
  },
  {
    name: 'trailers without end',
    sent: post('Transfer-Encoding: chunked', `0\r\n${'X: y\r\n'.repeat(20_000)}\r\n`),
    hears: ['header_too_large', 'bad_request', 'closed', /hello/],
  },
  { name: 'a body to a GET that is a request', sent: `GET $HELLO HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello`, hears: [/hello/] },
  { name: 'a body to a HEAD', sent: `HEAD $ECHO HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello`, hears: [200, 'bad_request'], bodiless: true },
  {
    name: 'chunks to a GET',
    sent: `GET $ECHO HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`,
    hears: [/"method"/, 'bad_request'],
  },
  { name: 'a length of many zeros', sent: post('Content-Length: 0000', ''), hears: [/hello/, 'bad_request'] },
  {
    name: 'Connection that names a length',
    sent: `POST $ECHO HTTP/1.1\r\nHost: x\r\nConnection: content-length, x-wt-invocation\r\nContent-Length: 5\r\n\r\nhello`,
    hears: [/"method"/, ...REFUSED],
  },
  {
    name: 'a header of the platform, in all spellings',
    sent: `GET $ECHO HTTP/1.1\r\nHost: x\r\nx-wt-invocation: e30\r\nX-WT-Invocation: e30\r\nX-Wt-Params: e30\r\nx_wt_invocation: e30\r\n\r\n`,
    hears: [/^(?!.*e30".*x-wt)(?!.*"x-wt-)/i],
  },
]
