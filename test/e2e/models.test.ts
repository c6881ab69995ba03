import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { startDeployment, type Answer, type Deployment } from '../support/deployment.ts'

let runtime: Deployment
let names = 0

before(async () => {
  runtime = await startDeployment()
})

after(() => runtime?.[Symbol.asyncDispose]())

/** Issues code as a named webtask; gives the way to ask it. */
async function webtask(
  code: string,
  claims: Record<string, unknown> = {},
): Promise<(sub?: string, options?: Parameters<Deployment['ask']>[1]) => Promise<Answer>> {
  const name = `model-${++names}`
  await runtime.issue({ ten: 'acme', jtn: name, code, ...claims })
  return async (sub = '', options = {}) => {
    const answer = await runtime.ask(`/api/run/acme/${name}${sub}`, options)
    assert.ok(answer.status < 500, answer.text)
    return answer
  }
}

async function textOf(code: string): Promise<string> {
  return (await (await webtask(code))()).text
}

describe('every form of function answers as its author meant', () => {
  const forms: [what: string, code: string, text: string][] = [
    ['(cb)', "module.exports = function (cb) { cb(null, 'one') }", '"one"'],
    ['(ctx, cb)', 'module.exports = function (ctx, cb) { cb(null, { container: typeof ctx.id }) }', '{"container":"string"}'],
    [
      '(ctx, req, res)',
      "module.exports = function (ctx, req, res) { res.writeHead(200, { 'content-type': 'text/plain' }); res.end('three') }",
      'three',
    ],
    ['a top-level return of a function', 'return function (ctx, cb) { cb(null, [1]) }', '[1]'],
    ["'use latest'", "'use latest'; const f = (cb) => { const { a, ...rest } = { a: 1, b: 2 }; cb(null, rest) }; module.exports = f", '{"b":2}'],
    ['an async function without parameters', 'module.exports = async () => ({ async: true })', '{"async":true}'],
    ['an async function of ctx', 'module.exports = async (ctx) => Object.keys(ctx.query)', '[]'],
    ['an async function of ctx and cb that calls back', "module.exports = async (ctx, cb) => { cb(null, 'called') }", '"called"'],
    ['an async function of ctx and cb that returns', "module.exports = async (ctx, cb) => 'returned'", '"returned"'],
    ['an async function of ctx, req and res', "module.exports = async (ctx, req, res) => { await null; res.end('awaited') }", 'awaited'],
    ['an ES module', "import { basename } from 'node:path'\nexport default (cb) => cb(null, basename('/a/b'))", '"b"'],
    ['an ES module with top-level await', 'const value = await Promise.resolve(7)\nexport default async () => ({ value })', '{"value":7}'],
    [
      'TypeScript',
      'interface Thing { readonly a: number }\nconst thing: Thing = { a: 1 }\nmodule.exports = (ctx: unknown, cb: (error: null, result: Thing) => void): void => cb(null, thing)',
      '{"a":1}',
    ],
    [
      'TypeScript as an ES module',
      "import type { IncomingMessage } from 'node:http'\ntype Pair = [string, number]\nconst pair = ['a', 1] satisfies Pair\nexport default async (_ctx: { req?: IncomingMessage }): Promise<Pair> => pair",
      '["a",1]',
    ],
    ['a fetch handler', "export default { async fetch(request) { return new Response('fetched ' + request.method) } }", 'fetched GET'],
    [
      'a fetch handler in TypeScript',
      "export default { fetch(request: Request): Response { return new Response('typed ' + new URL(request.url).pathname) } }",
      'typed /',
    ],
    ['a fetch handler in CommonJS', 'module.exports = { fetch: () => Response.json({ ok: 1 }) }', '{"ok":1}'],
    [
      'a default export compiled to CommonJS',
      "Object.defineProperty(exports, '__esModule', { value: true }); exports.default = (cb) => cb(null, 'compiled')",
      '"compiled"',
    ],
  ]
  for (const [what, code, text] of forms) {
    test(what, async () => assert.equal(await textOf(code), text))
  }

  test('results are JSON with the content type of JSON, and falsy ones are {}', async () => {
    const ask = await webtask('module.exports = (ctx, cb) => cb(null, eval(`(${ctx.query.value})`))')
    for (const [value, text] of [
      ['{ a: [1, null] }', '{"a":[1,null]}'],
      ['"ä"', '"ä"'],
      ['new Date(0)', '"1970-01-01T00:00:00.000Z"'],
      ['true', 'true'],
      ['0', '{}'],
      ['""', '{}'],
      ['null', '{}'],
      ['undefined', '{}'],
      ['false', '{}'],
    ] as const) {
      const answer = await ask(`?value=${encodeURIComponent(value)}`)
      assert.equal(answer.text, text)
      assert.match(answer.headers.get('content-type')!, /^application\/json/)
    }
  })
})

