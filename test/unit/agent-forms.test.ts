import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type AgentProcess, startPair } from '../support/agent-process.ts'
import { type Call, FakeGateway, type Read, sourceOf } from '../support/fake-gateway.ts'
import type { WebtaskSource } from '../../src/protocol/messages.ts'

let pair: { agent: AgentProcess; gateway: FakeGateway; dir: string } & AsyncDisposable
let packagesDir: string
let workers = 0

before(async () => {
  packagesDir = mkdtempSync(join(tmpdir(), 'wt-packages-'))
  const modules = join(packagesDir, 'node_modules')
  mkdirSync(join(modules, 'plain'), { recursive: true })
  writeFileSync(join(modules, 'plain', 'package.json'), '{"name":"plain","version":"1.2.3","main":"index.js"}')
  writeFileSync(join(modules, 'plain', 'index.js'), "exports.name = 'plain'")
  writeFileSync(join(modules, 'plain', 'sub.js'), "exports.name = 'plain/sub'")
  mkdirSync(join(modules, 'needy'))
  writeFileSync(join(modules, 'needy', 'index.js'), "require('not-there')")
  symlinkSync(fileURLToPath(new URL('../../node_modules/hono', import.meta.url)), join(modules, 'hono'))
  // What an app of Express or Connect looks like from outside.
  mkdirSync(join(modules, 'app-like'))
  writeFileSync(
    join(modules, 'app-like', 'index.js'),
    `module.exports = () => {
    const layers = []
    const app = (req, res, next) => app.handle(req, res, next)
    app.use = (layer) => (layers.push(layer), app)
    app.set = () => app
    app.handle = (req, res) => { let i = 0; const next = () => layers[i++]?.(req, res, next); next() }
    return app
  }`,
  )
  pair = await startPair({ packagesDir })
})
after(async () => {
  await pair[Symbol.asyncDispose]()
  rmSync(packagesDir, { recursive: true })
})

async function run(code: string, call: Call = {}, more: Partial<WebtaskSource> = {}): Promise<Read> {
  const worker = `w${++workers}`
  const loaded = await pair.gateway.load(worker, sourceOf(code, more))
  assert.equal(loaded.kind, 'loaded', JSON.stringify(loaded))
  const answer = await pair.gateway.call(worker, call)
  pair.gateway.send({ kind: 'end', worker, run: loaded.run, graceMs: 0 })
  return answer
}

async function refusal(code: string, more: Partial<WebtaskSource> = {}) {
  const loaded = await pair.gateway.load(`w${++workers}`, sourceOf(code, more))
  assert.equal(loaded.kind, 'refused', JSON.stringify(loaded))
  return loaded.kind === 'refused' ? loaded.failure : assert.fail()
}

