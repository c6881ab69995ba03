import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { RequestListener } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import test from 'node:test'
import type { TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { dialTcp } from '../../src/egress/dial.ts'
import { createCodeFetcher } from '../../src/egress/fetch-code.ts'
import type { CodeRequest, FetchCode } from '../../src/egress/fetch-code.ts'
import type { FetchLimits } from '../../src/egress/limits.ts'
import { WebtaskError } from '../../src/errors.ts'

type Host = {
  url: string
  port: number
  fetch: FetchCode
  requests: { path: string | undefined; headers: Record<string, unknown> }[]
  dialled: string[]
}

/** A code host on loopback and a fetcher whose operator allows it (and the ports in `also`). */
async function codeHost(t: TestContext, listener: RequestListener, options: { limits?: Partial<FetchLimits>; also?: number[] } = {}): Promise<Host> {
  const requests: Host['requests'] = []
  const server = createServer((request, response) => {
    requests.push({ path: request.url, headers: request.headers })
    listener(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port, requests, ...fetcher([port, ...(options.also ?? [])], options.limits) }
}

/** A code host that speaks bytes. */
async function rawHost(t: TestContext, speak: (socket: Socket) => void, limits?: Partial<FetchLimits>) {
  const server = createTcpServer((socket) => {
    socket.on('error', () => {})
    t.after(() => socket.destroy())
    socket.once('data', () => speak(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}/x.js`, port, ...fetcher([port], limits) }
}

function fetcher(ports: number[], limits: Partial<FetchLimits> = {}) {
  const dialled: string[] = []
  const fetch = createCodeFetcher({
    rules: { allow: ports.map((port) => ({ host: '127.0.0.1', port })) },
    limits,
    resolve: async () => [],
    dial(address, port, signal) {
      dialled.push(`${address}:${port}`)
      return dialTcp(address, port, signal)
    },
  })
  return { fetch, dialled }
}

async function failureOf(fetch: FetchCode, request: CodeRequest): Promise<WebtaskError> {
  try {
    await fetch(request)
  } catch (error) {
    assert(error instanceof WebtaskError, String(error))
    return error
  }
  assert.fail('fetched')
}

async function assertUnavailable(fetch: FetchCode, request: CodeRequest, expected: { says: RegExp; again: boolean }): Promise<void> {
  const failure = await failureOf(fetch, request)
  assert.equal(failure.code, 'code_unavailable')
  assert.match(failure.message, expected.says)
  assert.equal(failure.retryAfterSeconds !== undefined, expected.again, failure.message)
}

const CODE = 'module.exports = (cb) => cb(null, "grüß dich")\n'

test('code comes back byte for byte with its hash and ETag', async (t) => {
  const host = await codeHost(t, (_, response) =>
    response.setHeader('etag', 'W/"v1"').setHeader('content-type', 'text/plain; charset=utf-8').end(CODE),
  )
  const fetched = await host.fetch({ url: `${host.url}/a/b.js?c=1%202#frag` })
  assert.deepEqual(fetched, { status: 'fetched', code: CODE, etag: 'W/"v1"', sha256: createHash('sha256').update(CODE).digest('hex') })
  assert.equal(host.requests[0]?.path, '/a/b.js?c=1%202')
})

test('the request says who asks, wants no encoding and carries nothing else, whatever the environment holds', async (t) => {
  const host = await codeHost(t, (_, response) => response.end(CODE))
  process.env['HTTP_PROXY'] = process.env['http_proxy'] = 'http://127.0.0.1:1'
  t.after(() => {
    delete process.env['HTTP_PROXY']
    delete process.env['http_proxy']
  })
  await host.fetch({ url: host.url })
  assert.deepEqual(host.requests[0]?.headers, {
    host: `127.0.0.1:${host.port}`,
    connection: 'keep-alive',
    accept: '*/*',
    'accept-encoding': 'identity',
    'user-agent': 'webtask-runtime',
  })
})

test('an ETag is sent back, and 304 means unchanged; changed code comes whole', async (t) => {
  let version = 1
  const host = await codeHost(t, (request, response) => {
    if (request.headers['if-none-match'] === `"v${version}"`) response.writeHead(304).end()
    else response.setHeader('etag', `"v${version}"`).end(`// ${version}`)
  })
  const first = await host.fetch({ url: host.url })
  assert(first.status === 'fetched' && first.etag === '"v1"')
  assert.deepEqual(await host.fetch({ url: host.url, etag: first.etag }), { status: 'unchanged' })
  version = 2
  const second = await host.fetch({ url: host.url, etag: first.etag })
  assert(second.status === 'fetched' && second.code === '// 2' && second.etag === '"v2"')
  assert.deepEqual(
    host.requests.map(({ headers }) => headers['if-none-match']),
    [undefined, '"v1"', '"v1"'],
  )
})

test('304 to an unconditional request is no answer', async (t) => {
  const host = await codeHost(t, (_, response) => response.writeHead(304).end())
  await assertUnavailable(host.fetch, { url: host.url }, { says: /status 304/, again: false })
})

test('an ETag that could not be sent back is dropped', async (t) => {
  const host = await codeHost(t, (_, response) => response.setHeader('etag', `"${'x'.repeat(300)}"`).end(CODE))
  const fetched = await host.fetch({ url: host.url })
  assert(fetched.status === 'fetched' && fetched.etag === null)
})

test('a host that refuses the connection is named, its address is not', async (t) => {
  const host = await codeHost(t, (_, response) => response.end())
  const closed = createTcpServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const { port } = closed.address() as AddressInfo
  closed.close()
  await once(closed, 'close')
  const { fetch } = fetcher([port])
  await assertUnavailable(
    fetch,
    { url: `http://127.0.0.1:${port}/secret-path?key=1` },
    { says: /^Cannot fetch code from "127\.0\.0\.1": it refused the connection$/, again: true },
  )
  assert.equal(host.requests.length, 0)
})

for (const status of [404, 403, 410, 201, 204, 206])
  test(`status ${status} is a lasting failure`, async (t) => {
    const host = await codeHost(t, (_, response) => response.writeHead(status).end(status === 204 ? undefined : CODE))
    await assertUnavailable(host.fetch, { url: host.url }, { says: new RegExp(`status ${status}`), again: false })
  })

for (const status of [500, 503, 429, 408])
  test(`status ${status} may pass`, async (t) => {
    const host = await codeHost(t, (_, response) => response.writeHead(status).end(CODE))
    await assertUnavailable(host.fetch, { url: host.url }, { says: new RegExp(`status ${status}`), again: true })
  })

test('a host that accepts and says nothing is given up after the first-byte limit', async (t) => {
  const host = await rawHost(t, () => {}, { firstByteMs: 100 })
  await assertUnavailable(host.fetch, { url: host.url }, { says: /did not begin to answer within 100 ms/, again: true })
})

test('a header that drips is given up after the first-byte limit', async (t) => {
  const host = await rawHost(
    t,
    (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nx: ')
      const drip = setInterval(() => socket.write('x'), 10)
      socket.once('close', () => clearInterval(drip))
    },
    { firstByteMs: 150 },
  )
  await assertUnavailable(host.fetch, { url: host.url }, { says: /did not begin to answer/, again: true })
})

test('a body that drips is given up after the total limit, and its connection is closed', async (t) => {
  const closed = Promise.withResolvers<void>()
  const host = await codeHost(
    t,
    (_, response) => {
      response.write('//')
      const drip = setInterval(() => response.write('x'), 10)
      response.once('close', () => {
        clearInterval(drip)
        closed.resolve()
      })
    },
    { limits: { totalMs: 200 } },
  )
  await assertUnavailable(host.fetch, { url: host.url }, { says: /did not finish within 200 ms/, again: true })
  await closed.promise
})

test('100 MB is refused before it is sent when announced, and on the way when not', async (t) => {
  let sent = 0
  const chunk = Buffer.alloc(65_536, 'x')
  const host = await codeHost(t, (request, response) => {
    if (request.url === '/announced') response.setHeader('content-length', 100_000_000)
    const more = () => {
      while (sent < 100_000_000 && !response.destroyed) {
        sent += chunk.length
        if (!response.write(chunk)) return
      }
    }
    response.on('drain', more)
    more()
  })
  for (const path of ['/announced', '/surprise']) {
    sent = 0
    await assertUnavailable(host.fetch, { url: host.url + path }, { says: /larger than 5242880 bytes/, again: false })
    assert(sent < 40_000_000, `${sent} bytes were sent`)
  }
})

test('code of exactly the limit passes, one byte more does not', async (t) => {
  const host = await codeHost(t, (_, response) => response.end('x'.repeat(1000)))
  assert.equal((await host.fetch({ url: host.url, maxBytes: 1000 })).status, 'fetched')
  await assertUnavailable(host.fetch, { url: host.url, maxBytes: 999 }, { says: /larger than 999 bytes/, again: false })
})

test('compressed answers are refused without being opened', async (t) => {
  const encodings = ['gzip', 'GZIP', 'br', 'gzip, gzip', 'identity, gzip', 'x-unknown']
  const host = await codeHost(t, (request, response) =>
    response.setHeader('content-encoding', encodings[Number(request.url?.slice(1))] ?? '').end(gzipSync('x'.repeat(1e6))),
  )
  for (const index of encodings.keys())
    await assertUnavailable(host.fetch, { url: `${host.url}/${index}` }, { says: /encoding that was not asked for/, again: false })
  const chained = await rawHost(t, (socket) => socket.end('HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n'))
  assert.equal((await failureOf(chained.fetch, { url: chained.url })).code, 'code_unavailable')
})

test('what is not UTF-8 text is refused; a byte order mark stays', async (t) => {
  const bodies = [
    Buffer.from([0x2f, 0x2f, 0xff]),
    Buffer.from('// grüß', 'latin1'),
    Buffer.from('a\0b'),
    Buffer.from([0xed, 0xa0, 0x80]),
    Buffer.from('\ufeff// bom'),
  ]
  const host = await codeHost(t, (request, response) => response.end(bodies[Number(request.url?.slice(1))]))
  for (const index of [0, 1, 3]) await assertUnavailable(host.fetch, { url: `${host.url}/${index}` }, { says: /not UTF-8/, again: false })
  await assertUnavailable(host.fetch, { url: `${host.url}/2` }, { says: /NUL/, again: false })
  const marked = await host.fetch({ url: `${host.url}/4` })
  assert(
    marked.status === 'fetched' &&
      marked.code === '\ufeff// bom' &&
      marked.sha256 ===
        createHash('sha256')
          .update(bodies[4] ?? '')
          .digest('hex'),
  )
})

test('code comes under any of its types, and HTML and pictures do not', async (t) => {
  const host = await codeHost(t, (request, response) => response.setHeader('content-type', decodeURIComponent(request.url?.slice(1) ?? '')).end(CODE))
  const ask = (type: string) => ({ url: `${host.url}/${encodeURIComponent(type)}` })
  for (const type of [
    'text/plain',
    'text/javascript; charset=utf-8',
    'application/javascript',
    'application/x-javascript',
    'application/typescript',
    'text/typescript',
    'video/mp2t',
    'application/octet-stream',
    'application/node',
    'Text/JavaScript',
  ])
    assert.equal((await host.fetch(ask(type))).status, 'fetched', type)
  for (const type of [
    'text/html',
    'text/html; charset=utf-8',
    'TEXT/HTML',
    'image/png',
    'application/zip',
    'application/json',
    'multipart/byteranges; boundary=x',
    'application/xhtml+xml',
    'nonsense',
  ])
    await assertUnavailable(host.fetch, ask(type), { says: /type of its answer/, again: false })
})

test('a response header over 16 KiB is refused', async (t) => {
  const host = await rawHost(t, (socket) => socket.end(`HTTP/1.1 200 OK\r\nx: ${'x'.repeat(20_000)}\r\ncontent-length: 0\r\n\r\n`))
  await assertUnavailable(host.fetch, { url: host.url }, { says: /header of its answer is larger/, again: false })
})

test('what is not HTTP, and what breaks off, is an error and no code', async (t) => {
  const garbage = await rawHost(t, (socket) => socket.end('SSH-2.0-OpenSSH_9.9\r\n'))
  await assertUnavailable(garbage.fetch, { url: garbage.url }, { says: /not valid HTTP/, again: false })
  for (const answer of [
    '',
    'HTTP/1.1 200 OK\r\n',
    'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc',
    'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab',
  ])
    for (const end of ['end', 'resetAndDestroy'] as const) {
      const broken = await rawHost(t, (socket) => socket.write(answer, () => socket[end]()))
      const failure = await failureOf(broken.fetch, { url: broken.url })
      assert.equal(failure.code, 'code_unavailable', failure.message)
    }
})

test('redirects are followed three times, each judged again', async (t) => {
  const host = await codeHost(t, (request, response) => {
    const hop = Number(request.url?.slice(1))
    if (hop < 3) response.writeHead([301, 302, 307][hop] ?? 308, { location: `${hop + 1}` }).end('ignored')
    else response.end(CODE)
  })
  assert.equal((await host.fetch({ url: `${host.url}/0` })).status, 'fetched')
  assert.equal(host.requests.length, 4)
})

test('a loop of redirects ends', async (t) => {
  const host = await codeHost(t, (_, response) => response.writeHead(302, { location: '/again' }).end())
  await assertUnavailable(host.fetch, { url: host.url }, { says: /redirects more than 3 times/, again: false })
  assert.equal(host.requests.length, 4)
})

test('a redirect to a place that is not allowed is refused before any connection, and not told', async (t) => {
  let location = ''
  const host = await codeHost(t, (_, response) => response.writeHead(302, { location }).end())
  for (location of [
    'http://10.0.0.1/',
    'https://10.0.0.1/',
    'https://169.254.169.254/latest/meta-data/',
    'http://127.0.0.1:22/',
    'https://127.0.0.1:22/',
    'https://[::1]/',
    'https://localhost/',
    'https://metadata.google.internal/',
    'http://example.com/',
    'https://example.com:8443/',
    'https://u:p@example.com/',
    'ftp://example.com/',
    'file:///etc/passwd',
    'data:text/javascript,1',
    '//10.0.0.1/',
    '/\\10.0.0.1/',
    'http:\\\\10.0.0.1',
    'https://0x7f.1/',
  ]) {
    host.dialled.length = 0
    const failure = await failureOf(host.fetch, { url: host.url })
    assert.equal(failure.code, 'code_unavailable')
    assert.match(failure.message, /redirect is refused|no valid place to go/, location)
    assert.doesNotMatch(failure.message, /10\.0|169\.254|meta-data|example\.com/)
    assert.deepEqual(host.dialled, [`127.0.0.1:${host.port}`], location)
  }
})

test('a redirect without a place to go is an error', async (t) => {
  const host = await codeHost(t, (_, response) => response.writeHead(302).end())
  await assertUnavailable(host.fetch, { url: host.url }, { says: /no valid place to go/, again: false })
})

test('a redirect to another allowed place carries the question there', async (t) => {
  const far = await codeHost(t, (_, response) => response.end(CODE))
  const near = await codeHost(t, (_, response) => response.writeHead(302, { location: `${far.url}/code.js` }).end(), { also: [far.port] })
  assert.equal((await near.fetch({ url: near.url })).status, 'fetched')
  assert.equal(far.requests[0]?.path, '/code.js')
})

test("a URL that breaks a rule is the request's fault, and nothing is connected", async () => {
  const { fetch, dialled } = fetcher([])
  for (const url of ['http://example.com/', 'https://127.0.0.1/', 'https://localhost/', 'file:///etc/passwd', 'nonsense', '']) {
    const failure = await failureOf(fetch, { url })
    assert.equal(failure.code, 'bad_request')
    assert.match(failure.message, /^Cannot fetch code from this URL: /)
  }
  assert.deepEqual(dialled, [])
})

test('four fetches at once reach one host, the rest wait, and the line has an end', async (t) => {
  let inside = 0
  let most = 0
  const answers: (() => void)[] = []
  const full = Promise.withResolvers<void>()
  const host = await codeHost(
    t,
    (_, response) => {
      inside += 1
      most = Math.max(most, inside)
      answers.push(() => {
        inside -= 1
        response.end(CODE)
      })
      if (answers.length === 4) full.resolve()
      if (answers.length > 4) answers.at(-1)?.()
    },
    { limits: { perHostWaiting: 6 } },
  )
  const fetches = Array.from({ length: 10 }, () => host.fetch({ url: host.url }))
  await full.promise
  const refused = await failureOf(host.fetch, { url: host.url })
  assert.equal(refused.code, 'unavailable')
  for (const answer of answers.slice(0, 4)) answer()
  await Promise.all(fetches)
  assert.equal(most, 4)
})

test('a caller who leaves ends the fetch with its own reason', async (t) => {
  const asked = Promise.withResolvers<void>()
  const closed = Promise.withResolvers<void>()
  const host = await codeHost(t, (request) => {
    asked.resolve()
    request.socket.once('close', () => closed.resolve())
  })
  const caller = new AbortController()
  const fetching = host.fetch({ url: host.url, signal: caller.signal })
  await asked.promise
  caller.abort(new Error('left'))
  await assert.rejects(fetching, { message: 'left' })
  await closed.promise
  await assert.rejects(host.fetch({ url: host.url, signal: caller.signal }), { message: 'left' })
})
