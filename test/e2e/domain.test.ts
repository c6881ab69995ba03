import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { startDeployment, type Deployment } from '../support/deployment.ts'

const DOMAIN = 'run.example.com'
const ACME = `acme.${DOMAIN}`

let runtime: Deployment

before(async () => {
  runtime = await startDeployment({ WEBTASK_DOMAIN: 'Run.Example.com' })
  await runtime.issue({ ten: 'acme', jtn: 'echo', code: ECHO })
  await runtime.issue({ ten: 'acme', jtn: 'answers', code: ANSWERS })
})

after(() => runtime?.[Symbol.asyncDispose]())

/** Tells everything that reached the code. */
const ECHO = `module.exports = (ctx, req, res) => {
  const chunks = []
  req.on('data', (chunk) => chunks.push(chunk)).on('end', () => {
    const { query, data } = ctx
    res.setHeader('content-type', 'application/json')
    res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.headers, body: Buffer.concat(chunks).toString(), query, data, wire: req.x_wt }))
  })
}`
/** Answers with the headers that it is asked for. */
const ANSWERS = `module.exports = (ctx, req, res) => {
  for (const [name, value] of Object.entries(JSON.parse(ctx.query.headers))) res.setHeader(name, value)
  res.end('answered')
}`

interface Sent {
  readonly host?: string
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly body?: string | undefined
}

interface Heard {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly text: string
  json(): any
}

/** One request with exactly this Host. */
async function send(path: string, { host = ACME, method = 'GET', headers = {}, body }: Sent = {}): Promise<Heard> {
  const { port } = new URL(runtime.url)
  const outgoing = request({
    host: '127.0.0.1',
    port,
    path,
    method,
    agent: false,
    headers: { ...headers, ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }), host },
  })
  outgoing.end(body)
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  let text = ''
  for await (const chunk of incoming.setEncoding('utf8')) text += chunk
  return { status: incoming.statusCode!, headers: incoming.headers, text, json: () => JSON.parse(text) }
}

/** The answer to these bytes, as text. */
async function say(bytes: string): Promise<string> {
  const socket = connect(Number(new URL(runtime.url).port), '127.0.0.1')
  socket.write(bytes)
  let text = ''
  for await (const chunk of socket.setEncoding('latin1')) text += chunk
  return text
}

const answersWith = (headers: Record<string, string | string[]>, sent: Sent & { path?: string } = {}) =>
  send(`${sent.path ?? '/answers'}?headers=${encodeURIComponent(JSON.stringify(headers))}`, sent)

