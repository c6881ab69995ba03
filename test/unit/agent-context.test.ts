import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { type AgentProcess, startPair } from '../support/agent-process.ts'
import { type Call, FakeGateway, type Read, sourceOf } from '../support/fake-gateway.ts'
import type { WebtaskSource, WorkerLimits } from '../../src/protocol/messages.ts'

let pair: { agent: AgentProcess; gateway: FakeGateway; dir: string } & AsyncDisposable
let workers = 0
before(async () => {
  pair = await startPair()
})
after(() => pair[Symbol.asyncDispose]())

async function run(code: string, call: Call = {}, more: Partial<WebtaskSource> = {}, limits: Partial<WorkerLimits> = {}): Promise<Read> {
  const worker = `c${++workers}`
  const loaded = await pair.gateway.load(worker, sourceOf(code, more), limits)
  assert.equal(loaded.kind, 'loaded', JSON.stringify(loaded))
  return pair.gateway.call(worker, call)
}
const json = (value: unknown): Call => ({
  method: 'POST',
  body: typeof value === 'string' ? value : JSON.stringify(value),
  headers: { 'content-type': 'application/json; charset=utf-8' },
})
const form = (body: string): Call => ({ method: 'POST', body, headers: { 'content-type': 'application/x-www-form-urlencoded' } })
const ECHO = 'module.exports = (ctx, cb) => cb(null, ctx)'

test('ctx holds query, params, secrets, meta, headers, id and the merged data', async () => {
  const { json: ctx } = await run(
    ECHO,
    { path: '/x?q=1&q=2&a=query&b=query&key=k&webtask_url=u&empty=', id: 'the-id', headers: { 'X-Mine': 'yes' } },
    { params: { b: 'param', c: 'param' }, secrets: { c: 'secret', nested: { deep: 'x' } }, meta: { m: '1' } },
  )
  assert.deepEqual(ctx.query, { q: ['1', '2'], a: 'query', b: 'query', empty: '' })
  assert.deepEqual(ctx.params, { b: 'param', c: 'param' })
  assert.deepEqual(ctx.secrets, { c: 'secret', nested: { deep: 'x' } })
  assert.deepEqual(ctx.data, { q: ['1', '2'], a: 'query', b: 'param', c: 'secret', empty: '', nested: { deep: 'x' } })
  assert.deepEqual([ctx.meta, ctx.id, ctx.headers['x-mine'], 'token' in ctx, 'body' in ctx], [{ m: '1' }, 'the-id', 'yes', false, false])
  assert.equal(
    Object.keys(ctx.headers).some((name) => name.startsWith('x-wt-')),
    false,
  )
})

test('bodies are parsed by content type; broken JSON is silently nothing', async () => {
  const body = async (call: Call, more = {}) => {
    const { json: ctx } = await run(ECHO, call, more)
    return [ctx.body, ctx.body_raw]
  }
  assert.deepEqual(await body(json({ a: 1 })), [{ a: 1 }, '{"a":1}'])
  assert.deepEqual(await body(form('a=1&a=2&b%5Bc%5D=%20')), [{ a: ['1', '2'], 'b[c]': ' ' }, 'a=1&a=2&b%5Bc%5D=%20'])
  assert.deepEqual(await body(json('{"a":')), [undefined, '{"a":'])
  assert.deepEqual(await body({ method: 'POST', body: 'plain' }), [undefined, 'plain'])
  assert.deepEqual(await body(json('')), [undefined, undefined])
  assert.deepEqual(await body(json({ a: 1 }), { parseBody: 0 }), [undefined, undefined])
  assert.deepEqual(await body({ ...json({ a: 1 }), parseBody: 0 }), [undefined, undefined])
})

test('the body fills only gaps that the query leaves in data, and only when merging is asked for', async () => {
  const more = { secrets: { s: 'secret', none: '' }, params: { admin: false } }
  const call = { ...json({ s: 'body', none: 'body', admin: true, empty: 'filled', fresh: 1, q: 'body' }), path: '/x?q=query&empty=' }
  const merged = { s: 'secret', none: '', admin: false, empty: 'filled', q: 'query', fresh: 1 }
  assert.deepEqual((await run(ECHO, call, more)).json.data, { s: 'secret', none: '', admin: false, empty: '', q: 'query' })
  assert.deepEqual((await run(ECHO, call, { ...more, mergeBody: true })).json.data, merged)
  assert.deepEqual((await run(ECHO, { ...call, mergeBody: true }, more)).json.data, merged)
})

