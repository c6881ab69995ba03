import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type AgentProcess, startPair } from '../support/agent-process.ts'
import { type Call, FakeGateway, type Read } from '../support/fake-gateway.ts'

let pair: { agent: AgentProcess; gateway: FakeGateway; dir: string } & AsyncDisposable
let workers = 0
before(async () => {
  pair = await startPair()
})
after(() => pair[Symbol.asyncDispose]())

async function load(code: string): Promise<{ worker: string; run: number }> {
  const worker = `f${++workers}`
  const loaded = await pair.gateway.load(worker, code)
  assert.equal(loaded.kind, 'loaded', JSON.stringify(loaded))
  return loaded
}
async function run(code: string, call: Call = {}): Promise<Read & { worker: string; run: number }> {
  const { worker, run } = await load(code)
  return { ...(await pair.gateway.call(worker, { id: `id-${worker}`, ...call })), worker, run }
}

const SYNC = 'Script generated an unhandled synchronous exception.'
const ASYNC = 'Script generated an unhandled asynchronous exception.'

test('cb(err) is 400 with the fields that clients know, and those of RFC 9457', async () => {
  const answer = await run("module.exports = (cb) => { const e = new TypeError('no'); e.code = 404; cb(e) }")
  assert.equal(answer.status, 400)
  assert.deepEqual(answer.json, {
    code: 400,
    error: 'Script returned an error.',
    details: 'TypeError: no',
    name: 'TypeError',
    message: 'no',
    requestId: `id-${answer.worker}`,
    fault: 'tenant',
    type: 'urn:webtask:error:script_error',
    title: 'The code called back with an error',
    status: 400,
    detail: 'no',
  })
  assert.equal(answer.headers['x-wt-outcome'], 'script_error')
})

test('what cb is given as an error may be anything', async () => {
  for (const [error, details, message] of [
    ["'text'", 'text', 'text'],
    ['42', '42', '42'],
    ["{ message: 'm', a: 1 }", { message: 'm', a: 1 }, 'm'],
    ['Symbol("s")', 'Symbol(s)', 'Symbol(s)'],
    ['10n', '10', '10'],
  ] as const) {
    const { status, json } = await run(`module.exports = (cb) => cb(${error})`)
    assert.deepEqual([status, json.details, json.message], [400, details, message], error)
  }
})

test('a synchronous throw is 500, in every form of code', async () => {
  for (const code of [
    "module.exports = (cb) => { throw new RangeError('boom') }",
    "module.exports = (ctx, cb) => { throw new RangeError('boom') }",
    "module.exports = (ctx, req, res) => { throw new RangeError('boom') }",
    "module.exports = async () => { throw new RangeError('boom') }",
    "module.exports = async (ctx, req, res) => { await 1; throw new RangeError('boom') }",
    "export default { fetch() { throw new RangeError('boom') } }",
    "export default { async fetch() { await 1; throw new RangeError('boom') } }",
    "const app = () => { throw new RangeError('boom') }; app.handle = app.use = app.set = app; module.exports = app",
  ]) {
    const { status, json, headers } = await run(code)
    assert.deepEqual(
      [status, json.code, json.error, json.details, json.name, json.message, json.stack],
      [500, 500, SYNC, 'RangeError: boom', 'RangeError', 'boom', undefined],
      code,
    )
    assert.equal(headers['x-wt-outcome'], 'script_exception')
    assert.equal(json.type, 'urn:webtask:error:script_exception')
  }
})

test('things that are not errors can be thrown', async () => {
  for (const [thrown, message] of [
    ['null', 'null'],
    ['undefined', 'undefined'],
    ["'s'", 's'],
    ['Object.create(null)', /./],
    ['new Proxy({}, { get() { throw 1 } })', /./],
    ['{ get message() { throw 1 }, toString() { throw 2 } }', /./],
  ] as const) {
    const { status, json } = await run(`module.exports = (cb) => { throw ${thrown} }`)
    assert.equal(status, 500, thrown)
    assert.match(json.message, new RegExp(message), thrown)
  }
})

