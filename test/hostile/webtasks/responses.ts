import type { WebtaskCase } from '../webtask-case.ts'

/** Code that writes bytes past Node's own response. */
const raw = (statements: string) => `module.exports = (ctx, req, res) => { const write = (text) => req.socket.write(text, 'latin1'); ${statements} }`
const WHOLE = `'HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nfirst'`
const INVALID: WebtaskCase['hears'] = ['response_invalid']
const ORIGIN_WIDE = [
  'set-cookie',
  'clear-site-data',
  'service-worker-allowed',
  'strict-transport-security',
  'alt-svc',
  'nel',
  'report-to',
  'reporting-endpoints',
  'public-key-pins',
]

/** Code whose answer is none, more than one, or somebody else's. */
export const RESPONSES: readonly WebtaskCase[] = [
  {
    name: 'calling back twice',
    code: 'module.exports = cb => { cb(null, "first"); cb(null, "second"); cb(new Error("third")) }',
    hears: [/^"first"$/],
  },
  {
    name: 'answering before the body was read',
    code: 'module.exports = (ctx, req, res) => { res.end("early") }',
    request: { method: 'POST', body: 'x'.repeat(200_000) },
    hears: [/^early$/],
  },
  {
    name: 'two answers in one',
    code: raw(`write(${WHOLE} + 'HTTP/1.1 200 OK\\r\\ncontent-length: 6\\r\\n\\r\\nsecond')`),
    hears: [/^first$/, ...INVALID],
  },
  {
    name: 'an answer to a request that has not come',
    code: raw(`write(${WHOLE}); setTimeout(() => write('HTTP/1.1 200 OK\\r\\ncontent-length: 6\\r\\n\\r\\nsecond'), 5)`),
    hears: [/^first$/, ...INVALID],
  },
  {
    name: 'answers on connections that are idle',
    code: `module.exports = cb => { for (const handle of process._getActiveHandles()) if (handle.write && handle.remoteAddress !== null) try { handle.write('HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\n\\r\\nevil') } catch {} setTimeout(cb, 50, null, 'done') }`,
    hears: [/done/, /evil/, ...INVALID, 'sandbox_crashed', 'cut'],
  },
  {
    name: 'a header without end',
    code: raw(
      `write('HTTP/1.1 200 OK\\r\\n'); const more = () => { while (write('x: ' + 'y'.repeat(1000) + '\\r\\n')); req.socket.once('drain', more) }; more()`,
    ),
    hears: INVALID,
  },
  {
    name: 'a hundred thousand headers',
    code: raw(`write('HTTP/1.1 200 OK\\r\\n' + Array.from({ length: 1e5 }, (_, i) => 'x' + i + ': 1\\r\\n').join('') + '\\r\\n')`),
    hears: INVALID,
  },
  { name: 'a status of no meaning', code: raw(`write('HTTP/1.1 099 Odd\\r\\n\\r\\n')`), hears: INVALID },
  { name: 'a status of four digits', code: raw(`write('HTTP/1.1 2000 OK\\r\\ncontent-length: 0\\r\\n\\r\\n')`), hears: INVALID },
  {
    name: 'a status text with lines in it',
    code: `module.exports = (ctx, req, res) => { res.statusMessage = 'OK\\r\\nset-cookie: a=b'; res.end('x') }`,
    hears: ['script_exception', 'sandbox_crashed'],
    without: ORIGIN_WIDE,
  },
  {
    name: 'a flood of interim answers',
    code: raw(
      `let n = 0; const more = () => { for (let i = 0; i < 1000; i++) write('HTTP/1.1 103 Early Hints\\r\\nlink: </x>\\r\\n\\r\\n'); if (++n < 300) setImmediate(more); else write(${WHOLE}) }; more()`,
    ),
    hears: [/^first$/, ...INVALID, 'invocation_timeout'],
  },
  {
    name: 'interim answers for ever',
    code: raw(`const more = () => { for (let i = 0; i < 100; i++) write('HTTP/1.1 102 Processing\\r\\n\\r\\n'); setTimeout(more, 1) }; more()`),
    hears: ['invocation_timeout', ...INVALID],
  },
  {
    name: 'switching protocols',
    code: raw(`write('HTTP/1.1 101 Switching Protocols\\r\\nconnection: upgrade\\r\\nupgrade: websocket\\r\\n\\r\\n')`),
    hears: INVALID,
  },
  {
    name: 'chunks of a size that is none',
    code: raw(`write('HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\nxyz\\r\\nfirst\\r\\n0\\r\\n\\r\\n')`),
    hears: [...INVALID, 'cut'],
  },
  {
    name: 'a chunk larger than any memory',
    code: raw(`write('HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\nfffffffffffffffff\\r\\nfirst\\r\\n0\\r\\n\\r\\n')`),
    hears: [...INVALID, 'cut'],
  },
  {
    name: 'chunk extensions without end',
    code: raw(
      `write('HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n5;'); const more = () => { while (write('x'.repeat(10000))); req.socket.once('drain', more) }; more()`,
    ),
    hears: [...INVALID, 'cut', 'invocation_timeout'],
  },
  {
    name: 'trailers',
    code: raw(
      `write('HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\ntrailer: set-cookie\\r\\n\\r\\n5\\r\\nfirst\\r\\n0\\r\\nset-cookie: a=b\\r\\nx-wt-outcome: ok\\r\\n\\r\\n')`,
    ),
    hears: [/^first$/, ...INVALID, 'cut'],
    without: ORIGIN_WIDE,
  },
  {
    name: 'a length and chunks',
    code: raw(`write('HTTP/1.1 200 OK\\r\\ncontent-length: 3\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n5\\r\\nfirst\\r\\n0\\r\\n\\r\\n')`),
    hears: INVALID,
  },
  { name: 'two lengths', code: raw(`write('HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\ncontent-length: 3\\r\\n\\r\\nfirst')`), hears: INVALID },
  { name: 'a length below zero', code: raw(`write('HTTP/1.1 200 OK\\r\\ncontent-length: -1\\r\\n\\r\\nfirst')`), hears: INVALID },
  {
    name: 'a length beyond all numbers',
    code: raw(`write('HTTP/1.1 200 OK\\r\\ncontent-length: 99999999999999999999999\\r\\n\\r\\nfirst')`),
    hears: [...INVALID, 'response_too_large', 'cut'],
  },
  { name: 'a length that is never reached', code: raw(`write('HTTP/1.1 200 OK\\r\\ncontent-length: 1000\\r\\n\\r\\nfirst')`), hears: ['cut'] },
  {
    name: 'an encoding of the transfer that nobody knows',
    code: raw(`write('HTTP/1.1 200 OK\\r\\ntransfer-encoding: gzip, chunked\\r\\n\\r\\n5\\r\\nfirst\\r\\n0\\r\\n\\r\\n')`),
    hears: [/^first$/, ...INVALID, 'cut'],
  },
  {
    name: 'bare line feeds',
    code: raw(`write('HTTP/1.1 200 OK\\ncontent-length: 5\\nset-cookie: a=b\\n\\nfirst')`),
    hears: INVALID,
    without: ORIGIN_WIDE,
  },
  {
    name: 'folded lines',
    code: raw(`write('HTTP/1.1 200 OK\\r\\nx-a: 1\\r\\n set-cookie: a=b\\r\\ncontent-length: 5\\r\\n\\r\\nfirst')`),
    hears: [/^first$/, ...INVALID],
    without: ORIGIN_WIDE,
  },
  {
    name: 'a carriage return within a value',
    code: raw(`write('HTTP/1.1 200 OK\\r\\nx-a: 1\\rset-cookie: a=b\\r\\ncontent-length: 5\\r\\n\\r\\nfirst')`),
    hears: INVALID,
    without: ORIGIN_WIDE,
  },
  { name: 'an answer of another protocol', code: raw(`write('SSH-2.0-OpenSSH_9.9\\r\\n')`), hears: INVALID },
  {
    name: 'an answer of HTTP/1.0 without a length',
    code: raw(`write('HTTP/1.0 200 OK\\r\\n\\r\\nfirst'); req.socket.end()`),
    hears: [/^first$/, ...INVALID, 'cut', 'sandbox_crashed'],
  },
  {
    name: 'a body without end',
    code: 'module.exports = (ctx, req, res) => { const more = () => { while (res.write("x".repeat(10000))); res.once("drain", more) }; more() }',
    hears: ['cut'],
  },
  {
    name: 'headers of the whole origin',
    code: `module.exports = (ctx, req, res) => { for (const name of ${JSON.stringify(ORIGIN_WIDE)}) { res.setHeader(name, 'a=b'); } res.setHeader('Set-Cookie', ['a=b; Domain=localhost', 'c=d']); res.end('first') }`,
    hears: [/^first$/],
    without: ORIGIN_WIDE,
  },
  {
    name: 'the headers of the platform, and those of one connection',
    code: `module.exports = (ctx, req, res) => { for (const name of ['x-wt-outcome', 'x-wt-invocation', 'x-wt-params', 'keep-alive', 'proxy-authenticate', 'upgrade']) res.setHeader(name, 'spoofed'); res.setHeader('connection', 'keep-alive, x-named'); res.setHeader('x-named', '1'); res.setHeader('x-request-id', ['1', '2']); res.end('first') }`,
    hears: [/^first$/],
    without: ['x-wt-outcome', 'x-wt-invocation', 'x-wt-params', 'proxy-authenticate', 'upgrade', 'x-named'],
  },
  {
    name: 'a web response with a stream that fails',
    code: 'export default { fetch() { return new Response(new ReadableStream({ pull(c) { c.enqueue(new TextEncoder().encode("half")); if (this.n = (this.n ?? 0) + 1, this.n > 3) c.error(new Error("broken")) } })) } }',
    hears: ['cut', 'sandbox_crashed'],
  },
  {
    name: 'refusing its own connections',
    code: `module.exports = (ctx, req, res) => { for (const handle of process._getActiveHandles()) if (handle.destroy) handle.destroy() }`,
    hears: ['sandbox_crashed', 'cut', 'invocation_timeout'],
  },
]
