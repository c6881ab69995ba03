import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, request, type ClientRequest, type IncomingMessage, type RequestOptions, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { eventually } from '../support/docker.ts'

let runtime: Deployment
let host: Server
let hostUrl: string

before(async () => {
  host = createServer((_incoming, outgoing) => void outgoing.end("module.exports = cb => cb(null, 'from a url')"))
  host.listen(0, '127.0.0.1')
  await once(host, 'listening')
  const { port } = host.address() as AddressInfo
  hostUrl = `http://127.0.0.1:${port}`
  runtime = await startDeployment({ WEBTASK_CODE_HOSTS: `127.0.0.1:${port}` })
  await runtime.issue({ ten: 'acme', jtn: 'echo', code: ECHO })
})

after(async () => {
  await runtime?.[Symbol.asyncDispose]()
  host.closeAllConnections()
  host.close()
})

/** Tells everything that reached the code. */
const ECHO = `module.exports = (ctx, req, res) => {
  const chunks = []
  req.on('data', (chunk) => chunks.push(chunk)).on('end', () => {
    const { id, query, data, secrets, params } = ctx
    res.setHeader('content-type', 'application/json')
    res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.headers, rawHeaders: req.rawHeaders, body: Buffer.concat(chunks).toString(), id, query, data, secrets, params, token: ctx.token, wire: req.x_wt }))
  })
}`

interface Wire {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly rawHeaders: readonly string[]
  readonly text: string
  json(): any
}

interface Sent extends RequestOptions {
  readonly body?: string | Buffer
}

/** One request with exactly these headers. */
async function send(path: string, { body, ...options }: Sent = {}): Promise<Wire> {
  const [incoming, sent] = await begin(path, options, (outgoing) => outgoing.end(body))
  const text = await textOf(incoming)
  void sent
  return { status: incoming.statusCode!, headers: incoming.headers, rawHeaders: incoming.rawHeaders, text, json: () => JSON.parse(text) }
}

async function begin(path: string, options: RequestOptions, write: (outgoing: ClientRequest) => void): Promise<[IncomingMessage, ClientRequest]> {
  const { port } = new URL(runtime.url)
  const outgoing = request({ host: '127.0.0.1', port, path, method: 'GET', agent: false, ...options })
  const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>
  write(outgoing)
  const [incoming] = await answered
  return [incoming, outgoing]
}

async function textOf(incoming: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of incoming.setEncoding('utf8')) text += chunk
  return text
}