describe("at a tenant's own host", () => {
  test('the path names the webtask, and the code sees the URL as it was asked', async () => {
    const answer = await send('/echo/sub/path?a=1&b=%20')
    assert.equal(answer.status, 200, answer.text)
    const { url, query, headers, wire } = answer.json()
    assert.deepEqual([url, query, headers.host], ['/echo/sub/path?a=1&b=%20', { a: '1', b: ' ' }, ACME])
    assert.deepEqual([wire.container, wire.jtn, wire.url_format], ['acme', 'echo', 3])
    assert.match(String(answer.headers['x-request-id']), /^\d+\.\d+$/)
    assert.equal((await send('/echo')).json().url, '/echo')
  })

  test('every method and body goes through, and credentials are for the webtask', async () => {
    for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND']) {
      const told = (
        await send('/echo?key=mine', { method, body: method === 'OPTIONS' ? undefined : 'hello', headers: { authorization: 'Bearer own' } })
      ).json()
      assert.deepEqual(
        [told.method, told.url, told.headers.authorization, told.body],
        [method, '/echo?key=mine', 'Bearer own', method === 'OPTIONS' ? '' : 'hello'],
      )
    }
    const { status, text } = await send('/echo', { method: 'HEAD' })
    assert.deepEqual([status, text], [200, ''])
  })

  test('the name of the host is read without port, case and trailing dot', async () => {
    for (const host of ['ACME.Run.Example.COM', `${ACME}:8080`, `${ACME}:443`, `${ACME}.`, `${ACME}.:80`]) {
      const { status, text } = await send('/echo', { host })
      assert.equal(status, 200, `${host}: ${text}`)
      assert.deepEqual([JSON.parse(text).wire.container, JSON.parse(text).headers.host], ['acme', host])
    }
  })

  test('the same worker serves both origins, each request told where it came from', async () => {
    await runtime.issue({ ten: 'acme', jtn: 'mark', code: 'let n = 0; module.exports = (ctx, req, res) => res.end(`${++n} ${req.x_wt.url_format}`)' })
    assert.equal((await send('/mark')).text, '1 3')
    assert.equal((await runtime.ask('/api/run/acme/mark')).text, '2 1')
    assert.equal((await send('/mark')).text, '3 3')
  })

  test('Express, Hono and webtask-tools apps and fetch handlers get the path without the name', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'express',
      code: `const app = require('express')()
        app.get('/', (req, res) => res.send('root'))
        app.get('/users/:id', (req, res) => res.json([req.params.id, req.query.q, req.originalUrl]))
        module.exports = app`,
    })
    await runtime.issue({
      ten: 'acme',
      jtn: 'hono',
      code: `import { Hono } from 'hono'
        const app = new Hono()
        app.get('/', (c) => c.text('root'))
        app.get('/users/:id', (c) => c.json([c.req.param('id'), c.req.query('q'), c.req.url]))
        export default app`,
    })
    await runtime.issue({
      ten: 'acme',
      jtn: 'tools',
      code: `const app = require('express')()
        app.get('/', (req, res) => res.send('root'))
        app.get('/users/:id', (req, res) => res.json([req.params.id, req.query.q, req.originalUrl]))
        module.exports = require('webtask-tools').fromExpress(app)`,
    })
    for (const name of ['express', 'hono', 'tools']) {
      for (const path of [`/${name}`, `/${name}/`]) assert.equal((await send(path)).text, 'root', path)
      const [id, q, url] = (await send(`/${name}/users/7?q=x`)).json()
      assert.deepEqual([id, q, url], ['7', 'x', name === 'hono' ? `http://${ACME}/users/7?q=x` : `/${name}/users/7?q=x`])
    }
  })

  test('a token that code makes is used where the platform is', async () => {
    const code = "module.exports = (ctx, cb) => (ctx.headers.host.startsWith('acme.') ? ctx.create_token_url({}, cb) : cb(null, 42))"
    await runtime.issue({ ten: 'acme', jtn: 'maker', dd: 1, code })
    const { text, status } = await send('/maker')
    assert.equal(status, 200, text)
    assert.ok(JSON.parse(text).startsWith(`${runtime.url}/api/run/acme?key=`), text)
    assert.equal(await (await fetch(JSON.parse(text))).text(), '42')
  })

  test('what is not there is 404, what is no name 400, in the form of all errors', async () => {
    for (const [path, host, status, message] of [
      ['/', ACME, 404, /no webtask/],
      ['/?key=x', ACME, 404, /no webtask/],
      ['/missing', ACME, 404, /"missing" in container "acme"/],
      ['/echos', ACME, 404, /"echos"/],
      ['/echo', `nobody.${DOMAIN}`, 404, /"echo" in container "nobody"/],
      ['/a%2Fb', ACME, 400, /not a name/],
      ['/%', ACME, 400, /percent-encoding/],
    ] as const) {
      const answer = await send(path, { host, headers: { authorization: `Bearer ${runtime.master}`, origin: 'https://page.test' } })
      const { code, message: said, requestId } = answer.json()
      assert.deepEqual([answer.status, code, requestId], [status, status, answer.headers['x-request-id']], answer.text)
      assert.match(said, message)
      assert.deepEqual([answer.headers['access-control-allow-origin'], answer.headers['access-control-allow-credentials']], ['*', undefined])
    }
  })

  test('the management API is not there, whoever asks', async () => {
    const claims = JSON.stringify({ ten: 'acme' })
    for (const [method, path] of [
      ['POST', '/api/tokens/issue'],
      ['GET', `/api/tokens/inspect?token=${runtime.master}`],
      ['POST', '/api/tokens/revoke'],
      ['GET', '/api/plans'],
      ['GET', '/api/tenants/acme'],
      ['POST', '/api/run/acme'],
      ['GET', '/api/run/acme/echo'],
      ['GET', '//api/run/acme/echo'],
      ['GET', `http://localhost/api/tokens/inspect?token=${runtime.master}`],
    ] as const) {
      const headers = { authorization: `Bearer ${runtime.master}` }
      const answer = await send(path, { method, headers, body: method === 'POST' ? claims : undefined })
      assert.deepEqual([answer.status, answer.json().error], [404, 'not_found'], `${path}: ${answer.text}`)
      assert.match(answer.json().message, /No webtask "api" in container "acme"/)
    }
    await runtime.issue({ ten: 'own-api', jtn: 'api', code: ECHO })
    const told = (await send('/api/tokens/issue', { host: `own-api.${DOMAIN}`, method: 'POST', body: claims })).json()
    assert.deepEqual([told.url, told.body, told.wire.jtn], ['/api/tokens/issue', claims, 'api'])
  })

  test('no other header chooses the tenant', async () => {
    await runtime.issue({ ten: 'globex', jtn: 'echo', code: ECHO })
    const globex = `globex.${DOMAIN}`
    const headers = { 'x-forwarded-host': globex, forwarded: `host=${globex}`, 'x-original-host': globex, 'x-host': globex, 'x-wt-params': 'e30=' }
    const told = (await send('/echo', { headers })).json()
    assert.deepEqual([told.wire.container, told.headers['x-forwarded-host'], told.headers['x-wt-params']], ['acme', globex, undefined])
    const shared = await send('/echo', { host: 'localhost', headers })
    assert.equal(shared.json().message, 'No such route: GET /echo')
  })
})