test('with three parameters the stream is left alone, unless pb is 1', async () => {
  const code =
    "module.exports = (ctx, req, res) => { if (ctx.body) return res.end('parsed ' + ctx.body.a); let all = ''; req.on('data', (c) => (all += c)); req.on('end', () => res.end('stream ' + all)) }"
  assert.equal((await run(code, json({ a: 1 }))).text, 'stream {"a":1}')
  assert.equal((await run(code, json({ a: 1 }), { parseBody: 1 })).text, 'parsed 1')
  assert.equal((await run(code, { ...json({ a: 1 }), parseBody: 1 })).text, 'parsed 1')
})

test('a parsed body over its limit is 413', async () => {
  for (const body of [
    'x'.repeat(2000),
    (function* () {
      for (let i = 0; i < 20; i++) yield Buffer.alloc(100)
    })(),
  ]) {
    const answer = await run(ECHO, { method: 'POST', body: body as string }, {}, { parsedBodyBytes: 1000 })
    assert.deepEqual([answer.status, answer.json.code, answer.json.error, answer.json.fault], [413, 413, 'Request body size exceeds 1000', 'caller'])
    assert.equal(answer.headers['x-wt-outcome'], 'body_too_large')
  }
})

test('__proto__ and its friends are harmless names', async () => {
  const code =
    'module.exports = (ctx, cb) => cb(null, [ctx.data.polluted, ctx.query.polluted, ({}).polluted, Object.assign({}, ctx.data).polluted, typeof ctx.data.hasOwnProperty, ctx.data.ok])'
  for (const call of [
    { path: '/x?__proto__=1&__proto__.polluted=1&ok=1' },
    { ...json('{"__proto__":{"polluted":1},"ok":"1"}'), mergeBody: true },
    { ...form('__proto__=1&__proto__[polluted]=1&ok=1'), mergeBody: true },
  ]) {
    assert.deepEqual((await run(code, call)).json, [null, null, null, null, 'function', '1'])
  }
})

test('a hundred thousand parameters are no trouble', async () => {
  const pairs = Array.from({ length: 100_000 }, (_, i) => `k${i}=${i}`).join('&')
  const start = performance.now()
  const answer = await run(
    'module.exports = (ctx, cb) => cb(null, [Object.keys(ctx.body).length, Object.keys(ctx.data).length])',
    { ...form(pairs), mergeBody: true },
    {},
    { parsedBodyBytes: 4e6 },
  )
  assert.deepEqual(answer.json, [100_000, 100_000])
  assert.ok(performance.now() - start < 8000)
})

test('what a request changes in ctx is gone at the next one', async () => {
  const code = 'module.exports = (ctx, cb) => { ctx.secrets.n.count = (ctx.secrets.n.count || 0) + 1; ctx.secrets.fresh = 1; cb(null, ctx.secrets) }'
  await pair.gateway.load('private', sourceOf(code, { secrets: { n: {} } }))
  await pair.gateway.call('private')
  assert.deepEqual((await pair.gateway.call('private')).json, { n: { count: 1 }, fresh: 1 })
})

test('ctx.token and req.x_wt carry what helpers read', async () => {
  const code = 'module.exports = (ctx, req, res) => res.end(JSON.stringify([ctx.token, req.x_wt, req.rawHeaders.join()]))'
  const {
    json: [token, wire, raw],
  } = await run(
    code,
    { token: 'shared', format: 3, id: 'i' },
    { secrets: { s: '1' }, params: { p: '2' }, meta: { m: '3' }, url: 'https://h/c.js', token: 'own' },
  )
  assert.equal(token, 'shared')
  assert.deepEqual(wire, {
    req_id: 'i',
    container: 'acme',
    jtn: 'hello',
    token: 'shared',
    url: 'https://h/c.js',
    url_format: 3,
    ectx: { s: '1' },
    pctx: { p: '2' },
    mb: 0,
    pb: 2,
    meta: { m: '3' },
  })
  assert.doesNotMatch(raw, /x-wt-/i)
  const unnamed = await run(code, {}, { name: null, token: 'own' })
  assert.deepEqual([unnamed.json[0], 'jtn' in unnamed.json[1]], ['own', false])
})

test('module.webtask is there while the module loads', async () => {
  const code = 'const { secrets, params, meta } = module.webtask; module.exports = (cb) => cb(null, { secrets, params, meta })'
  assert.deepEqual((await run(code, {}, { secrets: { a: '1' }, params: { b: '2' }, meta: { c: '3' } })).json, {
    secrets: { a: '1' },
    params: { b: '2' },
    meta: { c: '3' },
  })
})

test('storage says that it is not available', async () => {
  const { status, json: body } = await run('module.exports = (ctx, cb) => ctx.storage.get(cb)')
  assert.deepEqual([status, body.message], [400, 'Storage is not available yet'])
})