function bearer(token = runtime.master): Record<string, string> {
  return { authorization: `Bearer ${token}` }
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${runtime.adminUrl}/metrics`)).text()
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1])
}

describe('an unnamed run', () => {
  test('takes the token as Bearer, and the code does not see it', async () => {
    const answer = await runtime.run(
      'acme',
      'module.exports = (ctx, req, res) => res.end(JSON.stringify([ctx, req.headers, req.rawHeaders, req.url, req.x_wt]))',
    )
    assert.equal(answer.status, 200)
    assert.ok(!answer.text.includes(runtime.master))
    assert.ok(!/authorization/i.test(answer.text))
  })

  test('takes the token as key, and the code does not see it', async () => {
    const code =
      'module.exports = (ctx, req, res) => res.end(JSON.stringify({ url: req.url, query: ctx.query, data: ctx.data, all: [ctx, req.headers, req.rawHeaders, req.x_wt] }))'
    for (const name of ['key', '%6bey', 'k%65y']) {
      const answer = await runtime.ask(`/api/run/acme?a=1&${name}=${runtime.master}&b=2&b=3&monkey=4`, { method: 'POST', body: code })
      assert.equal(answer.status, 200, answer.text)
      const { url, query, data } = answer.json()
      assert.deepEqual(
        { url, query, data },
        { url: '/api/run/acme?a=1&b=2&b=3&monkey=4', query: { a: '1', b: ['2', '3'], monkey: '4' }, data: { a: '1', b: ['2', '3'], monkey: '4' } },
      )
      assert.ok(!answer.text.includes(runtime.master))
    }
  })

  test('fetches its code from webtask_url, which the code does not see in ctx.query', async () => {
    const answer = await runtime.ask(`/api/run/acme?webtask_url=${encodeURIComponent(`${hostUrl}/x.js`)}`, { token: runtime.master })
    assert.equal(answer.text, '"from a url"')
  })

  test('takes code in the body whatever its content type says', async () => {
    const code = "module.exports = (ctx, cb) => cb(null, [`a+b %41&c=d`, ctx.body_raw, ctx.headers['content-type']])"
    for (const type of [
      undefined,
      'text/plain',
      'application/javascript',
      'application/json',
      'application/x-www-form-urlencoded',
      'multipart/form-data; boundary=x',
      'application/octet-stream',
      'nonsense',
    ]) {
      const answer = await send('/api/run/acme', {
        method: 'POST',
        body: code,
        headers: { ...bearer(), 'content-length': Buffer.byteLength(code), ...(type === undefined ? {} : { 'content-type': type }) },
      })
      assert.equal(answer.text, '["a+b %41&c=d",null,null]', String(type))
    }
    const chunked = await send('/api/run/acme', { method: 'PUT', body: code, headers: { ...bearer(), 'transfer-encoding': 'chunked' } })
    assert.equal(chunked.text, '["a+b %41&c=d",null,null]')
  })

  test('gives the code no body when the body was the code', async () => {
    const { body, headers, method } = (
      await send('/api/run/acme', { method: 'POST', body: ECHO, headers: { ...bearer(), 'content-type': 'text/plain' } })
    ).json()
    assert.deepEqual(
      { body, method, type: headers['content-type'], length: headers['content-length'] ?? '0' },
      { body: '', method: 'POST', type: undefined, length: '0' },
    )
  })

  test('without any code is refused with 400 that says how to send some', async () => {
    const answer = await runtime.ask('/api/run/acme', { token: runtime.master })
    assert.equal(answer.status, 400)
    assert.match(answer.json().message, /webtask_url/)
  })

  test('sees the token of its own request, whoever else runs the same code at the same time', async () => {
    const code = 'module.exports = (ctx, cb) => cb(null, ctx.token)'
    const tokens = await Promise.all(Array.from({ length: 5 }, () => runtime.issue({ ten: 'acme', code })))
    const asked = Array.from({ length: 200 }, (_, index) => tokens[(index * 7) % tokens.length]!)
    const seen = await Promise.all(asked.map(async (token) => (await runtime.ask('/api/run/acme', { token })).json()))
    assert.deepEqual(seen, asked)
  })

  test('lets the code see its token only with webtask_share_token', async () => {
    const code = 'module.exports = (ctx, cb) => cb(null, [ctx.token, ctx.query])'
    assert.deepEqual((await runtime.run('acme', code)).json(), [null, {}])
    assert.deepEqual((await runtime.run('acme', code, { query: '?webtask_share_token=1' })).json(), [runtime.master, {}])
  })

  test('parses or leaves the body as webtask_pb and webtask_mb say', async () => {
    const token = await runtime.issue({ ten: 'acme', code: 'module.exports = (ctx, cb) => cb(null, { body: ctx.body, data: ctx.data })' })
    const ask = async (query: string) => (await runtime.ask(`/api/run/acme${query}`, { method: 'POST', token, body: { a: 1 } })).json()
    assert.deepEqual(await ask(''), { body: { a: 1 }, data: {} })
    assert.deepEqual(await ask('?webtask_pb=0'), { data: {} })
    assert.deepEqual(await ask('?webtask_mb=1'), { body: { a: 1 }, data: { a: 1 } })
  })
})

describe('a named run', () => {
  test('is public, and gets its sub-path and query as they were sent', async () => {
    const { url, query, method } = (await send('/api/run/acme/echo/sub/p%20ath/?x=1&x=2&y=%26&webtask_x=3')).json()
    assert.deepEqual({ url, method }, { url: '/api/run/acme/echo/sub/p%20ath/?x=1&x=2&y=%26&webtask_x=3', method: 'GET' })
    assert.deepEqual(query, { x: ['1', '2'], y: '&' })
  })

  test("the caller's Authorization and key belong to the webtask", async () => {
    for (const authorization of ['Bearer application-token', 'Basic dTpw', `Bearer ${runtime.master}`, 'Anything at all']) {
      const answer = await send('/api/run/acme/echo?key=mine', { headers: { authorization } })
      assert.equal(answer.status, 200, answer.text)
      assert.equal(answer.json().headers.authorization, authorization)
      assert.equal(answer.json().url, '/api/run/acme/echo?key=mine')
    }
  })

  test('every method reaches the code, with its body', async () => {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND', 'QUERY']) {
      const body = method === 'GET' || method === 'OPTIONS' ? undefined : `body of ${method}`
      const answer = await send('/api/run/acme/echo', { method, ...(body === undefined ? {} : { body, headers: { 'content-length': body.length } }) })
      assert.equal(answer.status, 200, `${method} ${answer.text}`)
      assert.deepEqual({ method: answer.json().method, body: answer.json().body }, { method, body: body ?? '' })
    }
  })

  test('HEAD runs the code and answers its headers without a body, and the connection stays good', async () => {
    const head = await fetch(`${runtime.url}/api/run/acme/echo`, { method: 'HEAD' })
    assert.equal(head.status, 200)
    assert.equal(head.headers.get('content-type'), 'application/json')
    assert.equal(await head.text(), '')
    assert.equal((await fetch(`${runtime.url}/api/run/acme/echo`)).status, 200)
  })

  test('status, headers and bytes are those that the code chose', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'raw',
      code: `const zlib = require('zlib')
      module.exports = (ctx, req, res) => {
        if (ctx.query.is === 'gzip') { res.writeHead(418, 'Teapot', { 'content-encoding': 'gzip', 'X-Custom': ['one', 'two'] }); return res.end(zlib.gzipSync('zipped')) }
        if (ctx.query.is === 'empty') { res.writeHead(204); return res.end() }
        if (ctx.query.is === 'same') { res.writeHead(304, { etag: '"1"' }); return res.end() }
        res.writeHead(302, { location: '/elsewhere' }); res.end()
      }`,
    })
    const { port } = new URL(runtime.url)
    const outgoing = request({ host: '127.0.0.1', port, path: '/api/run/acme/raw?is=gzip', agent: false }).end()
    const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
    const bytes = Buffer.concat(await incoming.toArray())
    assert.equal(incoming.statusCode, 418)
    assert.equal(gunzipSync(bytes).toString(), 'zipped')
    assert.equal(incoming.headers['x-custom'], 'one, two')
    assert.ok(incoming.rawHeaders.includes('X-Custom'))
    assert.equal((await send('/api/run/acme/raw?is=empty')).status, 204)
    const same = await send('/api/run/acme/raw?is=same')
    assert.deepEqual([same.status, same.headers.etag, same.text], [304, '"1"', ''])
    const moved = await send('/api/run/acme/raw')
    assert.deepEqual([moved.status, moved.headers.location], [302, '/elsewhere'])
  })

  test('an unknown name is 404, and becomes a webtask as soon as it is issued', async () => {
    const missing = await runtime.ask('/api/run/acme/not-yet')
    assert.equal(missing.status, 404)
    assert.match(missing.json().message, /"not-yet".*"acme"/)
    await runtime.issue({ ten: 'acme', jtn: 'not-yet', code: 'module.exports = cb => cb(null, 1)' })
    assert.equal((await runtime.ask('/api/run/acme/not-yet')).text, '1')
  })

  test('a base URL with a trailing slash works: //api/… is /api/…', async () => {
    const run = await send('//api/run/acme/echo/x')
    assert.equal(run.status, 200)
    assert.equal(run.json().url, '/api/run/acme/echo/x')
    const issued = await send('//api/tokens/issue', { method: 'POST', headers: bearer(), body: '{"ten":"acme"}' })
    assert.equal(issued.status, 200)
  })

  test('a request target in absolute form, as proxies send it, works', async () => {
    const run = await send(`${runtime.url}/api/run/acme/echo/x?y=1`)
    assert.equal(run.status, 200, run.text)
    assert.equal(run.json().url, '/api/run/acme/echo/x?y=1')
  })
})

describe('streaming', () => {
  test('the code sees the first bytes of a request before the last are sent, and the caller its answer', async () => {
    await runtime.issue({ ten: 'acme', jtn: 'mirror', code: 'module.exports = (ctx, req, res) => { res.flushHeaders(); req.pipe(res) }' })
    const [incoming, outgoing] = await begin('/api/run/acme/mirror', { method: 'POST' }, (opened) => void opened.write('first'))
    incoming.setEncoding('utf8')
    for (const [heard, next] of [
      ['first', 'second'],
      ['second', 'third'],
      ['third', undefined],
    ] as const) {
      const [chunk] = await once(incoming, 'data')
      assert.equal(chunk, heard)
      if (next === undefined) outgoing.end()
      else outgoing.write(next)
    }
    await once(incoming, 'end')
  })

  test('a server-sent event arrives while the handler still runs', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'events',
      code: `let finish
      module.exports = (ctx, req, res) => {
        if (ctx.query.finish) { finish(); return res.end() }
        res.writeHead(200, { 'content-type': 'text/event-stream' })
        res.write('data: one\\n\\n')
        finish = () => res.end('data: two\\n\\n')
      }`,
    })
    const response = await fetch(`${runtime.url}/api/run/acme/events`)
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
    assert.equal((await reader.read()).value, 'data: one\n\n')
    assert.equal((await runtime.ask('/api/run/acme/events?finish=1')).status, 200)
    assert.equal((await reader.read()).value, 'data: two\n\n')
    assert.equal((await reader.read()).done, true)
  })

  test('status and headers arrive before there is anything of the body', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'head-first',
      code: `let finish
      module.exports = (ctx, req, res) => {
        if (ctx.query.finish) { finish(); return res.end() }
        res.writeHead(202, { 'content-type': 'text/event-stream' })
        res.flushHeaders()
        finish = () => res.end('all')
      }`,
    })
    const response = await fetch(`${runtime.url}/api/run/acme/head-first`, { signal: AbortSignal.timeout(5_000) })
    assert.equal(response.status, 202)
    assert.equal((await runtime.ask('/api/run/acme/head-first?finish=1')).status, 200)
    assert.equal(await response.text(), 'all')
  })

  const GIB = 2 ** 30
  const MEGABYTE = Buffer.alloc(2 ** 20, 'x')

  /** The most that the runtime's memory grew while `work` ran (MiB). */
  async function growth(work: () => Promise<void>): Promise<number> {
    const resident = async () => Number(/^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${runtime.process.pid}/status`, 'utf8'))![1]) / 1024
    const start = await resident()
    let most = start
    const sampling = setInterval(() => void resident().then((now) => (most = Math.max(most, now))), 50)
    try {
      await work()
    } finally {
      clearInterval(sampling)
    }
    return Math.max(most, await resident()) - start
  }

  test('1 GB goes up with flat memory', { timeout: 60_000 }, async (t) => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'count',
      code: "module.exports = (ctx, req, res) => { let bytes = 0; req.on('data', (chunk) => (bytes += chunk.length)).on('end', () => res.end(String(bytes))) }",
    })
    const grown = await growth(async () => {
      const [incoming] = await begin('/api/run/acme/count', { method: 'POST' }, (outgoing) => {
        let left = GIB / MEGABYTE.length
        const pump = () => {
          while (left > 0) {
            left -= 1
            if (!outgoing.write(MEGABYTE)) return void outgoing.once('drain', pump)
          }
          outgoing.end()
        }
        pump()
      })
      assert.equal(await textOf(incoming), String(GIB))
    })
    t.diagnostic(`grew by ${grown.toFixed(0)} MiB`)
    assert.ok(grown < 150, `grew by ${grown} MiB`)
  })

  test('1 GB comes down with flat memory', { timeout: 60_000 }, async (t) => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'pour',
      code: `const chunk = Buffer.alloc(2 ** 20, 'x')
      module.exports = (ctx, req, res) => {
        let left = 1024
        const pump = () => { while (left-- > 0) if (!res.write(chunk)) return res.once('drain', pump); res.end() }
        pump()
      }`,
    })
    const grown = await growth(async () => {
      const [incoming] = await begin('/api/run/acme/pour', {}, (outgoing) => void outgoing.end())
      let bytes = 0
      for await (const chunk of incoming) bytes += chunk.length
      assert.equal(bytes, GIB)
    })
    t.diagnostic(`grew by ${grown.toFixed(0)} MiB`)
    assert.ok(grown < 150, `grew by ${grown} MiB`)
  })

  test('a caller who reads slowly slows the code down instead of filling memory', { timeout: 30_000 }, async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'meter',
      code: `const chunk = Buffer.alloc(2 ** 20, 'x')
      let sent = 0
      module.exports = (ctx, req, res) => {
        if (ctx.query.sent) return res.end(String(sent))
        const pump = () => { while (!res.destroyed && sent < 1024) { sent++; if (!res.write(chunk)) return res.once('drain', pump) } }
        pump()
      }`,
    })
    const [incoming, outgoing] = await begin('/api/run/acme/meter', {}, (opened) => void opened.end())
    incoming.pause()
    const counted = async () => Number((await send('/api/run/acme/meter?sent=1')).text)
    let before = -1
    const settled = await eventually('the code stops writing', async () => {
      const now = await counted()
      const same = now === before
      before = now
      return same && now
    })
    assert.ok(settled < 100, `the code wrote ${settled} MiB to a caller who read nothing`)
    outgoing.destroy()
  })
})

