import assert from 'node:assert/strict'
import { once } from 'node:events'
import http, { type IncomingMessage } from 'node:http'
import https from 'node:https'
import { createServer, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import type { BoundSecrets } from '../../src/egress/bound-secrets.ts'
import { parseOutboundRules } from '../../src/egress/outbound-rules.ts'
import { dialRelay } from '../../src/egress/relay.ts'
import { hostCertificate } from '../../src/gateway/host-certificate.ts'
import { CA, CERTIFICATE } from '../support/certificate.ts'
import { eventually } from '../support/docker.ts'
import { listenTcp, SANDBOX, startWorld, type Listener, type World, type WorldOptions } from '../support/egress-world.ts'

const GO = Buffer.from('\n')
const PUBLIC = '93.184.215.14'
const placeholder = (letter: string) => `wtsecret-${letter.repeat(40)}`
const [STRIPE, OTHER, FOREIGN, LONG] = [placeholder('a'), placeholder('b'), placeholder('c'), placeholder('d')]
const VALUE = 'sk_live_4242424242'

const BOUND: BoundSecrets = {
  id: 'f'.repeat(32),
  ...hostCertificate(Buffer.alloc(32, 7), ['*.example.com', 'example.com', 'wrong.example.net']),
  secrets: [
    { placeholder: STRIPE, value: VALUE, hosts: ['api.example.com', 'wrong.example.net'] },
    { placeholder: OTHER, value: 'of-another-host', hosts: ['example.com'] },
    { placeholder: LONG, value: 'x'.repeat(4096), hosts: ['*.example.com'] },
  ],
}

interface Seen {
  readonly method: string
  readonly url: string
  readonly rawHeaders: string[]
  readonly headers: http.IncomingHttpHeaders
  readonly body: string
}

interface Place extends AsyncDisposable {
  readonly world: World
  readonly host: Listener
  readonly seen: Seen[]
}

/** A host on the internet, as a sandbox with bound secrets sees it. It remembers what it is sent and says "ok" unless told otherwise. */
async function place(
  options: WorldOptions & { answer?: (request: IncomingMessage, response: http.ServerResponse) => void; server?: https.Server } = {},
): Promise<Place> {
  const stack = new AsyncDisposableStack()
  const seen: Seen[] = []
  const server = options.server ?? https.createServer(CERTIFICATE)
  server.on('request', async (request: IncomingMessage, response: http.ServerResponse) => {
    if (options.answer) return options.answer(request, response)
    const { method = '', url = '', rawHeaders, headers } = request
    seen.push({ method, url, rawHeaders, headers, body: await text(request) })
    response.setHeader('x-many', ['1', '2']).end('ok')
  })
  const host = stack.use(await listenTcp(undefined, server as never))
  const world = stack.use(
    await startWorld({
      bound: [BOUND],
      authorities: CA,
      names: { addresses: async () => [PUBLIC] },
      dial: async (address, _port, signal) => {
        const socket = await dialRelay('127.0.0.1', host.port, signal)
        Object.defineProperty(socket, 'remoteAddress', { value: address })
        return socket
      },
      ...options,
    }),
  )
  return { world, host, seen, [Symbol.asyncDispose]: () => stack.disposeAsync() }
}

const connectTo = (name: string, id: string | null = BOUND.id) => ({ kind: 'connect', host: name, port: 443, ...(id === null ? {} : { bound: id }) })

/** The connection of a webtask, with TLS on it. */
async function secure(world: World, name = 'api.example.com', options: tls.ConnectionOptions = {}): Promise<tls.TLSSocket> {
  const { reply, socket } = await world.ask(connectTo(name))
  assert.equal(reply.ok, true, JSON.stringify(reply))
  socket.write(GO)
  return secureOver(socket, { servername: name, ca: BOUND.certificate, ALPNProtocols: ['http/1.1'], ...options })
}

async function secureOver(socket: Socket, options: tls.ConnectionOptions): Promise<tls.TLSSocket> {
  const secured = tls.connect({ socket, ...options })
  secured.allowHalfOpen = false
  await once(secured, 'secureConnect')
  return secured
}

interface Asking {
  readonly method?: string
  readonly path?: string
  readonly headers?: http.OutgoingHttpHeaders | readonly string[]
  readonly body?: string
}

/** One request of a webtask, on a connection of its own or on the given one. */
async function ask(
  world: World,
  { method = 'GET', path = '/', headers = {}, body }: Asking = {},
  over?: { socket?: tls.TLSSocket; name?: string },
): Promise<{ status: number; text: string; raw: string[] }> {
  const name = over?.name ?? 'api.example.com'
  const socket = over?.socket ?? (await secure(world, name))
  const list = Array.isArray(headers) ? (headers as readonly string[]) : { host: name, ...headers }
  const sent = http.request({ method, path, headers: list, createConnection: () => socket })
  sent.end(body)
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  return { status: response.statusCode ?? 0, text: await text(response), raw: response.rawHeaders }
}

/** Bytes as a webtask may send them, and all that comes back. */
async function raw(world: World, bytes: string, name = 'api.example.com'): Promise<string> {
  const socket = await secure(world, name)
  socket.write(bytes.replace(/\n/g, '\r\n'))
  return text(socket)
}

describe('a request to a host that a secret is bound to', () => {
  test('gets the value in its headers, wherever the placeholder stands, and nowhere else', async () => {
    await using there = await place()
    const basic = `Basic ${Buffer.from(`${STRIPE}:`).toString('base64')}`
    const answer = await ask(there.world, {
      method: 'POST',
      path: `/charge?key=${STRIPE}`,
      headers: { authorization: basic, 'x-key': `Bearer ${STRIPE}, ${STRIPE}`, cookie: `a=${STRIPE}`, 'x-other': `${OTHER} ${FOREIGN}` },
      body: STRIPE,
    })
    assert.deepEqual([answer.status, answer.text], [200, 'ok'])
    const [request] = there.seen
    assert.equal(request!.headers.authorization, `Basic ${Buffer.from(`${VALUE}:`).toString('base64')}`)
    assert.equal(request!.headers['x-key'], `Bearer ${VALUE}, ${VALUE}`)
    assert.equal(request!.headers.cookie, `a=${VALUE}`)
    // Bound to another host, and of another sandbox or made up.
    assert.equal(request!.headers['x-other'], `${OTHER} ${FOREIGN}`)
    assert.deepEqual([request!.url, request!.body, request!.headers.host], [`/charge?key=${STRIPE}`, STRIPE, 'api.example.com'])
  })

  test('keeps its connection, its other headers and those of the answer as they were', async () => {
    await using there = await place()
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 })
    const socket = await secure(there.world)
    agent.createConnection = () => socket
    for (let i = 0; i < 3; i += 1) {
      const sent = https.request({ agent, headers: ['Host', 'API.example.com:443', 'X-Two', 'a', 'X-Two', 'b', 'X-Key', STRIPE] })
      sent.end()
      const [response] = (await once(sent, 'response')) as [IncomingMessage]
      assert.deepEqual(response.headersDistinct['x-many'], ['1', '2'])
      await text(response)
      await sleep(5)
    }
    assert.deepEqual([there.seen.length, there.host.reached()], [3, 1])
    assert.deepEqual(there.seen[2]!.rawHeaders.slice(0, 8), ['Host', 'api.example.com', 'X-Two', 'a', 'X-Two', 'b', 'X-Key', VALUE])
    agent.destroy()
    await eventually('the end', () => there.world.events.length === 1)
    const [event] = there.world.events
    assert.deepEqual([event!.host, event!.port, event!.address, event!.outcome], ['api.example.com', 443, PUBLIC, 'closed'])
    assert.ok(event!.bytesIn > 300 && event!.bytesOut > 200, JSON.stringify(event))
    assert.equal(JSON.stringify(there.world.events).includes(VALUE), false)
  })

  test('methods, statuses and bodies of every kind come through', async () => {
    await using there = await place({
      answer: async (request, response) => {
        const body = await text(request)
        const { 'content-length': length, 'transfer-encoding': coding } = request.headers
        if (request.url === '/close') return void response.socket!.end('HTTP/1.1 200 OK\r\nX-End: close\r\n\r\nuntil the end')
        response.statusCode = Number(request.url!.slice(1)) || 200
        response.end(JSON.stringify([request.method, body, length ?? null, coding ?? null]))
      },
    })
    const told = async (asking: Asking) => {
      const answer = await ask(there.world, asking)
      return [answer.status, answer.text]
    }
    assert.deepEqual(await told({ path: '/418' }), [418, '["GET","",null,null]'])
    assert.deepEqual(await told({ method: 'HEAD' }), [200, ''])
    assert.deepEqual(await told({ path: '/204' }), [204, ''])
    assert.deepEqual(await told({ path: '/304' }), [304, ''])
    assert.deepEqual(await told({ method: 'PUT', body: 'hello', headers: { 'content-length': '5' } }), [200, '["PUT","hello","5",null]'])
    assert.deepEqual(await told({ method: 'PATCH', body: 'hello', headers: { 'transfer-encoding': 'chunked' } }), [
      200,
      '["PATCH","hello",null,"chunked"]',
    ])
    assert.deepEqual(await told({ method: 'DELETE', body: 'why', headers: { 'content-length': '3' } }), [200, '["DELETE","why","3",null]'])
    assert.deepEqual(await told({ method: 'POST', headers: { 'content-length': '0' } }), [200, '["POST","","0",null]'])
    assert.deepEqual(await told({ path: '/close' }), [200, 'until the end'])
    assert.match(await raw(there.world, 'POST / HTTP/1.1\nHost: api.example.com\nConnection: close\n\n'), /\["POST","","0",null\]/)
    assert.match(await raw(there.world, 'GET / HTTP/1.0\n\n'), /^HTTP\/1.1 200 OK\r\n[^]*\["GET","",null,null\]$/)
    // Whoever asks whether to send the body is told to, here.
    const eager = await raw(there.world, 'POST / HTTP/1.1\nHost: api.example.com\nExpect: 100-continue\nConnection: close\nContent-Length: 2\n\nhi')
    assert.match(eager, /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200 OK[^]*\["POST","hi","2",null\]/)
  })

  test('requests that are sent without waiting for answers are answered in order', async () => {
    await using there = await place({
      answer: (request, response) => void setTimeout(() => response.end(request.url), request.url === '/1' ? 60 : 1),
    })
    const all = await raw(
      there.world,
      ['/1', '/2', '/3'].map((path, i) => `GET ${path} HTTP/1.1\nHost: api.example.com\n${i === 2 ? 'Connection: close\n' : ''}\n`).join(''),
    )
    assert.deepEqual([...all.matchAll(/^\/\d/gm)].map(String), ['/1', '/2', '/3'])
    assert.equal(there.host.reached(), 1)
  })

  test('bodies stream both ways, and who does not read holds the other back', async () => {
    let written = 0
    await using there = await place({
      answer(request, response) {
        if (request.url === '/echo') return void request.pipe(response)
        const block = Buffer.alloc(65_536)
        const more = () => {
          while (written < 400e6) {
            written += block.length
            if (!response.write(block)) return
          }
        }
        response.on('drain', more)
        more()
      },
    })
    const socket = await secure(there.world)
    const sent = https.request({ method: 'POST', path: '/echo', headers: { host: 'api.example.com' }, createConnection: () => socket })
    sent.write('first')
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    const [first] = await once(response, 'data')
    assert.equal(String(first), 'first')
    sent.end('second')
    assert.equal(await text(response), 'second')

    const lazy = await secure(there.world)
    lazy.pause().write('GET /flood HTTP/1.1\r\nHost: api.example.com\r\n\r\n')
    await sleep(400)
    const before = written
    assert.ok(before > 0 && before < 60e6, `${before} bytes went to a webtask that reads nothing`)
    lazy.destroy()
    await eventually('both ends', () => there.world.relay.running.size === 0)
  })

  test('a WebSocket opens with the value in its header, and its frames are left alone', async () => {
    const server = https.createServer(CERTIFICATE)
    let key: unknown
    server.on('upgrade', (request: IncomingMessage, socket: Socket) => {
      key = request.headers['x-key']
      socket.write('HTTP/1.1 101 Welcome\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: yes\r\n\r\nhello ')
      socket.pipe(socket)
    })
    await using there = await place({ server })
    const socket = await secure(there.world)
    socket.write(`GET / HTTP/1.1\r\nHost: api.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Key: ${STRIPE}\r\n\r\n`)
    let said = ''
    socket.on('data', (chunk) => (said += String(chunk)))
    await eventually('the greeting', () => said.endsWith('hello '))
    assert.match(said, /^HTTP\/1.1 101 Welcome\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: yes\r\n\r\n/)
    assert.equal(key, VALUE)
    socket.write(STRIPE)
    await eventually('the echo', () => said.endsWith(STRIPE))
    socket.end()
    await eventually('the end', () => there.world.relay.running.size === 0)
  })

  test('a host that does not want a WebSocket says so', async () => {
    const server = https.createServer(CERTIFICATE)
    server.on('upgrade', (_request, socket: Socket) => void socket.end('HTTP/1.1 403 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope'))
    await using there = await place({ server })
    const answer = await raw(there.world, 'GET / HTTP/1.1\nHost: api.example.com\nUpgrade: websocket\nConnection: Upgrade\n\n')
    assert.match(answer, /^HTTP\/1.1 403 No\r\n[^]*nope$/)
  })
})