test('an unhandled asynchronous exception is 500 with a stack, and taints the worker', async () => {
  for (const [what, code] of [
    ['timer', "module.exports = (cb) => setTimeout(() => { throw new Error('late') }, 5)"],
    ['rejection', "module.exports = (cb) => { Promise.reject(new Error('late')) }"],
    ['emitter', "module.exports = (cb) => setImmediate(() => new (require('node:events'))().emit('error', new Error('late')))"],
    ['promise of a plain function', "module.exports = (ctx, cb) => (async () => { await 1; throw new Error('late') })()"],
    ['body event', "module.exports = (ctx, req, res) => { req.on('data', () => {}); req.on('end', () => { throw new Error('late') }) }"],
  ] as const) {
    const answer = await run(code, { method: 'POST', body: 'x'.repeat(100_000) })
    assert.deepEqual([answer.status, answer.json?.error, answer.json?.message, answer.json?.details], [500, ASYNC, 'late', 'Error: late'], what)
    assert.match(answer.json.stack, /webtask\.js:1:/, what)
    assert.doesNotMatch(answer.json.stack, /src\/agent/)
    await pair.gateway.frame('tainted', (frame) => frame.worker === answer.worker && frame.run === answer.run)
  }
})

test('an asynchronous exception hits its own request only', async () => {
  const { worker } = await load(
    "module.exports = (ctx, cb) => ctx.query.bad ? setTimeout(() => { throw new Error('late') }, 20) : setTimeout(cb, 60, null, ctx.id)",
  )
  const [good, bad] = await Promise.all([pair.gateway.call(worker, { id: 'good' }), pair.gateway.call(worker, { id: 'bad', path: '/x?bad=1' })])
  assert.deepEqual([good.status, good.json, bad.status, bad.json.requestId], [200, 'good', 500, 'bad'])
})

test('an exception outside any request is logged and taints, and the worker goes on', async () => {
  const { worker } = await load("setTimeout(() => { throw new Error('at module level') }, 30); module.exports = (cb) => cb(null, 1)")
  await pair.gateway.frame('tainted', (frame) => frame.worker === worker)
  await pair.gateway.until(() => pair.gateway.output().some((line) => line.includes('Outside any request: Error: at module level')))
  assert.equal((await pair.gateway.call(worker)).status, 200)
})

test('a tainted worker is replaced by a new incarnation of the same key', async () => {
  const code = 'module.exports = (cb) => setTimeout(() => { throw 1 }, 1)'
  const first = await run(code)
  await pair.gateway.frame('tainted', (frame) => frame.worker === first.worker)
  const second = await pair.gateway.load(first.worker, 'module.exports = (cb) => cb(null, 2)')
  assert.ok(second.kind === 'loaded' && second.run > first.run)
  pair.gateway.send({ kind: 'end', worker: first.worker, run: first.run, graceMs: 1000 })
  await pair.gateway.frame('gone', (frame) => frame.worker === first.worker && frame.run === first.run && frame.end === 'ended')
  assert.equal((await pair.gateway.call(first.worker)).text, '2')
})

test('a result that has no JSON is 400', async () => {
  for (const result of ['(() => { const a = {}; a.a = a; return a })()', '10n', '({ toJSON() { throw new Error("mine") } })']) {
    const { status, json } = await run(`module.exports = (cb) => cb(null, ${result})`)
    assert.deepEqual([status, json.error], [400, 'Error when JSON serializing the result of the JavaScript code.'], result)
  }
})

test('the second call of a callback is ignored and logged', async () => {
  const answer = await run("module.exports = (cb) => { cb(null, 1); cb(null, 2); setTimeout(() => cb(new Error('3')), 5) }")
  assert.deepEqual([answer.status, answer.text], [200, '1'])
  await pair.gateway.until(
    () =>
      pair.gateway.frames.filter((frame) => frame.kind === 'output' && frame.worker === answer.worker && /more than once/.test(frame.line)).length ===
      2,
  )
})

test('a throw after the answer changes nothing for the caller and is logged', async () => {
  const answer = await run("module.exports = (cb) => { cb(null, 1); throw new Error('afterwards') }")
  assert.deepEqual([answer.status, answer.text], [200, '1'])
  await pair.gateway.until(() => pair.gateway.output().some((line) => line.startsWith('Error: afterwards')))
})