describe('a caller who leaves', () => {
  test('frees the lease, and the code sees that nobody listens', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'waits',
      code: `const seen = []
      module.exports = (ctx, req, res) => {
        if (ctx.query.seen) return res.end(JSON.stringify(seen))
        res.on('close', () => seen.push('closed'))
        if (ctx.query.stream) res.write('begun')
        else seen.push('silent')
      }`,
    })
    const seen = async () => (await send('/api/run/acme/waits?seen=1')).json() as string[]

    const silent = new AbortController()
    const never = fetch(`${runtime.url}/api/run/acme/waits`, { signal: silent.signal }).catch((error: Error) => error.name)
    await eventually('the code runs', async () => (await seen()).includes('silent'))
    assert.equal(await metric('webtask_invocations_running'), 1)
    silent.abort()
    assert.equal(await never, 'AbortError')
    await eventually('the code of the silent run sees the close', async () => (await seen()).length === 2)
    await eventually('its lease is free', async () => (await metric('webtask_invocations_running')) === 0)

    const [incoming, outgoing] = await begin('/api/run/acme/waits?stream=1', {}, (opened) => void opened.end())
    await once(incoming, 'data')
    assert.equal(await metric('webtask_invocations_running'), 1)
    outgoing.destroy()
    await eventually('the code of the streaming run sees the close', async () => (await seen()).length === 3)
    await eventually('its lease is free', async () => (await metric('webtask_invocations_running')) === 0)
  })

  test('in the middle of an upload frees the lease too', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'upload',
      code: `let state = 'none'
      module.exports = (ctx, req, res) => {
        if (ctx.query.state) return res.end(state)
        req.on('data', () => (state = 'reading')).on('close', () => (state = req.complete ? 'whole' : 'cut off')).on('error', () => {})
      }`,
    })
    const { port } = new URL(runtime.url)
    const outgoing = request({
      host: '127.0.0.1',
      port,
      path: '/api/run/acme/upload',
      method: 'POST',
      agent: false,
      headers: { 'content-length': 1_000_000 },
    })
    outgoing.on('error', () => {})
    outgoing.write('a little')
    await eventually('the code reads', async () => (await send('/api/run/acme/upload?state=1')).text === 'reading')
    outgoing.destroy()
    await eventually('the code sees the end', async () => (await send('/api/run/acme/upload?state=1')).text === 'cut off')
    await eventually('the lease is free', async () => (await metric('webtask_invocations_running')) === 0)
  })

  test('before the code in the body is whole leaves nothing running', async () => {
    const { port } = new URL(runtime.url)
    const outgoing = request({
      host: '127.0.0.1',
      port,
      path: '/api/run/acme',
      method: 'POST',
      agent: false,
      headers: { ...bearer(), 'content-length': 1000 },
    })
    outgoing.on('error', () => {})
    outgoing.write('module.exports')
    await once(outgoing, 'socket')
    outgoing.destroy()
    await eventually('nothing runs', async () => (await metric('webtask_invocations_running')) === 0)
    assert.equal((await send('/api/run/acme/echo')).status, 200)
  })
})

