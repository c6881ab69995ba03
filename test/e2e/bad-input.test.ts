import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { ERRORS, type ErrorCode } from '../../src/errors.ts'
import { startDeployment, type Answer, type Deployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

let runtime: Deployment
let host: Server
let hostUrl: string
let refusingUrl: string
const pages = new Map<string, (incoming: IncomingMessage, outgoing: ServerResponse) => void>()

/** The wall time that the code has here (ms). */
const INVOCATION_MS = 2000
/** No answer may take longer (ms). */
const BOUND_MS = 10_000

before(async () => {
  host = createServer((incoming, outgoing) => {
    const page = pages.get(incoming.url!)
    if (page === undefined) outgoing.writeHead(404).end()
    else page(incoming, outgoing)
  })
  host.listen(0, '127.0.0.1')
  await once(host, 'listening')
  const { port } = host.address() as AddressInfo
  hostUrl = `http://127.0.0.1:${port}`
  const closed = createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const refusing = (closed.address() as AddressInfo).port
  closed.close()
  refusingUrl = `http://127.0.0.1:${refusing}`
  runtime = await startDeployment({ WEBTASK_CODE_HOSTS: `127.0.0.1:${port},127.0.0.1:${refusing}`, WEBTASK_INVOCATION_MS: String(INVOCATION_MS) })
  for (const ten of ['acme', 'globex']) await runtime.issue({ ten, jtn: 'good', code: "module.exports = cb => cb(null, 'good')" })
  await goodStillWorks()
})

after(async () => {
  await runtime?.[Symbol.asyncDispose]()
  host.closeAllConnections()
  host.close()
})

function ask(pathname: string, options: Parameters<Deployment['ask']>[1] = {}): Promise<Answer> {
  return runtime.ask(pathname, { signal: AbortSignal.timeout(BOUND_MS), ...options })
}

/** Runs code unnamed in container "acme". */
function run(code: string, query = ''): Promise<Answer> {
  return ask(`/api/run/acme${query}`, { method: 'POST', token: runtime.master, body: code })
}

async function goodStillWorks(): Promise<void> {
  for (const ten of ['acme', 'globex']) {
    const answer = await ask(`/api/run/${ten}/good`)
    assert.equal(answer.text, '"good"')
  }
}

interface Expected {
  readonly type: ErrorCode
  readonly status?: number
  /** What stands in `error`; the slug unless it is a sentence that webtask clients know. */
  readonly error?: string | RegExp
  readonly message?: RegExp
}

/** The one form of every answer of ours from 400 on. */
function assertProblem(answer: Answer, { type, status = ERRORS[type].status, error = type, message = /./ }: Expected): void {
  assert.equal(answer.status, status, answer.text)
  assert.match(answer.headers.get('content-type')!, /^application\/(problem\+)?json/)
  const problem = answer.json()
  assert.deepEqual(
    { type: problem.type, status: problem.status, code: problem.code, fault: problem.fault, requestId: problem.requestId },
    { type: `urn:webtask:error:${type}`, status, code: status, fault: ERRORS[type].fault, requestId: answer.headers.get('x-request-id') },
  )
  if (typeof error === 'string') assert.equal(problem.error, error)
  else assert.match(problem.error, error)
  assert.equal(problem.title, ERRORS[type].means)
  assert.match(problem.message, message)
  assert.equal(typeof problem.detail, 'string')
  assert.doesNotMatch(answer.text, /src\/(gateway|agent|sandbox|token|egress)|file:\/\/\/|node_modules\/|\/agent\/|at async /)
}

function bad(what: string, tried: () => Promise<Answer>, expected: Expected): void {
  test(`${what} is answered with ${expected.status ?? ERRORS[expected.type].status} ${expected.type}, and the next good request works`, async () => {
    assertProblem(await tried(), expected)
    await goodStillWorks()
  })
}

describe('tokens', () => {
  const post = (token?: string) =>
    ask('/api/run/acme', { method: 'POST', body: 'module.exports = cb => cb()', ...(token === undefined ? {} : { token }) })
  bad('no token', () => post(), { type: 'token_missing', message: /Authorization: Bearer/ })
  bad('a garbage token', () => post('garbage'), { type: 'token_invalid' })
  bad(
    'a 1 MB token in the header',
    () => rawAsk([`POST /api/run/acme HTTP/1.1`, 'Host: x', `Authorization: Bearer ${'a'.repeat(2 ** 20)}`, '', ''].join('\r\n')),
    { type: 'header_too_large' },
  )
  bad('a 1 MB token in the URL', () => rawAsk(`GET /api/run/acme?key=${'a'.repeat(2 ** 20)} HTTP/1.1\r\nHost: x\r\n\r\n`), {
    type: 'header_too_large',
  })
  bad(
    'a 1 MB token in the body of a revocation',
    () => ask('/api/tokens/revoke', { method: 'POST', token: runtime.master, body: { token: 'a'.repeat(2 ** 20) } }),
    { type: 'body_too_large' },
  )
  bad('a token of another tenant', async () => post(await runtime.issue({ ten: 'globex' })), { type: 'forbidden', message: /"acme"/ })
  bad('an expired token', async () => post(await runtime.issue({ ten: 'acme', exp: 1 })), { type: 'token_invalid' })
  bad(
    'a revoked token',
    async () => {
      const token = await runtime.issue({ ten: 'acme' })
      await ask(`/api/tokens/revoke?token=${token}`, { method: 'POST', token: runtime.master })
      return post(token)
    },
    { type: 'token_invalid' },
  )
  bad('an unknown name', () => ask('/api/run/acme/unknown/sub'), { type: 'not_found', message: /"unknown".*"acme"/ })
  bad('an unknown container', () => ask('/api/run/nobody/good'), { type: 'not_found', message: /"good".*"nobody"/ })
  bad('an unknown route', () => ask('/api/elsewhere'), { type: 'not_found' })
})

describe('code that cannot start', () => {
  const compile = /^Unable to compile submitted JavaScript/
  bad('code that does not compile', () => run('module.exports = function ('), { type: 'code_invalid', error: compile, message: /Unexpected/ })
  bad('code that is no text', () => ask('/api/run/acme', { method: 'POST', token: runtime.master, body: new Uint8Array([0, 255, 254, 1, 2, 3]) }), {
    type: 'code_invalid',
    error: compile,
  })
  bad('code that throws on load', () => run("throw new Error('no start')"), { type: 'code_invalid', error: compile, message: /no start/ })
  bad('code that throws nothing on load', () => run('throw undefined'), { type: 'code_invalid', error: compile })
  bad('code that throws a trap on load', () => run('throw { get message() { throw 1 }, get stack() { throw 2 }, toString() { throw 3 } }'), {
    type: 'code_invalid',
    error: compile,
  })
  bad('code that requires what is not there', () => run("require('left-pad-of-nowhere')"), {
    type: 'code_invalid',
    error: compile,
    message: /Cannot find module 'left-pad-of-nowhere'/,
  })
  for (const code of ['// nothing', 'module.exports = {}', 'module.exports = 7', 'module.exports = null', 'export const a = 1', 'return 7']) {
    bad(`code that exports nothing to run (${code})`, () => run(code), {
      type: 'code_invalid',
      error: /must return or export a function/,
      message: /Invalid webtask code/,
    })
  }
  for (const code of ['module.exports = () => 1', 'module.exports = (a, b, c, d) => 1']) {
    bad(`a function of another shape (${code})`, () => run(code), { type: 'code_invalid', error: /signatures/ })
  }
  bad('code that loops while it loads', () => run('for(;;){}'), { type: 'invocation_timeout' })
  bad('code that never finishes loading', () => run('await new Promise(() => setInterval(() => {}, 1000)); export default cb => cb()'), {
    type: 'invocation_timeout',
  })
  bad('code that exits while it loads', () => run('process.exit(0)'), { type: 'sandbox_crashed' })
  bad('code over the limit', () => run(`//${'x'.repeat(1_048_576)}`), { type: 'code_too_large', message: /1048576/ })
})

describe('code that fails while it answers', () => {
  const sync = 'Script generated an unhandled synchronous exception.'
  const later = 'Script generated an unhandled asynchronous exception.'
  bad('calling back with an error', () => run("module.exports = cb => cb(new TypeError('told'))"), {
    type: 'script_error',
    error: 'Script returned an error.',
    message: /^told$/,
  })
  bad('calling back with a status of its own', () => run("module.exports = cb => cb({ code: 200, statusCode: 200, message: 'odd' })"), {
    type: 'script_error',
    error: 'Script returned an error.',
  })
  bad('throwing', () => run("module.exports = cb => { throw new Error('thrown') }"), { type: 'script_exception', error: sync, message: /^thrown$/ })
  for (const value of ['null', 'undefined', 'Symbol("s")', '"text"', '({ get message() { throw 1 } })', 'new Proxy({}, { get() { throw 1 } })']) {
    bad(`throwing ${value}`, () => run(`module.exports = cb => { throw ${value} }`), { type: 'script_exception', error: sync, message: /^/ })
  }
  bad('throwing in a timer', () => run("module.exports = cb => { setTimeout(() => { throw new Error('late') }, 10) }"), {
    type: 'script_exception',
    error: later,
    message: /^late$/,
  })
  bad('a rejection that nobody handles', () => run("module.exports = cb => { Promise.reject(new Error('rejected')) }"), {
    type: 'script_exception',
    error: later,
    message: /^rejected$/,
  })
  bad('an async function that throws', () => run("module.exports = async () => { throw new Error('async') }"), {
    type: 'script_exception',
    message: /^async$/,
    error: /exception/,
  })
  bad('a result that is no JSON', () => run('module.exports = cb => { const a = {}; a.a = a; cb(null, a) }'), {
    type: 'script_error',
    error: 'Error when JSON serializing the result of the JavaScript code.',
  })
  bad('a result with a BigInt', () => run('module.exports = cb => cb(null, { n: 1n })'), {
    type: 'script_error',
    error: 'Error when JSON serializing the result of the JavaScript code.',
  })
  bad('exiting the process', () => run('module.exports = cb => process.exit(0)'), { type: 'sandbox_crashed' })
  bad('killing the process', () => run("module.exports = cb => process.kill(process.pid, 'SIGKILL')"), { type: 'sandbox_crashed' })
  bad('aborting the process', () => run('module.exports = cb => process.abort()'), { type: 'script_exception', error: sync })
  bad('breaking its own connection', () => run('module.exports = (ctx, req, res) => req.socket.destroy()'), { type: 'sandbox_crashed' })
  bad('writing no HTTP', () => run("module.exports = (ctx, req, res) => req.socket.end('no http at all\\r\\n\\r\\n')"), { type: 'response_invalid' })
  bad(
    'response headers over the limit',
    () => run("module.exports = (ctx, req, res) => { res.setHeader('x-big', 'x'.repeat(100_000)); res.end() }"),
    { type: 'response_invalid', message: /over 16384 bytes/ },
  )
  bad(
    'many response headers over the limit',
    () => run("module.exports = (ctx, req, res) => { for (let i = 0; i < 5000; i++) res.setHeader('x-' + i, 'x'); res.end() }"),
    { type: 'response_invalid', message: /over 16384 bytes/ },
  )
  bad(
    'switching protocols',
    () =>
      run(
        "module.exports = (ctx, req, res) => req.socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: upgrade\\r\\nUpgrade: x\\r\\n\\r\\n')",
      ),
    { type: 'response_invalid' },
  )
  const heads: [what: string, head: string][] = [
    ['a status below 100', 'HTTP/1.1 99 Low'],
    ['a status of four digits', 'HTTP/1.1 1000 High'],
    ['another version of HTTP', 'HTTP/2 200 OK'],
    ['a control character', 'HTTP/1.1 200 OK\r\nx-a: a\x01b'],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 5'],
    ['a length and chunks at once', 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked'],
    ['a length that is no number', 'HTTP/1.1 200 OK\r\ncontent-length: abc'],
    ['a chunk that is none behind it', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n'],
    ['bare line feeds', 'HTTP/1.1 200 OK\nx-a: 1'],
  ]
  for (const [what, head] of heads) {
    bad(
      `a response head with ${what}`,
      () => run(`module.exports = (ctx, req, res) => req.socket.write(${JSON.stringify(`${head}\r\n\r\n0\r\n\r\n`)})`),
      { type: 'response_invalid' },
    )
  }
  bad(
    'taking away what the platform uses',
    () => run("JSON.stringify = Buffer.byteLength = Promise.prototype.then = null; module.exports = cb => { throw new Error('bare') }"),
    { type: 'script_exception', error: sync, message: /^bare$/ },
  )

  test('calling back twice counts once', async () => {
    const answer = await run("module.exports = cb => { cb(null, 'first'); cb(null, 'second'); cb(new Error('third')) }")
    assert.deepEqual([answer.status, answer.text], [200, '"first"'])
    await goodStillWorks()
  })

  test('a result that looks like an error is a result', async () => {
    for (const result of [{ error: 'x' }, { code: 500, error: 'y', message: 'z' }, { statusCode: 404 }]) {
      const answer = await run(`module.exports = cb => cb(null, ${JSON.stringify(result)})`)
      assert.deepEqual([answer.status, answer.json()], [200, result])
    }
  })

  test('throwing in a timer after the answer leaves the answer whole, and the next request works', async () => {
    const name = 'late-thrower'
    await runtime.issue({
      ten: 'acme',
      jtn: name,
      code: "module.exports = cb => { setTimeout(() => { throw new Error('too late') }, 5); cb(null, 'answered') }",
    })
    // At different distances from the throw, also while the worker that threw is being replaced.
    for (let i = 0; i < 60; i += 1) {
      assert.equal((await ask(`/api/run/acme/${name}`)).text, '"answered"')
      await new Promise((resolve) => setTimeout(resolve, i % 12))
    }
    await goodStillWorks()
  })

  test('an answer that breaks in its middle reaches the caller as a broken connection, never as a whole answer', async () => {
    for (const act of ["throw new Error('midway')", 'res.destroy()', 'process.exit(1)', "Promise.reject(new Error('midway'))"]) {
      const failed = run(`module.exports = (ctx, req, res) => { res.writeHead(200); res.write('half'); setTimeout(() => { ${act} }, 20) }`)
      await assert.rejects(failed, (error: Error) => error.name === 'TypeError', act)
      await goodStillWorks()
    }
  })

  test('fewer bytes than the announced length break the connection, and more are cut off', async () => {
    await assert.rejects(
      run(
        "module.exports = (ctx, req, res) => { res.writeHead(200, { 'content-length': 100 }); res.write('few'); setTimeout(() => res.destroy(), 50) }",
      ),
    )
    const more = await run("module.exports = (ctx, req, res) => { req.socket.write('HTTP/1.1 200 OK\\r\\ncontent-length: 3\\r\\n\\r\\nonemore'); }")
    assert.ok(more.status === 200 ? more.text === 'one' : more.status === 502, `${more.status} ${more.text}`)
    await goodStillWorks()
  })

  test("code that answers with somebody else in mind changes nobody else's answer", async () => {
    const smuggler =
      "module.exports = (ctx, req, res) => { const one = 'HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\n'; req.socket.write(one + 'first' + one + 'other') }"
    await runtime.issue({ ten: 'acme', jtn: 'smuggler', code: smuggler })
    for (let i = 0; i < 3; i += 1) {
      const answer = await ask('/api/run/acme/smuggler')
      assert.ok(answer.text === 'first' || answer.status === 502, answer.text)
      await goodStillWorks()
    }
  })
})

describe('code that does not stop', () => {
  /** How much processor time the sandboxes used while `ms` passed, as a share of one core. */
  async function share(ms: number): Promise<number> {
    const used = async () => {
      const sandboxes = await containersOf(runtime.id, 'sandbox')
      const stats = await Promise.all(sandboxes.map(({ Id }) => docker.getContainer(Id).stats({ stream: false, 'one-shot': true })))
      return stats.reduce((sum, { cpu_stats }) => sum + cpu_stats.cpu_usage.total_usage, 0) / 1e6
    }
    const [began, before] = [performance.now(), await used()]
    await new Promise((resolve) => setTimeout(resolve, ms))
    return ((await used()) - before) / (performance.now() - began)
  }

  test('never answering ends with 504 after the wall time, and the code is really gone', async () => {
    const code = `const mark = Math.random()
      module.exports = (ctx, cb) => { if (ctx.query.mark) cb(null, { mark }) }`
    await runtime.issue({ ten: 'acme', jtn: 'silent', code })
    const mark = async () => (await ask('/api/run/acme/silent?mark=1')).json().mark as number
    const before = await mark()
    const began = performance.now()
    assertProblem(await ask('/api/run/acme/silent'), { type: 'invocation_timeout', message: /2000 ms/ })
    const took = performance.now() - began
    assert.ok(took >= INVOCATION_MS - 5 && took < INVOCATION_MS + 1000, `${took} ms`)
    await eventually('another instance of the code answers', async () => (await mark()) !== before)
    await goodStillWorks()
  })

  test('a loop ends with 504, and burns nothing afterwards', async () => {
    assertProblem(await run('module.exports = cb => { for(;;){} }'), { type: 'invocation_timeout', message: /2000 ms/ })
    await eventually('the loop burns no processor', async () => (await share(300)) < 0.5, 5000)
    await goodStillWorks()
  })

  test('a stream that falls silent is cut off, one that goes on is not', async () => {
    await assert.rejects(run("module.exports = (ctx, req, res) => { res.write('one') }"))
    const steady = await run(
      "module.exports = (ctx, req, res) => { let n = 0; const t = setInterval(() => { res.write('.'); if (++n === 6) { clearInterval(t); res.end() } }, 500) }",
    )
    assert.equal(steady.text, '......')
  })

  test('a loop delays another webtask of its tenant by no more than 250 ms, and another tenant neither', async (t) => {
    await goodStillWorks()
    const looping = run('module.exports = cb => { for(;;){} }')
    const longest = { acme: 0, globex: 0 }
    let over = false
    const ended = looping.then((answer) => {
      over = true
      return answer
    })
    while (!over) {
      for (const ten of ['acme', 'globex'] as const) {
        const began = performance.now()
        assert.equal((await ask(`/api/run/${ten}/good`)).text, '"good"')
        longest[ten] = Math.max(longest[ten], performance.now() - began)
      }
    }
    assertProblem(await ended, { type: 'invocation_timeout' })
    t.diagnostic(`same tenant ${longest.acme.toFixed(0)} ms, other tenant ${longest.globex.toFixed(0)} ms`)
    assert.ok(longest.acme < 250, `same tenant: ${longest.acme} ms`)
    assert.ok(longest.globex < 250, `other tenant: ${longest.globex} ms`)
  })

  test('a loop in one request does not take another running request of the same webtask down without an answer', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'both',
      code: 'module.exports = (ctx, cb) => { if (ctx.query.loop) for(;;){}; setTimeout(cb, 500, null, "slow") }',
    })
    assert.equal((await ask('/api/run/acme/both')).text, '"slow"')
    const [slow, loop] = await Promise.all([ask('/api/run/acme/both'), ask('/api/run/acme/both?loop=1')])
    assertProblem(loop, { type: 'invocation_timeout' })
    if (slow.status !== 200) assertProblem(slow, { type: 'invocation_timeout' })
    await goodStillWorks()
  })
})