const FORMS: readonly [name: string, code: string, text: string][] = [
  ['function (cb)', "module.exports = function (cb) { cb(null, 'one') }", '"one"'],
  ['(ctx, cb)', 'module.exports = (ctx, cb) => cb(null, ctx.id)', '"req-1"'],
  ['(ctx, req, res)', "module.exports = (ctx, req, res) => res.end(req.url + ' ' + req.method)", '/api/run/acme/hello GET'],
  ['a top-level return', 'return function (ctx, cb) { cb(null, { returned: true }) }', '{"returned":true}'],
  ["'use latest' and a byte order mark", "\uFEFF'use latest';\nmodule.exports = cb => cb(null, 'latest')", '"latest"'],
  ['a hashbang', '#!/usr/bin/env node\nmodule.exports = cb => cb(null, 1)', '1'],
  ['async ()', 'module.exports = async () => ({ a: 1 })', '{"a":1}'],
  ['async (ctx)', 'module.exports = async (ctx) => ctx.id', '"req-1"'],
  ['async (ctx, cb) that calls back', "module.exports = async (ctx, cb) => { cb(null, 'cb') }", '"cb"'],
  ['async (ctx, cb) that returns', "module.exports = async (ctx, cb) => 'returned'", '"returned"'],
  ['async (ctx, req, res)', "module.exports = async (ctx, req, res) => { await 1; res.end('http') }", 'http'],
  ['an async function that returns a Response', "module.exports = async () => new Response('web', { headers: { 'x-a': 'b' } })", 'web'],
  ['export default function', "export default function (ctx, cb) { cb(null, 'esm') }", '"esm"'],
  [
    'an ES module with imports and top-level await',
    "import { basename } from 'node:path'\nconst x = await Promise.resolve(basename('/a/b'))\nexport default async () => x + ' ' + import.meta.url.split('/').pop()",
    '"b webtask.mjs"',
  ],
  ['export default { fetch }', "export default { fetch: (request) => new Response(request.method + ' ' + new URL(request.url).pathname) }", 'GET /'],
  [
    'a class instance with fetch',
    "class App { constructor() { this.word = 'instance' } fetch() { return new Response(this.word) } }\nmodule.exports = new App()",
    'instance',
  ],
  ['export function fetch', "export function fetch() { return new Response('named') }", 'named'],
  [
    'TypeScript',
    'interface A { readonly a: number }\nconst a: A = { a: 1 }\nmodule.exports = (ctx: unknown, cb: Function) => cb(null, a)',
    '{"a":1}',
  ],
  [
    'a TypeScript ES module',
    "import type { Server } from 'node:http'\nimport { join } from 'node:path'\nconst port = (server: Server): string => join('a', 'b')\nexport default async (): Promise<string> => port({} as Server)",
    '"a/b"',
  ],
  [
    'compiled to CommonJS',
    "Object.defineProperty(exports, '__esModule', { value: true }); exports.default = (cb) => cb(null, 'default')",
    '"default"',
  ],
  ['require of a package', "module.exports = (cb) => cb(null, require('plain').name)", '"plain"'],
  [
    'require with a version',
    "const a = require('plain@1.2.3'), b = require('plain@9/sub'); module.exports = (cb) => cb(null, [a.name, b.name])",
    '["plain","plain/sub"]',
  ],
  ['import with a version', "import plain from 'plain@1.2.3'\nexport default async () => plain.name", '"plain"'],
  ['dynamic import from CommonJS', "module.exports = async () => (await import('plain')).default.name", '"plain"'],
  [
    'a Hono app',
    "import { Hono } from 'hono'\nconst app = new Hono()\napp.get('/', (c) => c.text('hono ' + c.req.path))\nexport default app",
    'hono /',
  ],
  [
    'a Hono app from CommonJS',
    "const { Hono } = require('hono'); const app = new Hono(); app.get('/', (c) => c.json({ ok: true })); module.exports = app",
    '{"ok":true}',
  ],
  [
    'an Express-like app',
    "const app = require('app-like')(); app.use((req, res, next) => { req.seen = true; next() }); app.use((req, res) => res.end(JSON.stringify([req.url, req.originalUrl, req.seen, req.webtaskContext.id]))); module.exports = app",
    '["/","/api/run/acme/hello",true,"req-1"]',
  ],
]
for (const [name, code, text] of FORMS) {
  test(`code may be ${name}`, async () => {
    const answer = await run(code)
    assert.deepEqual([answer.status, answer.text], [200, text])
  })
}

test('code from a .ts address is TypeScript even where it reads as JavaScript', async () => {
  assert.equal((await run('const a = <T,>(b: T) => b; module.exports = (cb) => cb(null, a(3))', {}, { url: 'https://host/x.ts?y' })).text, '3')
})

test('results are JSON, and falsy ones are {}', async () => {
  for (const [result, text] of [
    ['undefined', '{}'],
    ['0', '{}'],
    ['false', '{}'],
    ['""', '{}'],
    ['null', '{}'],
    ['[]', '[]'],
    ['{ error: "mine" }', '{"error":"mine"}'],
    ['() => 1', '{}'],
  ] as const) {
    const answer = await run(`module.exports = (cb) => cb(null, ${result})`)
    assert.deepEqual([answer.status, answer.text, answer.headers['content-type']], [200, text, 'application/json'], result)
  }
})

test('an app is mounted at its base, and sees the original URL too', async () => {
  const code = "const app = require('app-like')(); app.use((req, res) => res.end(req.url + ' ' + req.originalUrl)); module.exports = app"
  assert.equal((await run(code, { path: '/api/run/acme/hello/sub/x?q=1' })).text, '/sub/x?q=1 /api/run/acme/hello/sub/x?q=1')
  assert.equal((await run(code, { path: '/api/run/acme/hello?q=1' })).text, '/?q=1 /api/run/acme/hello?q=1')
})