describe('browsers', () => {
  const origin = 'https://app.example'

  test('a preflight is answered with what was asked for, without running the code', async () => {
    await runtime.issue({ ten: 'acme', jtn: 'no-run', code: "module.exports = (ctx, req, res) => { res.writeHead(500); res.end('ran') }" })
    for (const path of ['/api/run/acme/no-run', '/api/run/acme', '/api/run/acme/missing', '/api/tokens/issue']) {
      const answer = await send(path, {
        method: 'OPTIONS',
        headers: { origin, 'access-control-request-method': 'PATCH', 'access-control-request-headers': 'authorization, x-mine' },
      })
      assert.ok(answer.status === 200 || answer.status === 204, `${path} ${answer.status}`)
      assert.equal(answer.headers['access-control-allow-origin'], origin)
      assert.match(String(answer.headers['access-control-allow-methods']), /\bPATCH\b/)
      assert.equal(answer.headers['access-control-allow-headers'], 'authorization, x-mine')
      assert.ok(Number(answer.headers['access-control-max-age']) > 0)
      assert.match(answer.headers.vary!, /origin/i)
    }
  })

  test('a preflight that asks for no headers is answered too', async () => {
    const answer = await send('/api/run/acme/echo', { method: 'OPTIONS', headers: { origin, 'access-control-request-method': 'GET' } })
    assert.ok(answer.status === 200 || answer.status === 204)
    assert.equal(answer.headers['access-control-allow-origin'], origin)
  })

  test('a page may read every answer: of the code, of the platform, good or bad', async () => {
    const asks: [string, Sent, number][] = [
      ['/api/run/acme/echo', {}, 200],
      ['/api/run/acme/missing', {}, 404],
      ['/api/run/acme', { method: 'POST', body: 'x' }, 401],
      ['/api/run/acme', { method: 'POST', body: 'module.exports = 1', headers: bearer() }, 400],
      ['/api/run/acme', { method: 'POST', body: "module.exports = cb => cb(new Error('x'))", headers: bearer() }, 400],
      ['/api/tokens/issue', { method: 'POST', body: '{"ten":"acme"}', headers: bearer() }, 200],
      ['/api/tokens/issue', { method: 'POST', body: '{}' }, 401],
      ['/nowhere', {}, 404],
    ]
    for (const [path, sent, status] of asks) {
      const answer = await send(path, { ...sent, headers: { origin, ...(sent.headers as Record<string, string>) } })
      assert.equal(answer.status, status, `${path} ${answer.text}`)
      assert.equal(answer.headers['access-control-allow-origin'], origin, path)
      assert.equal(values(answer, 'access-control-allow-origin').length, 1)
      assert.match(answer.headers.vary ?? '', /origin/i)
    }
  })

  test("a webtask's own CORS headers win", async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'own-cors',
      code: "module.exports = (ctx, req, res) => { res.setHeader('Access-Control-Allow-Origin', 'https://only.example'); res.end() }",
    })
    assert.deepEqual(values(await send('/api/run/acme/own-cors', { headers: { origin } }), 'access-control-allow-origin'), ['https://only.example'])
  })

  test('a request without Origin gets no CORS headers', async () => {
    assert.equal((await send('/api/run/acme/echo')).headers['access-control-allow-origin'], undefined)
  })

  test('OPTIONS that is no preflight reaches the code', async () => {
    assert.equal((await send('/api/run/acme/echo', { method: 'OPTIONS', headers: { origin } })).json().method, 'OPTIONS')
  })
})