describe('code that eats memory', () => {
  bad('filling the heap', () => run('const all = []; module.exports = cb => { for (;;) all.push(new Array(1000).fill(Math.random())) }'), {
    type: 'memory_limit',
    message: /heap \d+ MiB/,
  })
  bad('filling buffers', () => run("const all = []; module.exports = cb => { for (;;) all.push(Buffer.alloc(10 * 2 ** 20, 'x')) }"), {
    type: 'memory_limit',
    message: /sandbox ran over its memory limit \(\d+ MiB\)/,
  })
  bad(
    'filling the heap slowly',
    () =>
      run(
        'const all = []; module.exports = cb => { setInterval(() => { for (let i = 0; i < 2000; i++) all.push(new Array(1000).fill(Math.random())) }, 1) }',
      ),
    { type: 'memory_limit', message: /heap \d+ MiB/ },
  )
  bad('filling the heap while loading', () => run('const all = []; for (;;) all.push(new Array(1000).fill(Math.random()))'), {
    type: 'memory_limit',
    message: /heap \d+ MiB/,
  })

  test('a full heap does not take the other webtasks of its tenant down', async () => {
    await runtime.issue({ ten: 'acme', jtn: 'beside', code: 'const mark = Math.random(); module.exports = cb => cb(null, { mark })' })
    const before = (await ask('/api/run/acme/beside')).json()
    assertProblem(await run('const all = []; module.exports = cb => { for (;;) all.push(new Array(1000).fill(Math.random())) }'), {
      type: 'memory_limit',
    })
    assert.deepEqual((await ask('/api/run/acme/beside')).json(), before)
  })

  test('a tenant may have more small webtasks than fit into memory at once', async () => {
    for (let i = 1; i <= 30; i += 1) {
      const answer = await run(`module.exports = cb => cb(null, ${i})`)
      assert.equal(answer.text, String(i))
    }
  })
})