describe('fetch handlers', () => {
  test('get a web Request, secrets and parameters as env, and ctx, and stream their Response', async () => {
    const ask = await webtask(
      `export default { async fetch(request, env, ctx) {
        const stream = new ReadableStream({ async start(controller) { for (const part of ['a', 'b']) controller.enqueue(new TextEncoder().encode(part)); controller.close() } })
        if (new URL(request.url).pathname === '/stream') return new Response(stream, { status: 201, headers: { 'x-own': 'yes' } })
        return Response.json({ method: request.method, url: new URL(request.url).pathname + new URL(request.url).search, type: request.headers.get('content-type'), body: await request.text(), env, id: ctx.id, waits: typeof ctx.waitUntil, meta: ctx.meta })
      } }`,
      { ectx: { secret: 's' }, pctx: { param: 'p' }, meta: { m: '1' } },
    )
    const answer = await ask('/sub?x=1', { method: 'POST', body: 'hello', headers: { 'content-type': 'text/x' } })
    assert.deepEqual(answer.json(), {
      method: 'POST',
      url: '/sub?x=1',
      type: 'text/x',
      body: 'hello',
      env: { secret: 's', param: 'p' },
      id: answer.headers.get('x-request-id'),
      waits: 'function',
      meta: { m: '1' },
    })
    const streamed = await ask('/stream')
    assert.deepEqual([streamed.status, streamed.headers.get('x-own'), streamed.text], [201, 'yes', 'ab'])
  })

  test('that return no Response fail with 500 that says so', async () => {
    const answer = await runtime.run('acme', "export default { fetch: () => 'text' }")
    assert.equal(answer.status, 500)
    assert.match(answer.json().message, /Response/)
  })
})

describe('apps', () => {
  test('a Hono app routes below its webtask', async () => {
    const ask = await webtask(`import { Hono } from 'hono'
      const app = new Hono()
      app.get('/', (c) => c.text('root'))
      app.get('/users/:id', (c) => c.json({ id: c.req.param('id'), q: c.req.query('q') }))
      app.post('/echo', async (c) => c.json(await c.req.json(), 201))
      export default app`)
    assert.equal((await ask()).text, 'root')
    assert.equal((await ask('/')).text, 'root')
    assert.deepEqual((await ask('/users/7?q=x')).json(), { id: '7', q: 'x' })
    const posted = await ask('/echo', { method: 'POST', body: { a: 1 } })
    assert.deepEqual([posted.status, posted.json()], [201, { a: 1 }])
    assert.equal((await ask('/nowhere')).status, 404)
  })

  test('an Express app routes below its webtask, with middleware and bodies', async () => {
    const ask = await webtask(
      `const express = require('express')
      const app = express()
      app.use(require('body-parser').json())
      app.use((req, res, next) => { res.set('x-middleware', 'ran'); next() })
      app.get('/', (req, res) => res.send('root'))
      app.get('/users/:id', (req, res) => res.json({ id: req.params.id, q: req.query.q, container: req.x_wt.container, secret: req.webtaskContext.secrets.s }))
      app.post('/echo', (req, res) => res.status(201).json(req.body))
      module.exports = app`,
      { ectx: { s: 'x' } },
    )
    assert.equal((await ask()).text, 'root')
    const user = await ask('/users/7?q=x')
    assert.deepEqual(user.json(), { id: '7', q: 'x', container: 'acme', secret: 'x' })
    assert.equal(user.headers.get('x-middleware'), 'ran')
    const posted = await ask('/echo', { method: 'POST', body: { a: 1 } })
    assert.deepEqual([posted.status, posted.json()], [201, { a: 1 }])
    assert.equal((await ask('/nowhere')).status, 404)
  })

  test('an Express app through webtask-tools works as its users wrote it', async () => {
    const ask = await webtask(
      `const Express = require('express'), Webtask = require('webtask-tools')
      const app = Express()
      app.get('/hi', (req, res) => res.send('hi ' + req.webtaskContext.secrets.who))
      module.exports = Webtask.fromExpress(app)`,
      { ectx: { who: 'ann' } },
    )
    assert.equal((await ask('/hi')).text, 'hi ann')
  })
})

