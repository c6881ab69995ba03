import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { RUNTIME, startDeployment, type Answer, type Deployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'
import { startEngineProxy } from '../support/engine-proxy.ts'

const T_MS = 1_000
const HELLO = 'module.exports = cb => cb(null, "hello")'

let runtime: Deployment
before(async () => {
  runtime = await startDeployment({
    WEBTASK_INVOCATION_MS: String(T_MS),
    WEBTASK_PREWARMED: '0',
    WEBTASK_RESPONSE_BYTES: '1000000',
    // Little enough to be used up before the time is, also under gVisor.
    WEBTASK_SANDBOX_MEMORY_MIB: '256',
    WEBTASK_WORKERS_MAX: '6',
  })
  await runtime.issue({ ten: 'acme', jtn: 'hello', code: HELLO })
})
after(() => runtime?.[Symbol.asyncDispose]())

const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Nanoseconds of processor time of all sandboxes, as the engine counts. */
async function cpuNanos(): Promise<number> {
  let sum = 0
  for (const { Id } of await containersOf(runtime.id, 'sandbox')) {
    const stats = (await docker
      .getContainer(Id)
      .stats({ stream: false, 'one-shot': true })
      .catch(() => undefined)) as unknown as { cpu_stats: { cpu_usage: { total_usage: number } } } | undefined
    sum += stats?.cpu_stats.cpu_usage.total_usage ?? 0
  }
  return sum
}

/** The answer names the limit and whose fault it is, the log and the metrics have the same cause, and the tenant can go on. */
async function attributed(answer: Answer, expected: { status: number; error: string; message?: RegExp }): Promise<void> {
  assert.equal(answer.status, expected.status, answer.text)
  const body = answer.json()
  assert.deepEqual([body.error, body.fault], [expected.error, 'tenant'])
  if (expected.message) assert.match(body.message, expected.message)
  assert.ok(body.requestId)
  await eventually(
    'the log tells the cause',
    () => runtime.output().includes(`"requestId":"${body.requestId}"`) && runtime.output().includes(`"outcome":"${expected.error}"`),
  )
  const metrics = await (await fetch(`${runtime.adminUrl}/metrics`)).text()
  assert.match(metrics, new RegExp(`webtask_invocations_total\\{outcome="${expected.error}"\\} [1-9]`))
  assert.equal((await runtime.ask('/api/run/acme/hello')).text, '"hello"')
}

describe('code that burns the processor is answered in time, and what it burns is over', () => {
  const spin = 'for (;;) {}'
  for (const [what, code] of Object.entries({
    'a loop': `module.exports = cb => { ${spin} }`,
    'endless microtasks': 'module.exports = cb => { (async () => { for (;;) await null })() }',
    'endless ticks': 'module.exports = cb => { const again = () => process.nextTick(again); again() }',
    'a regular expression': `module.exports = cb => cb(null, /^(a+)+$/.test('a'.repeat(60) + 'b'))`,
    'a sleep that never ends': 'module.exports = cb => { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) }',
    'endless timers':
      'module.exports = cb => { const again = () => { const end = Date.now() + 10; while (Date.now() < end); setImmediate(again) }; again() }',
    'many threads': `const { Worker } = require('worker_threads'); module.exports = cb => { for (let i = 0; i < 6; i++) new Worker('${spin}', { eval: true }) }`,
    'a child process': `module.exports = cb => { require('child_process').spawn(process.execPath, ['-e', '${spin}']) }`,
  }))
    test(what, async () => {
      const began = performance.now()
      const answer = await runtime.run('acme', code)
      const took = performance.now() - began
      assert.ok(took < T_MS + 1_000, `It took ${Math.round(took)} ms`)
      await pass(Math.max(0, T_MS + 2_000 - (performance.now() - began)))
      const [before, at] = [await cpuNanos(), performance.now()]
      await pass(500)
      const share = ((await cpuNanos()) - before) / 1e6 / (performance.now() - at)
      assert.ok(share < (RUNTIME === 'runsc' ? 0.15 : 0.05), `Two seconds after its time it uses ${Math.round(share * 100)} % of a processor`)
      await attributed(answer, { status: 504, error: 'invocation_timeout', message: new RegExp(`no progress for ${T_MS} ms`) })
    })
})

describe('memory', () => {
  test('of the heap', async () => {
    const answer = await runtime.run('acme', 'module.exports = cb => { const all = []; for (;;) all.push(new Array(1e6).fill(all.length)) }')
    await attributed(answer, { status: 502, error: 'memory_limit', message: /heap \d+ MiB/ })
  })

  test('beside the heap', async () => {
    const answer = await runtime.run('acme', 'module.exports = cb => { const all = []; setInterval(() => all.push(Buffer.alloc(2 ** 26, 1)), 1) }')
    await attributed(answer, { status: 502, error: 'memory_limit', message: /sandbox ran over its memory limit \(\d+ MiB\)/ })
  })

  test('of WebAssembly', async () => {
    const answer = await runtime.run(
      'acme',
      'module.exports = cb => { const all = []; setInterval(() => { const m = new WebAssembly.Memory({ initial: 1000 }); new Uint8Array(m.buffer).fill(1); all.push(m) }, 1) }',
    )
    await attributed(answer, { status: 502, error: 'memory_limit' })
  })
})

describe('a limit that the system tells the code', () => {
  for (const [what, code, errno] of [
    [
      'open files',
      `const fs = require('fs'); module.exports = cb => { const all = []; try { for (;;) all.push(fs.openSync('/dev/null')) } catch (e) { for (const fd of all) fs.closeSync(fd); cb(null, [e.code, all.length]) } }`,
      'EMFILE',
    ],
    [
      'bytes in /tmp',
      `const fs = require('fs'); module.exports = cb => { try { for (let i = 0; ; i++) fs.writeFileSync('/tmp/b' + i, Buffer.alloc(2 ** 20)) } catch (e) { for (const f of fs.readdirSync('/tmp')) fs.rmSync('/tmp/' + f); cb(null, [e.code]) } }`,
      'ENOSPC',
    ],
    [
      'files in /tmp',
      `const fs = require('fs'); module.exports = cb => { let i = 0; try { for (; ; i++) fs.writeFileSync('/tmp/f' + i, '') } catch (e) { for (const f of fs.readdirSync('/tmp')) fs.rmSync('/tmp/' + f); cb(null, [e.code, i]) } }`,
      'ENOSPC',
    ],
    [
      'the size of one file',
      `const fs = require('fs'); module.exports = cb => { const fd = fs.openSync('/tmp/large', 'w'); try { fs.writeSync(fd, 'x', 2 ** 40); cb(null, ['none']) } catch (e) { fs.rmSync('/tmp/large'); cb(null, [e.code]) } }`,
      'EFBIG',
    ],
  ] as const)
    // gVisor's file systems in memory have no such limit: there the memory of the sandbox is the bound.
    test(what, { skip: RUNTIME === 'runsc' && what === 'files in /tmp' && 'gVisor has no limit of files' }, async () => {
      const answer = await runtime.run('acme', code)
      assert.equal(answer.status, 200, answer.text)
      assert.equal(answer.json()[0], errno, answer.text)
      assert.equal((await runtime.ask('/api/run/acme/hello')).text, '"hello"')
    })
})

describe('output', () => {
  test('beyond its rate is dropped, and the log says how much', async () => {
    const answer = await runtime.run('acme', 'module.exports = cb => { for (let i = 0; i < 20000; i++) console.log("line", i); cb() }')
    assert.equal(answer.status, 200)
    // What it does after its answer may freeze the sandbox until the next request.
    await eventually('the log says that lines were dropped', async () => {
      assert.equal((await runtime.ask('/api/run/acme/hello')).text, '"hello"')
      return /"dropped":\d+/.test(runtime.output())
    })
  })
})

describe('the answer', () => {
  test('whose length is announced as too large is refused before it begins', async () => {
    const answer = await runtime.run('acme', 'module.exports = (ctx, req, res) => res.end("x".repeat(1000001))')
    await attributed(answer, { status: 502, error: 'response_too_large', message: /1000000 bytes/ })
  })

  test('that turns out too large is cut off, which the caller sees', async () => {
    const token = await runtime.issue({
      ten: 'acme',
      code: 'module.exports = (ctx, req, res) => { const more = () => { while (res.write("x".repeat(10000))); res.once("drain", more) }; more() }',
    })
    await assert.rejects(runtime.ask('/api/run/acme', { token }))
    await eventually('the log tells the cause', () => runtime.output().includes('"outcome":"response_too_large"'))
    assert.equal((await runtime.ask('/api/run/acme/hello')).text, '"hello"')
  })

  test('with too large a header', async () => {
    const answer = await runtime.run('acme', 'module.exports = (ctx, req, res) => { res.setHeader("x-large", "x".repeat(20000)); res.end() }')
    await attributed(answer, { status: 502, error: 'response_invalid', message: /16384 bytes/ })
  })
})

test('code that does not load is its own cause in the metrics, not a failure of the platform', async () => {
  const answer = await runtime.run('acme', 'module.exports = ((')
  assert.deepEqual([answer.status, answer.json().fault], [400, 'tenant'])
  const metrics = await (await fetch(`${runtime.adminUrl}/metrics`)).text()
  assert.match(metrics, /webtask_invocations_total\{outcome="code_invalid"\} [1-9]/)
  assert.doesNotMatch(metrics, /outcome="internal"/)
})

test(
  'a sandbox that must go is killed at once though the engine hangs, and cleared away when it is back',
  { skip: process.getuid?.() !== 0 && 'only root may kill past the engine' },
  async () => {
    await using engine = await startEngineProxy()
    await using apart = await startDeployment({ DOCKER_HOST: engine.host, WEBTASK_PREWARMED: '0' })
    assert.equal((await apart.run('bystander', HELLO)).text, '"hello"')
    const before = await containersOf(apart.id, 'sandbox')
    assert.equal((await apart.run('acme', HELLO)).text, '"hello"')
    const mine = (await containersOf(apart.id, 'sandbox')).find(({ Id }) => !before.some((other) => other.Id === Id))!
    const { Pid } = (await docker.getContainer(mine.Id).inspect()).State
    const runs = () => existsSync(`/proc/${Pid}`)
    assert.ok(runs())
    engine.fault = () => 'stall'
    // Whoever keeps breaking the agent's protocol has its sandbox ended; its child would burn on.
    const attack = `require('child_process').spawn(process.execPath, ['-e', 'for (;;);'])
      const net = require('net'), fs = require('fs')
      const path = '/run/wt/' + fs.readdirSync('/run/wt').find((name) => name.endsWith('.sock'))
      const body = Buffer.from(JSON.stringify({ kind: 'hello', role: 'control', version: 1 })), head = Buffer.alloc(4)
      head.writeUInt32BE(body.length)
      const breach = () => { const socket = net.connect(path, () => socket.write(Buffer.concat([head, body]))); socket.on('error', () => {}); socket.on('close', breach) }
      module.exports = cb => { for (let i = 0; i < 200; i++) breach() }`
    const attacked = performance.now()
    const answer = await apart.run('acme', attack)
    assert.ok(answer.status >= 500, answer.text)
    await eventually('its processes are gone', () => !runs(), 3_000)
    assert.ok(performance.now() - attacked < 5_000)
    assert.equal((await apart.run('bystander', HELLO)).text, '"hello"', 'nobody else notices')
    engine.fault = undefined
    await eventually('its container is gone', async () => !(await containersOf(apart.id, 'sandbox')).some(({ Id }) => Id === mine.Id), 30_000)
    assert.equal((await apart.run('acme', HELLO)).text, '"hello"')
  },
)

test(
  'a sandbox that has no room left for another webtask is replaced: that one is served, and those who filled it hear whose fault it was',
  { skip: RUNTIME === 'runsc' && 'the kernel of gVisor itself ends when it is refused a thread' },
  async () => {
    await using small = await startDeployment({ WEBTASK_SANDBOX_PIDS: '32', WEBTASK_PREWARMED: '0' })
    const filling = small.run(
      'acme',
      `module.exports = cb => {
      const { spawn } = require('child_process')
      const fill = () => { const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']); child.on('error', () => setTimeout(fill, 50)); child.on('exit', fill) }
      for (let i = 0; i < 4; i++) fill()
    }`,
    )
    let ended = false
    void filling.then(() => (ended = true))
    await eventually(
      'another webtask finds no room',
      async () => {
        assert.equal((await small.run('acme', `module.exports = cb => cb(null, "hello ${Math.random()}")`)).status, 200)
        return ended
      },
      25_000,
    )
    const answer = await filling
    const body = answer.json()
    assert.deepEqual([body.error, body.fault], ['sandbox_crashed', 'tenant'], answer.text)
    assert.match(body.message, /no memory or no processes left to start a webtask/)
    await eventually('the metric has the cause', async () =>
      /webtask_sandboxes_ended_total\{cause="exhausted"\} [1-9]/.test(await (await fetch(`${small.adminUrl}/metrics`)).text()),
    )
  },
)