describe('bodies and parameters', () => {
  const show =
    'module.exports = (ctx, cb) => cb(null, { body: ctx.body, raw: ctx.body_raw && ctx.body_raw.length, keys: Object.keys(ctx.body || {}).length, query: Object.keys(ctx.query).length, polluted: ({}).polluted || null, data: ctx.data })'
  before(() => runtime.issue({ ten: 'acme', jtn: 'show', code: show, mb: 1, pb: 1, ectx: { secret: 's' } }))

  bad(
    'a body that is no JSON where JSON is needed',
    () => ask('/api/tokens/issue', { method: 'POST', token: runtime.master, body: '{"ten": "acme"' }),
    { type: 'bad_request', message: /JSON/ },
  )
  bad(
    'a body nested 100000 deep',
    () => ask('/api/tokens/issue', { method: 'POST', token: runtime.master, body: `{"pctx":${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}}` }),
    { type: 'bad_request', message: /pctx|JSON/ },
  )
  bad('a body over the limit of what is parsed', () => ask('/api/run/acme/show', { method: 'POST', body: { big: 'x'.repeat(2_097_152) } }), {
    type: 'body_too_large',
    error: /2097152/,
    message: /2097152/,
  })
  bad(
    'a chunked body over the limit of what is parsed',
    () =>
      rawAsk(
        Buffer.concat([
          Buffer.from('POST /api/run/acme/show HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'),
          ...Array.from({ length: 40 }, () => Buffer.from(`10000\r\n${'1'.repeat(65_536)}\r\n`)),
          Buffer.from('0\r\n\r\n'),
        ]),
      ),
    { type: 'body_too_large', error: /2097152/, message: /2097152/ },
  )

  test('invalid JSON for a webtask is no error: its body is only raw', async () => {
    for (const body of ['{"a":', '', 'null', '[1', '\u0000', '{"a":1}}']) {
      const answer = await ask('/api/run/acme/show', { method: 'POST', body, headers: { 'content-type': 'application/json' } })
      assert.equal(answer.status, 200, answer.text)
      assert.equal(answer.json().body ?? null, null)
    }
    await goodStillWorks()
  })

  test('100000 query parameters are too long for a URL: 431, and as many as fit are all seen', async () => {
    const pairs = Array.from({ length: 100_000 }, (_, i) => `k${i}=${i}`)
    assertProblem(await rawAsk(`GET /api/run/acme/show?${pairs.join('&')} HTTP/1.1\r\nHost: x\r\n\r\n`), { type: 'header_too_large' })
    const some = await ask(`/api/run/acme/show?${pairs.slice(0, 1400).join('&')}`)
    assert.deepEqual([some.status, some.json().query], [200, 1400])
    const empty = await ask(`/api/run/acme/show?${'&'.repeat(15_000)}`)
    assert.deepEqual([empty.status, empty.json().query], [200, 0])
  })

  test('100000 form parameters are all seen, quickly', async () => {
    const body = Array.from({ length: 100_000 }, (_, i) => `k${i}=${i}`).join('&')
    const answer = await ask('/api/run/acme/show', { method: 'POST', body, headers: { 'content-type': 'application/x-www-form-urlencoded' } })
    assert.deepEqual([answer.status, answer.json().keys], [200, 100_000])
  })

  test('__proto__ in query, form, JSON and headers pollutes nothing', async () => {
    const query = '?__proto__=x&__proto__[polluted]=1&__proto__.polluted=1&constructor[prototype][polluted]=1&constructor=y&toString=z'
    const asks: [string, Record<string, string>][] = [
      ['{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"secret":"mine","a":1}', { 'content-type': 'application/json' }],
      ['__proto__=1&__proto__[polluted]=1&__proto__%5Bpolluted%5D=1&secret=mine&a=1', { 'content-type': 'application/x-www-form-urlencoded' }],
    ]
    for (const [body, headers] of asks) {
      const answer = await ask(`/api/run/acme/show${query}`, { method: 'POST', body, headers: { ...headers, __proto__: 'x', constructor: 'y' } })
      assert.equal(answer.status, 200, answer.text)
      const { polluted, data } = answer.json()
      assert.equal(polluted, null)
      assert.equal(data.secret, 's')
      assert.equal(String(data.a), '1')
      assert.equal(data.polluted, undefined)
    }
    await goodStillWorks()
  })

  test('__proto__ in claims is refused or ignored, and pollutes nothing', async () => {
    for (const claim of ['pctx', 'ectx', 'meta']) {
      for (const value of ['{"__proto__":{"polluted":"1"}}', '{"a":{"__proto__":{"polluted":"1"}}}']) {
        const answer = await ask('/api/tokens/issue', {
          method: 'POST',
          token: runtime.master,
          body: `{"ten":"acme","code":"module.exports = cb => cb()","${claim}":${value}}`,
        })
        assertProblem(answer, { type: 'bad_request', message: new RegExp(claim) })
      }
    }
    const answer = await ask('/api/tokens/issue', {
      method: 'POST',
      token: runtime.master,
      body: '{"__proto__":{"dd":5,"ten":"globex"},"constructor":{"prototype":{"dd":5}},"ten":"acme"}',
    })
    if (answer.status === 200) {
      const { ten, dd } = JSON.parse(Buffer.from(answer.text.split('.')[1]!, 'base64url').toString())
      assert.deepEqual({ ten, dd }, { ten: 'acme', dd: 0 })
    } else assertProblem(answer, { type: 'bad_request' })
    await goodStillWorks()
  })

  test('names that objects have anyway are ordinary names', async () => {
    for (const name of ['constructor', 'toString', 'hasOwnProperty', 'prototype']) {
      assertProblem(await ask(`/api/run/${name}/${name}`), { type: 'not_found' })
      await runtime.issue({ ten: name, jtn: name, code: `module.exports = cb => cb(null, ${JSON.stringify(name)})` })
    }
    assert.equal((await ask('/api/run/constructor/constructor')).text, '"constructor"')
  })
})