describe('packages', () => {
  test('those of the image can be required and imported, in plain and versioned form', async () => {
    assert.equal(await textOf("const _ = require('lodash'); module.exports = cb => cb(null, _.chunk([1, 2, 3], 2))"), '[[1,2],[3]]')
    assert.equal(await textOf("module.exports = cb => cb(null, require('lodash@3.10.1').VERSION)"), '"3.10.1"')
    assert.equal(await textOf("import moment from 'moment'\nexport default async () => moment.utc(0).format('YYYY')"), '"1970"')
    assert.equal(await textOf("module.exports = async () => (await import('uuid')).v4().length"), '36')
    assert.equal(await textOf("module.exports = cb => cb(null, Object.keys(require('jsonwebtoken')).includes('verify'))"), 'true')
  })

  test("Node's own modules are there too", async () => {
    assert.equal(
      await textOf(
        "const { createHash } = require('crypto'); module.exports = cb => cb(null, createHash('sha256').update('').digest('hex').slice(0, 8))",
      ),
      '"e3b0c442"',
    )
  })
})

describe('what the code is told', () => {
  const SHOW =
    'module.exports = (ctx, cb) => cb(null, { data: ctx.data, query: ctx.query, body: ctx.body, body_raw: ctx.body_raw, params: ctx.params, secrets: ctx.secrets, meta: ctx.meta, headers: ctx.headers, id: ctx.id, token: ctx.token })'

  test('query, parameters, secrets, metadata, headers and id each have their place', async () => {
    const ask = await webtask(SHOW, { ectx: { s: '1', nested: { deep: 'x' } }, pctx: { p: '2' }, meta: { m: '3' } })
    const answer = await ask('?q=4&q=5&webtask_x=6', { headers: { 'X-Mine': 'yes' } })
    const { query, params, secrets, meta, headers, id, body, body_raw } = answer.json()
    assert.deepEqual(
      { query, params, secrets, meta },
      { query: { q: ['4', '5'] }, params: { p: '2' }, secrets: { s: '1', nested: { deep: 'x' } }, meta: { m: '3' } },
    )
    assert.equal(headers['x-mine'], 'yes')
    assert.equal(id, answer.headers.get('x-request-id'))
    assert.deepEqual([body, body_raw], [undefined, undefined])
  })

  test('ctx.data holds query, then parameters, then secrets; the body fills only what is left', async () => {
    const ask = await webtask(SHOW, { ectx: { secret: 'secret', all: 'secret' }, pctx: { param: 'param', all: 'param', secret: 'param' }, mb: 1 })
    const { data } = (
      await ask('?query=query&all=query&param=query&secret=query&empty=', {
        method: 'POST',
        body: { all: 'body', secret: 'body', param: 'body', query: 'body', empty: 'body', own: 'body' },
      })
    ).json()
    assert.deepEqual(data, { query: 'query', param: 'param', secret: 'secret', all: 'secret', empty: 'body', own: 'body' })
  })

  test('without mb the body stays out of ctx.data', async () => {
    const ask = await webtask(SHOW)
    assert.deepEqual((await ask('?a=1', { method: 'POST', body: { b: 2 } })).json().data, { a: '1' })
  })

  test('bodies are parsed by their content type, and always there raw', async () => {
    const ask = await webtask(SHOW)
    const post = async (type: string | undefined, body: string) => {
      const { body: parsed, body_raw } = (await ask('', { method: 'POST', body, headers: type === undefined ? {} : { 'content-type': type } })).json()
      return [parsed, body_raw]
    }
    assert.deepEqual(await post('application/json', '{"a":[1]}'), [{ a: [1] }, '{"a":[1]}'])
    assert.deepEqual(await post('application/json; charset=utf-8', '{"ä":"ü"}'), [{ ä: 'ü' }, '{"ä":"ü"}'])
    assert.deepEqual(await post('application/x-www-form-urlencoded', 'a=1&a=2&b=%C3%A4+x&c[d]=3'), [
      { a: ['1', '2'], b: 'ä x', 'c[d]': '3' },
      'a=1&a=2&b=%C3%A4+x&c[d]=3',
    ])
    assert.deepEqual(await post('text/plain', '{"a":1}'), [undefined, '{"a":1}'])
    assert.deepEqual(await post('application/json', '{"a":'), [undefined, '{"a":'])
  })

  test('a function of three parameters gets the stream untouched', async () => {
    const ask = await webtask(
      "module.exports = (ctx, req, res) => { let text = ''; req.on('data', c => text += c).on('end', () => res.end(JSON.stringify([ctx.body ?? null, ctx.body_raw ?? null, text]))) }",
    )
    assert.deepEqual((await ask('', { method: 'POST', body: { a: 1 } })).json(), [null, null, '{"a":1}'])
  })

  test('req.x_wt is what helpers read', async () => {
    const ask = await webtask('module.exports = (ctx, req, res) => res.end(JSON.stringify(req.x_wt))', {
      ectx: { s: '1' },
      pctx: { p: '2' },
      meta: { m: '3' },
      pb: 0,
      mb: 1,
    })
    const answer = await ask()
    const { container, jtn, url_format, ectx, pctx, meta, pb, mb, req_id } = answer.json()
    assert.deepEqual(
      { container, url_format, ectx, pctx, meta, pb, mb },
      { container: 'acme', url_format: 1, ectx: { s: '1' }, pctx: { p: '2' }, meta: { m: '3' }, pb: 0, mb: 1 },
    )
    assert.equal(jtn, `model-${names}`)
    assert.equal(req_id, answer.headers.get('x-request-id'))
  })

  test('module.webtask tells secrets, parameters and metadata while the module loads', async () => {
    const code =
      'const api = module.webtask; module.exports = cb => cb(null, { secrets: api.secrets, params: api.params, meta: api.meta, storage: typeof api.storage })'
    const ask = await webtask(code, { ectx: { s: '1' }, pctx: { p: '2' }, meta: { m: '3' } })
    assert.deepEqual((await ask()).json(), { secrets: { s: '1' }, params: { p: '2' }, meta: { m: '3' }, storage: 'object' })
  })

  test('what one request changes in its ctx, the next does not see', async () => {
    const ask = await webtask(
      "module.exports = (ctx, cb) => { const seen = [ctx.secrets.s, ctx.params.p, ctx.meta.m, ctx.data.x]; ctx.secrets.s = ctx.params.p = ctx.meta.m = ctx.data.x = 'changed'; cb(null, seen) }",
      { ectx: { s: '1' }, pctx: { p: '2' }, meta: { m: '3' } },
    )
    for (let i = 0; i < 2; i += 1) assert.deepEqual((await ask()).json(), ['1', '2', '3', null])
  })

  test('module state and global survive from request to request of the same webtask', async () => {
    const ask = await webtask('let count = 0; module.exports = cb => cb(null, [++count, global.count = (global.count || 0) + 1])')
    for (let i = 1; i <= 3; i += 1) assert.deepEqual((await ask()).json(), [i, i])
  })

  test('two webtasks of a tenant share no global state', async () => {
    const set = await webtask("global.shared = Object.prototype.leaked = 'mine'; module.exports = cb => cb(null, global.shared)")
    const get = await webtask('module.exports = cb => cb(null, [global.shared || null, ({}).leaked || null])')
    assert.equal((await set()).text, '"mine"')
    assert.equal((await get()).text, '[null,null]')
  })

  test('environment variables of the platform are not there to read', async () => {
    const text = await textOf('module.exports = cb => cb(null, process.env)')
    assert.doesNotMatch(text, /WEBTASK|REDIS|TOKEN/i)
  })
})