function values({ rawHeaders }: Pick<Wire, 'rawHeaders'>, name: string): string[] {
  return rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]!.toLowerCase() === name)
}

describe('headers', () => {
  test('a scheme that is none does not break the URL that code sees', async () => {
    const code = 'export default { fetch: (request) => new Response(request.url) }'
    const seen = async (proto: string) => (await runtime.run('acme', code, { headers: { 'x-forwarded-proto': proto } })).text.split(':', 1)[0]
    assert.equal(await seen('https'), 'https')
    assert.equal(await seen('HTTPS, http'), 'https')
    for (const odd of ['javascript', 'http', '', 'x:y', '\xe4']) assert.equal(await seen(odd), 'http', odd)
  })

  test('x-wt-* of the caller never reaches the code, and x-wt-* of the code never reaches the caller', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'inner',
      code: "module.exports = (ctx, req, res) => { res.setHeader('X-Wt-Outcome', 'fake'); res.setHeader('x-wt-anything', '1'); res.end(JSON.stringify([req.headers, req.rawHeaders, ctx.headers])) }",
    })
    for (const path of ['/api/run/acme/inner', '/api/run/acme/inner/sub']) {
      const forged = Buffer.from(JSON.stringify({ container: 'globex', ectx: { a: 'b' }, token: 'forged' })).toString('base64')
      const answer = await send(path, {
        headers: { 'x-wt-params': forged, 'X-WT-Invocation': '{"id":"forged","base":"/forged","format":1}', 'x-wt-runtime': 'node8' },
      })
      assert.equal(answer.status, 200)
      assert.doesNotMatch(answer.text, /x-wt-/i)
      assert.deepEqual(
        answer.rawHeaders.filter((name) => /^x-wt-/i.test(name)),
        [],
      )
    }
    const { wire } = (await send('/api/run/acme/echo', { headers: { 'x-wt-params': 'e30=' } })).json()
    assert.deepEqual([wire.container, wire.jtn, wire.url_format], ['acme', 'echo', 1])
  })

  test('cookies are stripped both ways', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'cookie',
      code: "module.exports = (ctx, req, res) => { res.setHeader('Set-Cookie', ['a=1', 'b=2; Path=/']); res.end(JSON.stringify([req.headers, req.rawHeaders])) }",
    })
    const answer = await send('/api/run/acme/cookie', { headers: { Cookie: 'session=1' } })
    assert.doesNotMatch(answer.text, /cookie|session=1/i)
    assert.equal(answer.headers['set-cookie'], undefined)
  })

  test('a webtask cannot change what belongs to the whole origin', async () => {
    const names = [
      'Clear-Site-Data',
      'Service-Worker-Allowed',
      'Strict-Transport-Security',
      'Alt-Svc',
      'NEL',
      'Report-To',
      'Use-As-Dictionary',
      'Sec-Session-Registration',
    ]
    await runtime.issue({
      ten: 'acme',
      jtn: 'origin-wide',
      code: `module.exports = (ctx, req, res) => { for (const name of ${JSON.stringify(names)}) res.setHeader(name, '"x"'); res.end() }`,
    })
    const { headers } = await send('/api/run/acme/origin-wide')
    for (const name of names) assert.equal(headers[name.toLowerCase()], undefined, name)
  })

  test('a script of a webtask is no service worker: that would rule the pages of all tenants', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'script',
      code: `module.exports = (ctx, req, res) => res.writeHead(200, { 'content-type': 'text/javascript' }).end('1')`,
    })
    assert.equal((await send('/api/run/acme/script')).status, 200)
    const refused = await send('/api/run/acme/script', { headers: { 'service-worker': 'script' } })
    assert.deepEqual([refused.status, refused.json().error], [403, 'forbidden'])
  })

  test('orders to a proxy before us stay with the webtask, but the one that asks for no buffering', async () => {
    const orders = ['X-Accel-Redirect', 'X-Accel-Expires', 'X-Sendfile', 'X-Lighttpd-Send-File', 'X-Reproxy-URL']
    await runtime.issue({
      ten: 'acme',
      jtn: 'orders',
      code: `module.exports = (ctx, req, res) => { for (const name of ${JSON.stringify([...orders, 'X-Accel-Buffering'])}) res.setHeader(name, 'no'); res.end() }`,
    })
    const { headers } = await send('/api/run/acme/orders')
    for (const name of orders) assert.equal(headers[name.toLowerCase()], undefined, name)
    assert.equal(headers['x-accel-buffering'], 'no')
  })

  test('hop-by-hop headers end at the front door, in both directions', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'hops',
      code: `module.exports = (ctx, req, res) => {
      res.writeHead(200, { Connection: 'close, X-Inner', 'X-Inner': '1', 'Keep-Alive': 'timeout=1', 'Proxy-Authenticate': 'Basic', 'X-Outer': '1' })
      res.end(JSON.stringify(req.headers))
    }`,
    })
    const answer = await send('/api/run/acme/hops', {
      headers: {
        connection: 'close, X-Hop',
        'x-hop': '1',
        'keep-alive': 'timeout=1',
        te: 'trailers',
        'proxy-authorization': 'Basic dTpw',
        'proxy-connection': 'close',
        'x-end': '1',
      },
    })
    const reached = answer.json()
    for (const name of ['x-hop', 'te', 'proxy-authorization', 'proxy-connection', 'upgrade']) assert.equal(reached[name], undefined, name)
    assert.equal(reached['x-end'], '1')
    for (const name of ['x-inner', 'proxy-authenticate']) assert.equal(answer.headers[name], undefined, name)
    assert.equal(answer.headers['x-outer'], '1')
    assert.notEqual(answer.headers['keep-alive'], 'timeout=1')
    assert.equal((await send('/api/run/acme/hops')).status, 200)
  })

  test('ordinary headers pass as they are, repeated ones included', async () => {
    const { headers, rawHeaders } = (
      await send('/api/run/acme/echo', {
        headers: { 'X-Mixed-Case': 'Ünï'.normalize('NFC'), 'x-list': ['a', 'b'], accept: 'text/x', 'user-agent': 'me', host: 'public.example' },
      })
    ).json()
    assert.ok(rawHeaders.includes('X-Mixed-Case'))
    assert.deepEqual([headers['x-list'], headers.accept, headers['user-agent'], headers.host], ['a, b', 'text/x', 'me', 'public.example'])
  })

  test('every answer has its own x-request-id, which is ctx.id and stands in error bodies', async () => {
    const ids = new Set<string>()
    for (const path of ['/api/run/acme/echo', '/api/run/acme/echo', '/api/run/acme/missing', '/api/run', '/nowhere', '/api/tokens/inspect']) {
      const answer = await send(path, { headers: { 'x-request-id': 'of-the-caller' } })
      const [id, ...more] = values(answer, 'x-request-id')
      assert.match(id!, /^\d+\.\d+$/, path)
      assert.deepEqual(more, [])
      assert.equal(answer.json().id ?? answer.json().requestId, id)
      ids.add(id!)
    }
    assert.equal(ids.size, 6)
  })

  test("a webtask's own x-request-id does not stand beside ours", async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'own-id',
      code: "module.exports = (ctx, req, res) => { res.setHeader('X-Request-Id', 'mine'); res.end(ctx.id) }",
    })
    const answer = await send('/api/run/acme/own-id')
    assert.deepEqual(values(answer, 'x-request-id'), [answer.text])
  })

  test('a caller that waits for 100 Continue gets it, and then its answer', async () => {
    const { port } = new URL(runtime.url)
    const outgoing = request({
      host: '127.0.0.1',
      port,
      path: '/api/run/acme/echo',
      method: 'POST',
      agent: false,
      headers: { expect: '100-continue', 'content-length': 5 },
    })
    outgoing.flushHeaders()
    await once(outgoing, 'continue')
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>
    outgoing.end('hello')
    const { body, headers } = JSON.parse(await textOf((await answered)[0]))
    assert.deepEqual([body, headers.expect], ['hello', undefined])
  })
})