describe('paths', () => {
  const refused: [string, ErrorCode][] = [
    ['/api/run/../tokens/inspect', 'bad_request'],
    ['/api/run/%2e%2e/tokens/inspect', 'bad_request'],
    ['/api/run/acme/../globex/good', 'bad_request'],
    ['/api/run/acme/%2e%2e/globex/good', 'bad_request'],
    ['/api/run/acme/..%2fglobex/good', 'bad_request'],
    ['/api/run/acme%2Fgood', 'bad_request'],
    ['/api/run/acme%2fgood/x', 'bad_request'],
    ['/api/run/acme%00/good', 'bad_request'],
    ['/api/run/acme/good%00', 'bad_request'],
    ['/api/run/acme/good%0d%0aX-Injected:%201', 'bad_request'],
    ['/api/run/acme/%ff', 'bad_request'],
    ['/api/run/acme/%', 'bad_request'],
    ['/api/run/acme/%zz', 'bad_request'],
    ['/api/run/%C3%A4cme/good', 'bad_request'],
    ['/api/run/acme/g%EF%BD%8Fod', 'bad_request'],
    ['/api/run/acme/.', 'bad_request'],
    ['/api/run/acme/..', 'bad_request'],
    ['/api/run/__proto__/good', 'bad_request'],
    ['/api/run/acme/__proto__', 'bad_request'],
    [`/api/run/${'a'.repeat(129)}/good`, 'bad_request'],
    [`/api/run/acme/${'a'.repeat(5000)}`, 'bad_request'],
    ['/api/run/acme\\good', 'bad_request'],
    ['/api/run//good', 'bad_request'],
    ['/x/../api/run/acme/good', 'not_found'],
    ['/%61pi/run/acme/good', 'not_found'],
    ['/api%2frun/acme/good', 'not_found'],
    ['/API/RUN/acme/good', 'not_found'],
    ['/api/run/acme/Good', 'not_found'],
    ['/api/run/acme/good;x=1', 'bad_request'],
    ['/api/tokens/../run/acme/good', 'not_found'],
    ['/', 'not_found'],
    ['/api/run', 'not_found'],
    ['/../../../etc/passwd', 'not_found'],
  ]
  for (const [path, type] of refused) {
    test(`${path.slice(0, 60)} is ${type}, as it was sent`, async () =>
      assertProblem(await rawAsk(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`), { type }))
  }

  test('a name in percent-encoding is that name, and a sub-path may hold anything', async () => {
    assert.equal((await rawAsk('GET /api/run/%61cme/g%6Fod HTTP/1.1\r\nHost: x\r\n\r\n')).text, '"good"')
    await runtime.issue({ ten: 'acme', jtn: 'sub', code: 'module.exports = (ctx, req, res) => res.end(req.url)' })
    for (const sub of ['/../../x', '/%2e%2e/%00/%2F/%ff', '//double//', '/ä'.normalize('NFC'), `/${'s'.repeat(3000)}`]) {
      const answer = await rawAsk(Buffer.from(`GET /api/run/acme/sub${sub} HTTP/1.1\r\nHost: x\r\n\r\n`, 'latin1'))
      if (answer.status === 200) assert.equal(answer.text, `/api/run/acme/sub${sub}`)
      else assertProblem(answer, { type: 'bad_request' })
    }
    await goodStillWorks()
  })
})

/** Sends exactly these bytes and reads one answer; fails when the front door stays silent. */
async function rawAsk(bytes: string | Buffer): Promise<Answer> {
  const whole = await raw(bytes)
  const end = whole.indexOf('\r\n\r\n')
  const [line, ...lines] = whole.slice(0, end).split('\r\n')
  const headers = new Headers(
    lines.map((header) => [header.slice(0, header.indexOf(':')), header.slice(header.indexOf(':') + 1).trim()] as [string, string]),
  )
  const rest = whole.slice(end + 4)
  const length = headers.get('content-length')
  const text = length === null ? unchunked(rest) : rest.slice(0, Number(length))
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(line!)?.[1]), headers, text, json: () => JSON.parse(text) }
}

function unchunked(text: string): string {
  let rest = text
  let whole = ''
  for (;;) {
    const [, size] = /^([0-9a-f]+)\r\n/i.exec(rest) ?? []
    const length = Number.parseInt(size ?? '0', 16)
    if (length === 0) return whole
    whole += rest.slice(size!.length + 2, size!.length + 2 + length)
    rest = rest.slice(size!.length + 4 + length)
  }
}

/** All that the front door says to these bytes until it closes or one answer is whole. */
function raw(bytes: string | Buffer, options: { half?: boolean } = {}): Promise<string> {
  const { port } = new URL(runtime.url)
  const socket = connect(Number(port), '127.0.0.1')
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  let heard = ''
  const timer = setTimeout(() => reject(new Error(`No answer within ${BOUND_MS} ms; heard ${JSON.stringify(heard)}`)), BOUND_MS)
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    heard += chunk
    const length = /\r\ncontent-length: (\d+)\r\n/i.exec(heard)?.[1]
    const body = heard.indexOf('\r\n\r\n') + 4
    if (body > 3 && ((length !== undefined && heard.length >= body + Number(length)) || heard.endsWith('\r\n0\r\n\r\n'))) resolve(heard)
  })
  // The front door may close while we still write; what it said before counts.
  socket.on('error', () => {})
  socket.on('close', () => resolve(heard))
  if (options.half) socket.end(bytes)
  else socket.write(bytes)
  return promise.finally(() => {
    clearTimeout(timer)
    socket.destroy()
  })
}

describe('broken HTTP', () => {
  const host1 = 'Host: x\r\n'
  const broken: [string, string | Buffer][] = [
    ['bytes that are no HTTP', 'hello\r\n\r\n'],
    ['a TLS hello', Buffer.from('16030100a5010000a10303', 'hex')],
    ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['an unknown method', `BREW /api/run/acme/good HTTP/1.1\r\n${host1}\r\n`],
    ['an unknown version', `GET /api/run/acme/good HTTP/9.9\r\n${host1}\r\n`],
    ['no version', 'GET /api/run/acme/good\r\n\r\n'],
    ['no Host', 'GET /api/run/acme/good HTTP/1.1\r\n\r\n'],
    ['two Hosts', `GET /api/run/acme/good HTTP/1.1\r\n${host1}Host: y\r\n\r\n`],
    ['a Host that is none', 'GET /api/tokens/inspect HTTP/1.1\r\nHost: [\r\n\r\n'],
    ['a Host with a path', 'GET /api/tokens/inspect HTTP/1.1\r\nHost: a/b\r\n\r\n'],
    ['a space before the colon', `GET /api/run/acme/good HTTP/1.1\r\n${host1}X-A : 1\r\n\r\n`],
    ['a NUL in a header', `GET /api/run/acme/good HTTP/1.1\r\n${host1}X-A: a\0b\r\n\r\n`],
    ['a bare CR in a header', `GET /api/run/acme/good HTTP/1.1\r\n${host1}X-A: a\rb\r\n\r\n`],
    ['a header without a name', `GET /api/run/acme/good HTTP/1.1\r\n${host1}: a\r\n\r\n`],
    ['two lengths', `POST /api/run/acme/good HTTP/1.1\r\n${host1}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`],
    ['a length and chunks', `POST /api/run/acme/good HTTP/1.1\r\n${host1}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
    ['a length that is no number', `POST /api/run/acme/good HTTP/1.1\r\n${host1}Content-Length: abc\r\n\r\n`],
    ['a negative length', `POST /api/run/acme/good HTTP/1.1\r\n${host1}Content-Length: -1\r\n\r\n`],
    ['an unknown transfer coding', `POST /api/run/acme/good HTTP/1.1\r\n${host1}Transfer-Encoding: gzip\r\n\r\n`],
    ['headers over the limit', `GET /api/run/acme/good HTTP/1.1\r\n${host1}X-A: ${'a'.repeat(20_000)}\r\n\r\n`],
    ['a tunnel', `CONNECT acme:443 HTTP/1.1\r\n${host1}\r\n`],
    ['an expectation that nobody meets', `POST /api/run/acme/good HTTP/1.1\r\n${host1}Expect: miracles\r\nContent-Length: 1\r\n\r\na`],
    ['an asterisk', `OPTIONS * HTTP/1.1\r\n${host1}\r\n`],
  ]
  for (const [what, bytes] of broken) {
    test(`${what}: refused at once, in the form of every refusal`, async () => {
      const answer = await rawAsk(bytes)
      assert.ok(answer.status >= 400 && answer.status < 500, `${answer.status} ${answer.text}`)
      const problem = answer.json()
      assert.deepEqual([problem.status, problem.code, problem.fault], [answer.status, answer.status, 'caller'])
      assert.equal(problem.requestId, answer.headers.get('x-request-id'))
      assert.match(problem.message, /^[A-Z]/)
      await goodStillWorks()
    })
  }

  test('HTTP/1.0 without Host, as simple probes speak it, is answered', async () => {
    const { port } = new URL(runtime.url)
    const socket = connect(Number(port), '127.0.0.1').setEncoding('latin1')
    let heard = ''
    socket.on('data', (chunk: string) => (heard += chunk))
    socket.write('GET /api/run/acme/good HTTP/1.0\r\n\r\n')
    await once(socket, 'end')
    assert.match(heard, /^HTTP\/1\.1 200 OK\r\n[^]*"good"$/)
  })

  test('more headers than anybody needs are refused, never dropped', async () => {
    assertProblem(await rawAsk(`GET /api/run/acme/good HTTP/1.1\r\n${host1}${Array.from({ length: 400 }, (_, i) => `X-${i}: 1\r\n`).join('')}\r\n`), {
      type: 'header_too_large',
    })
  })

  test('too large a header says so with 431', async () => {
    assertProblem(await rawAsk(`GET / HTTP/1.1\r\n${host1}X-A: ${'a'.repeat(20_000)}\r\n\r\n`), { type: 'header_too_large' })
  })

  test('a broken chunk in a body that a webtask reads ends the connection, and leaves nothing running', async () => {
    await runtime.issue({
      ten: 'acme',
      jtn: 'reads',
      code: "module.exports = (ctx, req, res) => req.on('end', () => res.end('whole')).on('error', () => {}).resume()",
    })
    const heard = await raw(`POST /api/run/acme/reads HTTP/1.1\r\n${host1}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n`)
    assert.doesNotMatch(heard, /200 OK/)
    await eventually('nothing runs', nothingRuns)
    await goodStillWorks()
  })

  test('a caller that closes in the middle of anything leaves nothing running', async () => {
    for (const bytes of [
      '',
      'GET',
      `GET /api/run/acme/good HTTP/1.1\r\n`,
      `POST /api/run/acme/reads HTTP/1.1\r\n${host1}Content-Length: 10\r\n\r\nhello`,
      `POST /api/tokens/issue HTTP/1.1\r\n${host1}Authorization: Bearer ${runtime.master}\r\nContent-Length: 10\r\n\r\n{`,
    ]) {
      await raw(bytes, { half: true })
    }
    await eventually('nothing runs', nothingRuns)
    await goodStillWorks()
  })

  test('a request to upgrade is an ordinary request', async () => {
    const answer = await rawAsk(
      `GET /api/run/acme/good HTTP/1.1\r\n${host1}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    )
    assert.equal(answer.text, '"good"')
  })

  test('pipelined requests are answered in order', async () => {
    const { port } = new URL(runtime.url)
    const socket = connect(Number(port), '127.0.0.1').setEncoding('latin1')
    let heard = ''
    socket.on('data', (chunk: string) => (heard += chunk))
    socket.write(
      `GET /api/run/acme/good HTTP/1.1\r\n${host1}\r\nGET /api/run/acme/unknown HTTP/1.1\r\n${host1}\r\nGET /api/run/globex/good HTTP/1.1\r\n${host1}Connection: close\r\n\r\n`,
    )
    await once(socket, 'end')
    assert.deepEqual(heard.match(/HTTP\/1\.1 \d{3}/g), ['HTTP/1.1 200', 'HTTP/1.1 404', 'HTTP/1.1 200'])
  })
})

async function nothingRuns(): Promise<boolean> {
  return /^webtask_invocations_running 0$/m.test(await (await fetch(`${runtime.adminUrl}/metrics`)).text())
}

describe('code hosts', () => {
  const from = (url: string, query = '') =>
    ask(`/api/run/acme?webtask_url=${encodeURIComponent(url)}${query}`, { token: runtime.master, signal: AbortSignal.timeout(15_000) })
  const page = (path: string, serve: (incoming: IncomingMessage, outgoing: ServerResponse) => void) => {
    pages.set(path, serve)
    return () => from(hostUrl + path)
  }

  bad('a host that refuses', () => from(`${refusingUrl}/x.js`), { type: 'code_unavailable' })
  bad('a host that does not know the path', () => from(`${hostUrl}/missing.js`), { type: 'code_unavailable', message: /404/ })
  bad(
    'a host that fails',
    page('/fails', (_incoming, outgoing) => void outgoing.writeHead(500).end('oops')),
    { type: 'code_unavailable', message: /500/ },
  )
  bad(
    'a host that hangs up',
    page('/hangs-up', (incoming) => void incoming.socket.destroy()),
    { type: 'code_unavailable' },
  )
  bad(
    'a host that speaks no HTTP',
    page('/no-http', (incoming) => void incoming.socket.end('SSH-2.0-OpenSSH_9\r\n')),
    { type: 'code_unavailable' },
  )
  bad(
    'a host that redirects in a circle',
    page('/circle', (_incoming, outgoing) => void outgoing.writeHead(302, { location: '/circle' }).end()),
    { type: 'code_unavailable', message: /redirect/ },
  )
  bad(
    'a host that redirects to a private address',
    page('/inward', (_incoming, outgoing) => void outgoing.writeHead(302, { location: 'http://169.254.169.254/latest/meta-data/' }).end()),
    { type: 'code_unavailable', message: /redirect/ },
  )
  bad(
    'a host that redirects to a file',
    page('/file', (_incoming, outgoing) => void outgoing.writeHead(302, { location: 'file:///etc/passwd' }).end()),
    { type: 'code_unavailable', message: /redirect/ },
  )
  bad(
    'a host that announces 100 MB',
    page('/announces', (_incoming, outgoing) => void outgoing.writeHead(200, { 'content-length': 104_857_600 }).end(Buffer.alloc(104_857_600))),
    { type: 'code_unavailable', message: /larger|limit/ },
  )
  bad(
    'a host that sends 100 MB',
    page('/endless', (_incoming, outgoing) => {
      const pump = () => {
        while (!outgoing.destroyed) if (!outgoing.write(Buffer.alloc(1_048_576, 'x'))) return void outgoing.once('drain', pump)
      }
      pump()
    }),
    { type: 'code_unavailable', message: /larger/ },
  )
  bad(
    'a host that sends no text',
    page('/binary', (_incoming, outgoing) => void outgoing.end(Buffer.from([255, 254, 0, 1]))),
    { type: 'code_unavailable' },
  )
  bad(
    'a host that sends what does not compile',
    page('/html', (_incoming, outgoing) => void outgoing.end('<html>')),
    { type: 'code_invalid', error: /^Unable to compile/ },
  )
  bad('a URL that is no URL', () => from('nonsense'), { type: 'bad_request', message: /webtask_url/ })
  bad('a URL of a file', () => from('file:///etc/passwd'), { type: 'bad_request', message: /webtask_url/ })
  bad('a URL of stored code', () => from('webtask://localhost/api/data/code/globex%2Fgood'), { type: 'bad_request', message: /webtask_url/ })
  bad('a URL without encryption', () => from('http://example.com/x.js'), { type: 'bad_request', message: /https/ })
  bad('a URL inside the network', () => from('https://169.254.169.254/x.js'), { type: 'bad_request' })
  bad('a URL of the front door itself', () => from('https://localhost/x.js'), { type: 'bad_request' })
  bad('a URL with a password', () => from('https://u:p@example.com/x.js'), { type: 'bad_request' })
  bad('a URL of 3000 characters', () => from(`${hostUrl}/${'x'.repeat(3000)}`), { type: 'bad_request', message: /2048/ })
  bad('two URLs of one name that nobody has', () => from('https://no-such-host.example/x.js'), { type: 'code_unavailable' })

  test('a host that stalls, before or within its answer, is given up in bounded time, and delays nobody else', async () => {
    pages.set('/stalls', () => {})
    pages.set('/stalls-within', (_incoming, outgoing) => void outgoing.write('module.'))
    let over = false
    const stalled = Promise.all([from(`${hostUrl}/stalls`), from(`${hostUrl}/stalls-within`)]).finally(() => (over = true))
    let longest = 0
    while (!over) {
      const began = performance.now()
      await goodStillWorks()
      longest = Math.max(longest, performance.now() - began)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    for (const answer of await stalled) assertProblem(answer, { type: 'code_unavailable' })
    assert.ok(longest < 500, `a good request took ${longest} ms meanwhile`)
  })

  test('a caller who leaves a stalled fetch leaves nothing running', async () => {
    const leaving = ask(`/api/run/acme?webtask_url=${encodeURIComponent(`${hostUrl}/stalls`)}&webtask_no_cache=1`, {
      token: runtime.master,
      signal: AbortSignal.timeout(100),
    })
    await assert.rejects(leaving)
    await eventually('nothing runs', nothingRuns)
  })
})