describe('create_token', () => {
  test('makes a token derived from the one that runs the code', async () => {
    const code =
      "module.exports = (ctx, cb) => ctx.create_token(ctx.query.claims ? JSON.parse(ctx.query.claims) : 'https://example.com/x.js', (error, token) => cb(null, error ? { refused: error.message } : { token }))"
    const parent = await runtime.issue({ ten: 'acme', dd: 3 })
    const run = async (query = '') =>
      (await runtime.ask(`/api/run/acme?webtask_share_token=1${query}`, { method: 'POST', token: parent, body: code })).json()
    const { token } = await run()
    const inspected = (await runtime.ask(`/api/tokens/inspect?token=${token}`, { token: parent })).json()
    assert.deepEqual([inspected.ten, inspected.url, inspected.dd], ['acme', 'https://example.com/x.js', 0])
    const inline = await run(
      `&claims=${encodeURIComponent(JSON.stringify({ code: "module.exports = cb => cb(null, 'derived')", exp: Math.floor(Date.now() / 1000) + 100 }))}`,
    )
    assert.equal((await runtime.ask('/api/run/acme', { token: inline.token })).text, '"derived"')
    assert.match((await run(`&claims=${encodeURIComponent('{"ten":"globex"}')}`)).refused, /"ten"/)
  })

  test('returns a promise without a callback, and gives a URL that runs as create_token_url', async () => {
    const code =
      "module.exports = async (ctx) => [typeof await ctx.create_token({ code: 'module.exports = cb => cb()' }), await ctx.create_token_url({ code: \"module.exports = cb => cb(null, 'by url')\" })]"
    const token = await runtime.issue({ ten: 'acme', dd: 1 })
    const [type, url] = (await runtime.ask('/api/run/acme?webtask_share_token=1', { method: 'POST', token, body: code })).json()
    assert.equal(type, 'string')
    assert.equal(await (await fetch(url)).text(), '"by url"')
  })

  test('is refused to code that was not given its token, and to a token without depth', async () => {
    const code = 'module.exports = (ctx, cb) => ctx.create_token({}, (error) => cb(null, { refused: error && error.message }))'
    assert.match((await runtime.run('acme', code)).json().refused, /token/)
    const ask = await webtask(code)
    assert.match((await ask()).json().refused, /may not issue/)
  })
})