describe('cookies', () => {
  test('pass both ways at the own host, and neither way on the shared origin', async () => {
    const set = { 'Set-Cookie': ['a=1', 'b=2; Path=/; Secure; HttpOnly', `c=3; Domain=${ACME}`, '__Host-d=4; Path=/; Secure'] }
    assert.deepEqual((await answersWith(set)).headers['set-cookie'], set['Set-Cookie'])
    assert.equal((await send('/echo', { headers: { Cookie: 'session=1; b=2' } })).json().headers.cookie, 'session=1; b=2')
    for (const host of [DOMAIN, 'localhost', '127.0.0.1']) {
      const there = await answersWith(set, { host, path: '/api/run/acme/answers' })
      assert.deepEqual([there.status, there.headers['set-cookie']], [200, undefined])
      const told = await send('/api/run/acme/echo', { host, headers: { Cookie: 'session=1' } })
      assert.deepEqual([told.status, /cookie|session=1/i.test(told.text)], [200, false])
    }
  })

  test('for a sibling, the domain or any other host are dropped, each by itself', async () => {
    const dropped = [
      `x=1; Domain=${DOMAIN}`,
      `x=2; domain=.${DOMAIN.toUpperCase()}`,
      `x=3; Domain=globex.${DOMAIN}`,
      'x=4; Domain=example.com',
      `x=5; Domain=${ACME}; Domain=${DOMAIN}`,
      `x=6; Domain=${DOMAIN}; Domain=${ACME}`,
      'x=7; Domain=',
      `x=8;\tDOMAIN \t=\t${DOMAIN}`,
    ]
    const cookies = dropped.flatMap((cookie, index) => [cookie, `kept${index}=1`])
    const { headers } = await answersWith({ 'Set-Cookie': cookies })
    assert.deepEqual(
      headers['set-cookie'],
      dropped.map((_, index) => `kept${index}=1`),
    )
    assert.equal((await answersWith({ 'Set-Cookie': dropped })).headers['set-cookie'], undefined)
  })

  test('of a fetch handler pass too', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'fetched',
      code: `export default { fetch(request) {
        const headers = new Headers([['set-cookie', 'a=1'], ['set-cookie', 'b=2; Domain=${DOMAIN}'], ['set-cookie', 'c=3; Path=/']])
        return new Response(request.headers.get('cookie'), { headers })
      } }`,
    })
    const { headers, text } = await send('/fetched', { headers: { cookie: 'mine=1' } })
    assert.deepEqual([headers['set-cookie'], text], [['a=1', 'c=3; Path=/'], 'mine=1'])
  })

  test('are not read across origins, unless the webtask itself allows it', async () => {
    const origin = 'https://evil.test'
    const asked = await send('/echo', {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'PUT', 'access-control-request-headers': 'x-own' },
    })
    assert.equal(asked.status, 204)
    for (const { headers } of [
      asked,
      await send('/echo', { headers: { origin } }),
      await answersWith({ 'Access-Control-Allow-Credentials': 'true' }, { headers: { origin } }),
    ])
      assert.equal(headers['access-control-allow-origin'], '*')
    assert.deepEqual([asked.headers['access-control-allow-credentials'], asked.headers['access-control-allow-headers']], [undefined, 'x-own'])
    const allowed = { 'Access-Control-Allow-Origin': 'https://good.test', 'Access-Control-Allow-Credentials': 'true' }
    const { headers } = await answersWith(allowed, { headers: { origin: 'https://good.test' } })
    assert.deepEqual([headers['access-control-allow-origin'], headers['access-control-allow-credentials']], ['https://good.test', 'true'])
    const shared = await send('/api/run/acme/echo', { host: DOMAIN, headers: { origin } })
    assert.deepEqual([shared.headers['access-control-allow-origin'], shared.headers['access-control-allow-credentials']], [origin, 'true'])
  })
})