test('create_token asks the gateway, by callback and by promise', async () => {
  const code = `module.exports = (ctx, cb) => ctx.create_token('https://h/x.js', async (error, token) => {
    const claims = await ctx.create_token({ url: 'u', pb: 1 })
    const refused = await ctx.create_token({ bad: 1 }).catch((e) => e.message)
    const malformed = await ctx.create_token(7).catch((e) => e.message)
    ctx.create_token_url('u', (error, url) => cb(null, [token, claims, refused, malformed, url]))
  })`
  const { gateway } = pair
  await gateway.load('tokens', sourceOf(code))
  const answer = gateway.call('tokens', { id: 'asks', headers: { host: 'wt.test', 'x-forwarded-proto': 'https' } })
  const asked: unknown[] = []
  for (let i = 0; i < 4; i++) {
    const call = await gateway.until(() => gateway.frames.filter((frame) => frame.kind === 'call')[i])
    asked.push(call.claims)
    assert.equal(call.request, 'asks')
    if ('bad' in call.claims) gateway.send({ kind: 'reply', call: call.call, ok: false, message: 'no' })
    else gateway.send({ kind: 'reply', call: call.call, ok: true, value: `token-${i}` })
  }
  assert.deepEqual(asked, [{ url: 'https://h/x.js' }, { url: 'u', pb: 1 }, { bad: 1 }, { url: 'u' }])
  assert.deepEqual((await answer).json, [
    'token-0',
    'token-1',
    'no',
    'Cannot create a token: give a code URL or an object of claims',
    'https://wt.test/api/run/acme?key=token-3',
  ])
})

test("create_token_url at the tenant's own host gives a URL where the platform is", async () => {
  const { gateway } = pair
  await gateway.load('tokens-at-home', sourceOf("module.exports = (ctx, cb) => ctx.create_token_url('u', cb)"))
  const seen = gateway.frames.length
  const answer = gateway.call('tokens-at-home', { format: 3, base: '/hello', platformUrl: 'https://api.test/x', headers: { host: 'acme.run.test' } })
  const call = await gateway.until(() => gateway.frames.slice(seen).find((frame) => frame.kind === 'call'))
  gateway.send({ kind: 'reply', call: call.call, ok: true, value: 'token' })
  assert.equal((await answer).json, 'https://api.test/x/api/run/acme?key=token')
})

test('what code prints comes as lines of its request', async () => {
  const { gateway } = pair
  const code =
    "module.exports = async (ctx) => { console.log('out %s', ctx.id, { a: 1 }); console.error(new Error('printed')); await 1; setTimeout(() => process.stdout.write('raw\\nhalf'), 1); setTimeout(() => process.stdout.write(' whole\\n'), 2); console.log('x'.repeat(20000)) }"
  await gateway.load('prints', code)
  await gateway.call('prints', { id: 'printer' })
  const printed = await gateway.until(() => {
    const all = gateway.frames.filter((frame) => frame.kind === 'output' && frame.worker === 'prints')
    return all.length >= 5 && all
  })
  const lines = printed.map((frame) => (frame.kind === 'output' ? ([frame.request, frame.level, frame.line] as const) : assert.fail()))
  assert.deepEqual(lines[0], ['printer', 'info', 'out printer { a: 1 }'])
  assert.match(lines[1]![2], /^Error: printed\n {4}at .*webtask\.js:1/)
  assert.equal(lines[1]![1], 'error')
  assert.match(lines[2]![2], /^x{16320}… \[3680 bytes cut\]$/)
  assert.deepEqual(
    lines.slice(3).map((line) => line[2]),
    ['raw', 'half whole'],
  )
})

test('a flood of output is cut off and counted', async () => {
  const { gateway } = pair
  await gateway.load('floods', sourceOf('module.exports = (cb) => { for (let i = 0; i < 20000; i++) console.log(i); cb() }'), {
    logLinesPerSecond: 100,
  })
  await gateway.call('floods')
  const dropped = await gateway.frame('dropped', (frame) => frame.worker === 'floods')
  const passed = gateway.frames.filter((frame) => frame.kind === 'output' && frame.worker === 'floods').length
  assert.ok(passed >= 100 && passed <= 300, String(passed))
  assert.equal(passed + dropped.lines, 20000)
})

test('code does not find its way to the supervisor', async () => {
  const code =
    "const { workerData, parentPort } = require('node:worker_threads'); parentPort.postMessage({ kind: 'tainted' }); parentPort.postMessage({ kind: 'output', line: 'forged' }); module.exports = (cb) => cb(null, [workerData, Object.keys(process.env).sort(), process.argv.length])"
  const {
    json: [data, env],
  } = await run(code)
  assert.deepEqual(data, {})
  assert.deepEqual(env, ['HOME', 'NODE_ENV', 'TZ'])
  assert.equal(
    pair.gateway.frames.some((frame) => frame.kind === 'output' && frame.line === 'forged'),
    false,
  )
})