test("code does not get into the supervisor, where its tenant's other secrets pass, by the inspector of any thread", async () => {
  const looks = `
    const told = {}
    const attempt = (name, act) => { try { told[name] = act() } catch (error) { told[name] = error.code ?? error.name } }
    attempt('inspector', () => { const session = new (require('inspector').Session)(); session.connectToMainThread(); return 'connected' })
    attempt('promises', () => { const session = new (require('inspector/promises').Session)(); session.connectToMainThread(); return 'connected' })
    attempt('binding', () => typeof process.binding('inspector').MainThreadConnection)`
  const code = `const { Worker } = require('worker_threads')
    const looks = ${JSON.stringify(looks)}
    const inThread = (options, Kind = Worker) => new Promise((resolve, reject) => new Kind(looks + "; require('worker_threads').parentPort.postMessage(told)", { eval: true, ...options }).once('message', resolve).once('error', reject))
    module.exports = async () => {
      ${looks}
      const threads = [await inThread(), await inThread({ execArgv: [] }), await inThread({ env: { NODE_OPTIONS: '' } }), await inThread({}, Worker.prototype.constructor), await inThread({}, class extends Worker {})]
      return { own: told, threads }
    }`
  const answer = await runtime.run('acme', code)
  assert.equal(answer.status, 200, answer.text)
  const { own, threads } = answer.json()
  const refused = { inspector: 'TypeError', promises: 'TypeError', binding: 'undefined' }
  for (const thread of [own, ...threads]) assert.deepEqual(thread, refused)
})