test("a fetch handler sees its own path, its query without the platform's, env and ctx", async () => {
  const code = `export default { fetch(request, env, ctx) {
    const url = new URL(request.url)
    ctx.waitUntil(Promise.resolve()); ctx.passThroughOnException()
    return Response.json([url.host, url.pathname, url.search, env, ctx.id, request.headers.get('x-wt-invocation'), request.headers.get('x-mine')])
  } }`
  const answer = await run(
    code,
    { path: '/api/run/acme/hello/a/b?x=1&key=k&webtask_no_cache=1&webtask%5Fpb=1&y=%20', headers: { host: 'wt.test:8080', 'x-mine': 'm' } },
    { params: { a: 'param', b: 'param' }, secrets: { b: 'secret' } },
  )
  assert.deepEqual(answer.json, ['wt.test:8080', '/a/b', '?x=1&y=%20', { a: 'param', b: 'secret' }, 'req-1', null, 'm'])
})

test('a path that starts with two slashes stays on its host', async () => {
  const code = 'export default { fetch: (request) => new Response(request.url) }'
  assert.equal((await run(code, { path: '//evil.test/x', base: '', headers: { host: 'wt.test' } })).text, 'http://wt.test//evil.test/x')
})

test('web responses keep status, several cookies, and no body on HEAD and 204', async () => {
  const code = `export default { fetch(request) {
    if (request.url.endsWith('/204')) return new Response(null, { status: 204 })
    const headers = new Headers({ 'content-length': '5' }); headers.append('set-cookie', 'a=1'); headers.append('set-cookie', 'b=2')
    return new Response('12345', { status: 418, statusText: 'Tea', headers })
  } }`
  const teapot = await run(code)
  assert.deepEqual([teapot.status, teapot.text, teapot.headers['set-cookie']], [418, '12345', ['a=1', 'b=2']])
  const head = await run(code, { method: 'HEAD' })
  assert.deepEqual([head.status, head.text, head.headers['content-length']], [418, '', '5'])
  assert.equal((await run(code, { path: '/api/run/acme/hello/204' })).status, 204)
})

test('Express-like and Hono apps read bodies themselves', async () => {
  const hono = "import { Hono } from 'hono'; const app = new Hono(); app.post('/echo', async (c) => c.json(await c.req.json())); export default app"
  assert.deepEqual(
    (await run(hono, { method: 'POST', path: '/api/run/acme/hello/echo', body: '{"a":[1]}', headers: { 'content-type': 'application/json' } })).json,
    { a: [1] },
  )
})

test('code that does not compile is refused with its syntax error', async () => {
  const failure = await refusal('module.exports = function (cb) {\n  cb(null,\n}')
  assert.equal(failure.status, 400)
  assert.match(failure.error, /^Unable to compile submitted JavaScript: SyntaxError: /)
  assert.match(failure.stack ?? '', /webtask\.js:3/)
  const esm = await refusal("import x from 'node:path'\nexport default (((")
  assert.match(esm.error, /^Unable to compile submitted JavaScript: SyntaxError: /)
  assert.match(esm.stack ?? '', /webtask\.js:2/)
  const ts = await refusal('enum A { B }\nmodule.exports = (cb: Function) => cb(null, A.B)')
  assert.match(ts.message, /enum/)
})

test('code that throws while it loads is refused with the place', async () => {
  const failure = await refusal('\n\nnull.x\nmodule.exports = (cb) => cb()')
  assert.match(failure.error, /^Unable to compile submitted JavaScript: TypeError: /)
  assert.match(failure.stack ?? '', /webtask\.js:3:6/)
  assert.doesNotMatch(failure.stack ?? '', /src\/agent/)
  const esm = await refusal("import 'node:path'\nJSON.parse('{')\nexport default async () => 1")
  assert.match(esm.stack ?? '', /webtask\.mjs:2:6/)
  assert.equal((await refusal('throw null')).message, 'null')
})

test('a missing module is named', async () => {
  const failure = await refusal("require('not-there')\nmodule.exports = (cb) => cb()")
  assert.equal(failure.message, "Compilation failed: Cannot find module 'not-there'")
  assert.match((await refusal("import 'not-there'\nexport default async () => 1")).message, /^Compilation failed: Cannot find package 'not-there'/)
  assert.match((await refusal("module.exports = require('needy@1')")).message, /not-there/)
})

test('what cannot run is refused with the legal signatures', async () => {
  for (const code of ['', 'module.exports = 1', 'module.exports = {}', 'export const a = 1', 'module.exports = null']) {
    const failure = await refusal(code)
    assert.deepEqual([failure.error, failure.message], ['Supplied code must return or export a function.', 'Invalid webtask code'], code)
  }
  for (const code of ['module.exports = () => 1', 'module.exports = (a, b, c, d) => 1', 'export default class { fetch() {} }']) {
    assert.match((await refusal(code)).message, /\(\[ctx\], callback\) or \(ctx, req, res\)/, code)
  }
})