describe('nobody but the host gets the value', () => {
  test('a request that names another host is answered with 421, and nothing of it is sent', async () => {
    await using there = await place()
    const key = `X-Key: ${STRIPE}\n`
    for (const bytes of [
      `GET / HTTP/1.1\nHost: evil.example.com\n${key}\n`,
      `GET / HTTP/1.1\nHost: api.example.com.evil.test\n${key}\n`,
      `GET / HTTP/1.1\nHost: api.example.com:8443\n${key}\n`,
      `GET / HTTP/1.1\nHost: user@api.example.com\n${key}\n`,
      `GET / HTTP/1.1\nHost: api.example.com\nHost: evil.example.com\n${key}\n`,
      `GET / HTTP/1.1\nHost: evil.example.com\nHost: api.example.com\n${key}\n`,
      `GET https://evil.example.com/ HTTP/1.1\nHost: api.example.com\n${key}\n`,
      `GET https://api.example.com@evil.example.com/ HTTP/1.1\nHost: api.example.com\n${key}\n`,
      `GET http://api.example.com/ HTTP/1.1\nHost: api.example.com\n${key}\n`,
      `GET https://api.example.com.evil.test/ HTTP/1.1\nHost: api.example.com\n${key}\n`,
      `GET / HTTP/1.1\nHost: evil.example.com\nUpgrade: websocket\nConnection: Upgrade\n${key}\n`,
    ])
      assert.match(await raw(there.world, bytes), /^HTTP\/1.1 421 /, bytes)
    assert.equal(there.seen.length, 0)
    assert.match(await raw(there.world, `GET https://API.example.com/a?b HTTP/1.1\nHost: api.example.com.\nConnection: close\n${key}\n`), /ok$/)
    assert.deepEqual([there.seen[0]!.url, there.seen[0]!.headers.host], ['/a?b', 'api.example.com'])
  })

  test('what would answer with the request, or read it in two ways, is refused', async () => {
    await using there = await place()
    const head = `Host: api.example.com\nX-Key: ${STRIPE}\n`
    for (const [status, bytes] of [
      [405, `TRACE / HTTP/1.1\n${head}\n`],
      [400, `POST / HTTP/1.1\n${head}Content-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n`],
      [400, `POST / HTTP/1.1\n${head}Content-Length: 3\nContent-Length: 4\n\nabcd`],
      [400, `POST / HTTP/1.1\n${head}Content-Length: 0x3\n\nabc`],
      [400, `POST / HTTP/1.1\n${head}Transfer-Encoding: chunked, gzip\n\n0\n\n`],
      [501, `POST / HTTP/1.1\n${head}Transfer-Encoding: gzip, chunked\n\n0\n\n`],
      [400, `GET / HTTP/1.1\n${head}X : y\n\n`],
      [400, `GET / HTTP/1.1\n${head} folded\n\n`],
      [400, `GET / HTTP/1.1\n\n`],
      [400, `GET / HTTP/1.1\n${head}Upgrade: websocket\nConnection: Upgrade\nContent-Length: 5\n\nhello`],
      [400, `GET https://api.example.com\\.evil.test/ HTTP/1.1\n${head}\n`],
      // The values are longer than what stands for them.
      [431, `GET / HTTP/1.1\n${head}X-Long: ${LONG.repeat(17)}\n\n`],
    ] as const)
      assert.match(await raw(there.world, bytes), new RegExp(`^HTTP/1.1 ${status} `), bytes.slice(0, 200))
    // Nobody answers these at all.
    assert.equal(await raw(there.world, `CONNECT evil.example.com:443 HTTP/1.1\n${head}\n`), '')
    assert.equal(there.seen.length, 0)
  })

  test('headers of one connection stay on it', async () => {
    await using there = await place()
    await raw(
      there.world,
      'POST / HTTP/1.1\nHost: api.example.com\nConnection: close, X-Mine, Content-Length\nX-Mine: 1\nTE: trailers\nKeep-Alive: 1\nProxy-Authorization: x\nUpgrade: h2c\nContent-Length: 4\n\nbody',
    )
    const [{ headers, body } = { headers: {}, body: '' }] = there.seen
    assert.deepEqual(Object.keys(headers).sort(), ['connection', 'content-length', 'host'])
    assert.equal(body, 'body')
  })

  test('another host, another port, an address, or another sandbox is piped as ever: TLS is the host’s own', async () => {
    await using there = await place()
    const own = async (request: object, name: string) => {
      const { reply, socket } = await there.world.ask(request)
      assert.equal(reply.ok, true, JSON.stringify(reply))
      socket.write(GO)
      const secured = await secureOver(socket, { servername: name, ca: CA, checkServerIdentity: () => undefined })
      assert.equal(secured.getPeerX509Certificate()?.subject, 'CN=webtask-test')
      await ask(there.world, { headers: { host: 'api.example.com', 'x-key': STRIPE } }, { socket: secured })
      assert.equal(there.seen.at(-1)!.headers['x-key'], STRIPE)
    }
    await own(connectTo('two.labels.example.com'), 'two.labels.example.com')
    await own({ ...connectTo('api.example.com'), port: 8443 }, 'api.example.com')
    await own(connectTo(PUBLIC), 'api.example.com')
    await own(connectTo('api.example.com', null), 'api.example.com')
    await own(connectTo('api.example.com', 'e'.repeat(32)), 'api.example.com')
    assert.equal(there.seen.length, 5)
  })

  test('a host whose certificate is not right gets nothing, and the webtask learns what its own TLS would have said', async () => {
    const codes: Record<string, unknown> = {}
    const refused = async (what: string, name: string, options: Parameters<typeof place>[0]) => {
      await using there = await place(options)
      const { reply } = await there.world.ask(connectTo(name))
      codes[what] = [reply.code, reply.syscall, reply.message]
      assert.equal(there.seen.length, 0)
      assert.equal(there.world.events[0]?.outcome, reply.code)
      await eventually('the host to be left alone', () => there.world.relay.running.size === 0)
    }
    const bound = { ...BOUND, secrets: [{ placeholder: STRIPE, value: VALUE, hosts: ['wrong.example.net'] }] }
    await refused('unknown authority', 'api.example.com', { authorities: BOUND.certificate })
    await refused('another name', 'wrong.example.net', { bound: [bound] })
    await refused('no TLS', 'api.example.com', { server: http.createServer() as never })
    await refused('silence', 'api.example.com', { server: createServer().on('connection', () => {}) as never, relayLimits: { connectMs: 80 } })
    assert.deepEqual(codes, {
      'unknown authority': ['DEPTH_ZERO_SELF_SIGNED_CERT', 'connect', 'no trusted TLS with "api.example.com": DEPTH_ZERO_SELF_SIGNED_CERT'],
      'another name': ['ERR_TLS_CERT_ALTNAME_INVALID', 'connect', 'no trusted TLS with "wrong.example.net": ERR_TLS_CERT_ALTNAME_INVALID'],
      'no TLS': ['EPROTO', 'connect', 'no trusted TLS with "api.example.com": ERR_SSL_WRONG_VERSION_NUMBER'],
      silence: ['ETIMEDOUT', 'connect', ''],
    })
  })

  test('a webtask that speaks HTTP/2 alone, or trusts no other certificate than the host’s, gets no further than TLS', async () => {
    await using there = await place()
    await assert.rejects(secure(there.world, 'api.example.com', { ALPNProtocols: ['h2'] }), /no application protocol|ALERT/i)
    await assert.rejects(secure(there.world, 'api.example.com', { ca: CA }), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' })
    assert.equal(there.seen.length, 0)
  })
})

describe('ends of a connection', () => {
  test('a host that breaks off is known to have broken, in the middle of an answer and before it', async () => {
    for (const begun of [false, true]) {
      await using there = await place({
        answer(_request, response) {
          if (begun) response.write('half')
          setTimeout(() => response.socket!.destroy(), 20)
        },
      })
      const { reply, socket } = await there.world.ask(connectTo('api.example.com'))
      socket.write(GO)
      const secured = await secureOver(socket, { servername: 'api.example.com', ca: BOUND.certificate })
      secured.on('error', () => {}).write('GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n')
      secured.resume()
      await once(secured, 'close')
      await eventually('the end', () => there.world.events.length === 1)
      assert.equal(there.world.events[0]!.outcome, 'ECONNRESET')
      assert.equal((await there.world.ask({ kind: 'ended', id: reply.id })).reply.broken, 'ECONNRESET')
    }
  })

  test('a host that closes an idle connection closes the webtask’s, and the other way round', async () => {
    await using there = await place({ server: https.createServer({ ...CERTIFICATE, keepAliveTimeout: 100 }) })
    const socket = await secure(there.world)
    socket.write('GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n')
    const [said] = await once(socket, 'data')
    assert.match(String(said), /^HTTP\/1.1 200/)
    await once(socket.resume(), 'close')
    await eventually('the end', () => there.world.events.length === 1)
    assert.equal(there.world.events[0]!.outcome, 'closed')
    const other = await secure(there.world)
    other.end()
    await eventually('the end', () => there.world.events.length === 2)
    assert.equal(there.world.relay.running.size, 0)
  })

  test('one that is cut, as over a limit of the tenant, ends at both ends', async () => {
    const left = Promise.withResolvers<void>()
    await using there = await place({ answer: (_request, response) => void response.once('close', left.resolve).write('half') })
    const socket = await secure(there.world)
    socket.on('error', () => {}).write('GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n')
    await once(socket, 'data')
    for (const running of there.world.relay.running) running.cut('EDQUOT')
    await Promise.all([left.promise, once(socket.resume(), 'close')])
    await eventually('the end', () => there.world.events.length === 1)
    assert.equal(there.world.events[0]!.outcome, 'EDQUOT')
  })

  test('a webtask that leaves in the middle takes the request with it', async () => {
    const left = Promise.withResolvers<void>()
    await using there = await place({
      answer(request, response) {
        request.resume()
        response.once('close', left.resolve)
      },
    })
    const socket = await secure(there.world)
    socket.write('POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1000\r\n\r\nsome of it')
    await sleep(50)
    socket.destroy()
    await left.promise
    await eventually('the end', () => there.world.events.length === 1)
  })

  test('bound secrets go with the gateway that told of them: at once when another one is there, or in the end with the sandbox', async () => {
    await using there = await place()
    const { wayOut, relay } = there.world
    const attachment = { sandbox: SANDBOX, tenant: 'acme', rules: parseOutboundRules('allow *:*') }
    const showsItsOwn = async () => {
      const { socket } = await there.world.ask(connectTo('api.example.com'))
      socket.write(GO)
      const secured = await secureOver(socket, { servername: 'api.example.com', ca: [CA, BOUND.certificate] })
      const { subject } = secured.getPeerX509Certificate()!
      secured.destroy()
      return subject === 'CN=webtask-test'
    }
    const [first, second] = [{}, {}]
    await wayOut.attach(first, { ...attachment, bound: [BOUND] })
    await wayOut.attach(second, attachment)
    await wayOut.attach(relay, attachment)
    assert.equal(await showsItsOwn(), false)
    await wayOut.attach(first, attachment)
    assert.equal(await showsItsOwn(), true)
    await wayOut.attach(first, { ...attachment, bound: [BOUND] })
    wayOut.detach(first, SANDBOX)
    assert.equal(await showsItsOwn(), true)
    await wayOut.attach(second, { ...attachment, bound: [BOUND] })
    wayOut.detach(relay, SANDBOX)
    // The last one has gone, and may come back.
    wayOut.release(second)
    assert.equal(await showsItsOwn(), false)
    await wayOut.attach(relay, attachment)
    assert.equal(await showsItsOwn(), true)
  })
})