describe('many callers', () => {
  test('100 simultaneous first requests of one tenant all succeed in one container', async () => {
    const code = "module.exports = cb => cb(null, process.env.HOSTNAME + ' ' + (global.mark ||= Math.random()))"
    await runtime.issue({ ten: 'crowd', jtn: 'first', code })
    const answers = await Promise.all(Array.from({ length: 100 }, () => runtime.ask('/api/run/crowd/first')))
    assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]))
    assert.equal(new Set(answers.map(({ text }) => text)).size, 1)
  })

  test('answers never get mixed up', async () => {
    const answers = await Promise.all(
      Array.from({ length: 300 }, async (_, i) => (await send(`/api/run/acme/echo/${i}`, { method: 'POST', body: `body ${i}` })).json()),
    )
    answers.forEach(({ url, body }, i) => assert.deepEqual({ url, body }, { url: `/api/run/acme/echo/${i}`, body: `body ${i}` }))
  })

  test('a body that the code does not read does not spoil the connection', async () => {
    await runtime.issue({ ten: 'acme', jtn: 'ignores', code: "module.exports = (ctx, req, res) => res.end('early')" })
    for (let i = 0; i < 5; i += 1) {
      const answer = await runtime.ask('/api/run/acme/ignores', { method: 'POST', body: new Uint8Array(3_000_000) })
      assert.deepEqual([answer.status, answer.text], [200, 'early'])
      assert.equal((await runtime.ask('/api/run/acme/echo')).status, 200)
    }
    await eventually('nothing runs', async () => (await metric('webtask_invocations_running')) === 0)
  })
})