test("what reaches a whole origin passes at the tenant's own, what reaches further does not", async () => {
  const own = {
    'Service-Worker-Allowed': '/',
    'Strict-Transport-Security': 'max-age=60',
    'Clear-Site-Data': '"storage", "cache"',
    NEL: '{}',
    'Report-To': '{}',
    'Reporting-Endpoints': 'a="/a"',
  }
  const further = { 'Alt-Svc': 'h3=":1"', 'Public-Key-Pins': 'max-age=1', 'X-WT-Outcome': 'x', 'Proxy-Authenticate': 'Basic' }
  const { headers } = await answersWith({ ...own, ...further })
  for (const [name, value] of Object.entries(own)) assert.equal(headers[name.toLowerCase()], value, name)
  for (const name of Object.keys(further)) assert.equal(headers[name.toLowerCase()], undefined, name)
  for (const value of ['"cookies"', '"*"'])
    assert.equal((await answersWith({ 'Clear-Site-Data': value })).headers['clear-site-data'], undefined, value)
  const shared = await answersWith(own, { host: DOMAIN, path: '/api/run/acme/answers' })
  for (const name of Object.keys(own)) assert.equal(shared.headers[name.toLowerCase()], undefined, name)
})

describe('other hosts', () => {
  test('the domain itself and hosts outside of it are the shared origin', async () => {
    const headers = { authorization: `Bearer ${runtime.master}` }
    for (const host of [DOMAIN, `${DOMAIN.toUpperCase()}.:80`, 'localhost', '[::1]:8080', `acme${DOMAIN}`, `${ACME}.evil.test`, 'example.com']) {
      const issued = await send('/api/tokens/issue', {
        host,
        method: 'POST',
        headers,
        body: JSON.stringify({ ten: 'acme', jtn: 'issued', code: ECHO }),
      })
      assert.deepEqual([issued.status, issued.headers.location], [200, `${runtime.url}/api/run/acme/issued`], host)
      const told = (await send('/api/run/acme/echo', { host })).json()
      assert.deepEqual([told.url, told.wire.url_format], ['/api/run/acme/echo', 1])
      assert.equal((await send('/echo', { host })).status, 404)
    }
  })

  test("hosts below the domain that can be nobody's have nothing at all, the shared origin least of all", async () => {
    for (const host of [
      `a.${ACME}`,
      `.${DOMAIN}`,
      `..${DOMAIN}`,
      `-acme.${DOMAIN}`,
      `a_b.${DOMAIN}`,
      `a$b.${DOMAIN}`,
      `${'a'.repeat(64)}.${DOMAIN}`,
    ]) {
      for (const path of ['/api/run/acme/echo', '/echo', '/', '/api/plans']) {
        const answer = await send(path, { host, headers: { authorization: `Bearer ${runtime.master}` } })
        assert.deepEqual([answer.status, answer.json().error], [404, 'not_found'], `${host}${path}: ${answer.text}`)
      }
    }
  })

  test('a Host that is none, is missing or comes twice leads to no tenant', async () => {
    for (const host of [
      `[::1].${DOMAIN}`,
      `user@${ACME}`,
      `x/${ACME}`,
      `a b.${DOMAIN}`,
      `%61cme.${DOMAIN}`,
      `[${ACME}]`,
      `${ACME}:80:80`,
      `${ACME}, x`,
      '',
    ]) {
      const answer = await send('/echo', { host })
      assert.ok([400, 404].includes(answer.status), `${host}: ${answer.status}`)
      assert.equal(answer.json().code, answer.status)
    }
    assert.match(await say(`GET /echo HTTP/1.1\r\nHost: ${ACME}\r\nHost: globex.${DOMAIN}\r\nConnection: close\r\n\r\n`), /^HTTP\/1\.1 400 /)
    assert.match(await say('GET /echo HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 404 /)
    assert.match(await say(`GET /echo HTTP/1.0\r\nHost: ${ACME}\r\n\r\n`), /^HTTP\/1\.1 200 [^]*"url_format":3/)
  })
})
