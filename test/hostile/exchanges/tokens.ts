import type { ExchangeCase } from '../exchange-case.ts'

const ask = (headers: string, target = '$RUN') =>
  `POST ${target} HTTP/1.1\r\nHost: x\r\n${headers === '' ? '' : `${headers}\r\n`}Content-Length: 34\r\n\r\nmodule.exports = cb => cb(null, 7)`
const NO: ExchangeCase['hears'] = ['token_missing', 'token_invalid', 'bad_request', 'forbidden', 'closed']

/** Tokens at the wrong place, in the wrong words, for the wrong tenant. */
export const TOKENS: readonly ExchangeCase[] = [
  { name: 'no token', sent: ask(''), hears: NO },
  { name: 'a scheme that is another', sent: ask('Authorization: Basic $TOKEN'), hears: NO },
  { name: 'a token without a scheme', sent: ask('Authorization: $TOKEN'), hears: NO },
  { name: 'a scheme that begins like ours', sent: ask('Authorization: BearerX $TOKEN'), hears: NO },
  { name: 'a tab after the scheme', sent: ask('Authorization: Bearer\t$TOKEN'), hears: NO },
  { name: 'two tokens in one header', sent: ask('Authorization: Bearer $TOKEN, Bearer $TOKEN'), hears: NO },
  { name: 'a good header after a bad one', sent: ask('Authorization: Bearer x\r\nAuthorization: Bearer $TOKEN'), hears: NO },
  { name: 'a token in a cookie', sent: ask('Cookie: token=$TOKEN; Authorization=Bearer $TOKEN'), hears: NO },
  {
    name: 'a token in the headers of proxies',
    sent: ask('Proxy-Authorization: Bearer $TOKEN\r\nX-Authorization: Bearer $TOKEN\r\nX-Webtask-Token: $TOKEN'),
    hears: NO,
  },
  { name: 'a token in the path', sent: ask('', '$RUN;key=$TOKEN'), hears: [...NO, 'not_found'] },
  { name: 'a token in the fragment', sent: ask('', '$RUN#?key=$TOKEN'), hears: [...NO, 'not_found', /^7$/] },
  { name: 'a token under an encoded name', sent: ask('', '$RUN?%6bey=$TOKEN'), hears: [/^7$/, ...NO] },
  { name: 'two keys, the first bad', sent: ask('', '$RUN?key=x&key=$TOKEN'), hears: NO },
  { name: 'a token with a byte more', sent: ask('Authorization: Bearer $TOKENA'), hears: NO },
  { name: 'a token with spaces around', sent: ask('Authorization: Bearer   $TOKEN  '), hears: [/^7$/, ...NO] },
  { name: 'a token for another tenant', sent: ask('Authorization: Bearer $TOKEN', '/api/run/victim'), hears: ['forbidden'] },
  {
    name: 'a token for another tenant by an absolute target',
    sent: ask('Authorization: Bearer $TOKEN', 'http://x/api/run/victim'),
    hears: ['forbidden'],
  },
  {
    name: 'a token that says that it has no signature',
    sent: ask('Authorization: Bearer eyJhbGciOiJub25lIiwidHlwIjoid3Qrand0In0.eyJ0ZW4iOiJ2aWN0aW0ifQ.', '/api/run/victim'),
    hears: ['token_invalid'],
  },
  { name: 'a token of dots', sent: ask(`Authorization: Bearer ${'.'.repeat(8000)}`), hears: ['token_invalid'] },
  {
    name: 'widening the own token',
    sent: 'POST /api/tokens/issue HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $TOKEN\r\nContent-Length: 16\r\n\r\n{"ten":"victim"}',
    hears: NO,
  },
  {
    name: 'revoking a token that is not its own',
    sent: 'POST /api/tokens/revoke?token=eyJh.eyJh.AAAA HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $TOKEN\r\nContent-Length: 0\r\n\r\n',
    hears: NO,
  },
]