test("a failure in the middle of the code's own response breaks the connection", async () => {
  const { worker } = await load("module.exports = (ctx, req, res) => { res.write('half'); setTimeout(() => { throw new Error('late') }, 20) }")
  await assert.rejects(pair.gateway.call(worker))
  const web = await load(
    "export default { fetch: () => new Response(new ReadableStream({ pull(c) { if (this.n) throw new Error('body'); this.n = 1; c.enqueue(new TextEncoder().encode('half')) } })) }",
  )
  await assert.rejects(pair.gateway.call(web.worker))
})

test('headers that the code set do not leak into a failure', async () => {
  const { headers, status } = await run(
    "module.exports = (ctx, req, res) => { res.setHeader('content-length', '3'); res.setHeader('x-mine', '1'); throw new Error('x') }",
  )
  assert.deepEqual([status, headers['x-mine'], headers['content-type']], [500, undefined, 'application/json'])
})

test('a fetch handler that returns no response is 500', async () => {
  for (const returned of ['1', 'undefined', '{ a: 1 }', 'Response.error()']) {
    assert.equal((await run(`export default { fetch: () => (${returned}) }`)).status, 500, returned)
  }
})

test('code that replaces globals harms only its own meaning', async () => {
  const answer = await run(
    "JSON.stringify = () => { throw 1 }; Promise = null; Buffer.byteLength = null; Object.prototype.polluted = 1; module.exports = (ctx, cb) => cb(new Error('still'))",
  )
  assert.deepEqual([answer.status, answer.json?.message], [400, 'still'])
  const other = await run('module.exports = (cb) => cb(null, 1)')
  assert.equal(other.status, 200)
})

test('process.exit breaks running requests and is reported', async () => {
  const { worker, run: incarnation } = await load('module.exports = (ctx, cb) => { if (ctx.query.exit) process.exit(3) }')
  const waiting = assert.rejects(pair.gateway.call(worker))
  await sleep(20)
  await assert.rejects(pair.gateway.call(worker, { path: '/x?exit=1' }))
  await waiting
  const gone = await pair.gateway.frame('gone', (frame) => frame.worker === worker && frame.run === incarnation)
  assert.deepEqual([gone.end, gone.message], ['exit', 'The code ended its process with exit code 3'])
})

test('running out of memory ends that worker only, naming the limit', async () => {
  const good = await load('module.exports = (cb) => cb(null, 1)')
  for (const code of [
    'module.exports = (cb) => { const all = []; for (;;) all.push({ a: all.length, b: [1, 2, 3] }) }',
    'module.exports = (cb) => { let all = []; for (;;) all = all.concat(new Array(100000).fill(Math.random())) }',
    "module.exports = (cb) => { const all = []; (function more() { all.push('x'.repeat(1e5) + Math.random()); for (let i = 0; i < 1000; i++) all.push(String(Math.random()).repeat(100).split('')); setImmediate(more) })() }",
  ]) {
    const { worker } = await load(code)
    await assert.rejects(pair.gateway.call(worker))
    const gone = await pair.gateway.frame('gone', (frame) => frame.worker === worker, 20_000)
    assert.deepEqual([gone.end, gone.message], ['memory', 'The code ran over its memory limit of 64 MiB'])
  }
  assert.equal((await pair.gateway.call(good.worker)).status, 200)
})

test('exit while loading is reported, and so is code that never finishes loading once it is ended', async () => {
  const control = pair.gateway
  const source = { container: 'acme', name: null, url: null, secrets: {}, params: {}, meta: {}, parseBody: 2, mergeBody: false, token: null } as const
  const limits = { heapMib: 64, connections: 8, parsedBodyBytes: 1000, logLinesPerSecond: 10 }
  control.send({ kind: 'load', worker: 'exits', source: { ...source, code: 'process.exit(0)' }, limits })
  assert.equal((await control.frame('gone', (frame) => frame.worker === 'exits')).end, 'exit')
  for (const [worker, code] of [
    ['spins', 'for(;;){}'],
    ['waits', 'await new Promise(() => {}); export default async () => 1'],
  ] as const) {
    control.send({ kind: 'load', worker, source: { ...source, code }, limits })
    await sleep(150)
    control.send({ kind: 'end', worker, run: 0, graceMs: 0 })
    assert.equal((await control.frame('gone', (frame) => frame.worker === worker)).end, 'ended')
  }
})
