import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import net from 'node:net'
import path from 'node:path'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'
import { RUNTIME, startDeployment, type Deployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const HELLO = 'module.exports = cb => cb(null, "hello")'
const SLOW = 'module.exports = (ctx, cb) => setTimeout(() => cb(null, "slow"), Number(ctx.query.ms))'

const sandboxesOf = async (deployment: Deployment) => (await containersOf(deployment.id, 'sandbox')).map(({ Id }) => Id)
const prewarmedOf = async (deployment: Deployment) =>
  Number(/webtask_sandboxes\{state="prewarmed"\} (\d+)/.exec(await (await fetch(`${deployment.adminUrl}/metrics`)).text())![1])
const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Asks one webtask again and again until `done`, a few at a time; gives all answers. */
async function underLoad(deployment: Deployment, pathname: string, done: () => Promise<unknown>): Promise<string[]> {
  let isOver = false
  const answers: string[] = []
  const asking = Promise.all(
    Array.from({ length: 4 }, async () => {
      while (!isOver) {
        const answer = await deployment.ask(pathname)
        answers.push(`${answer.status} ${answer.text}`)
      }
    }),
  )
  try {
    await done()
  } finally {
    isOver = true
    await asking
  }
  return answers
}

describe('more tenants than room', () => {
  test('the longest idle make room, one with work in flight never, and there are never too many', async () => {
    await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOXES_MAX: '2' })
    const slow = deployment.run('busy', SLOW, { query: '?ms=10000' })
    await eventually('it runs', async () => (await (await fetch(`${deployment.adminUrl}/metrics`)).text()).includes('webtask_invocations_running 1'))
    const [busy] = await sandboxesOf(deployment)
    let most = 0
    for (let i = 0; i < 3; i += 1) {
      assert.equal((await deployment.run(`tenant${i}`, HELLO)).text, '"hello"', `tenant ${i}`)
      most = Math.max(most, (await sandboxesOf(deployment)).length)
    }
    assert.ok(most <= 2, `There were ${most}`)
    assert.ok((await sandboxesOf(deployment)).includes(busy!))
    assert.equal((await slow).text, '"slow"')
    assert.match(await (await fetch(`${deployment.adminUrl}/metrics`)).text(), /webtask_sandboxes_ended_total\{cause="evicted"\} [1-9]/)
    const left = await readdir(path.join(deployment.runDir, 's'))
    await eventually('no directory of one that is gone', async () => (await readdir(path.join(deployment.runDir, 's'))).length <= 2)
    assert.ok(left.length <= 3)
  })

  test('when all are busy, the next is told so in time and when to come back; then there is room again', async () => {
    await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOXES_MAX: '1', WEBTASK_SANDBOX_WAIT_MS: '1500' })
    const slow = deployment.run('busy', SLOW, { query: '?ms=4000' })
    await eventually('it runs', async () => (await (await fetch(`${deployment.adminUrl}/metrics`)).text()).includes('webtask_invocations_running 1'))
    const began = performance.now()
    const refused = await deployment.run('late', HELLO)
    assert.deepEqual([refused.status, refused.json().error, refused.json().fault], [503, 'pool_exhausted', 'platform'])
    assert.ok(Number(refused.headers.get('retry-after')) >= 1)
    assert.ok(performance.now() - began < 3_000)
    assert.equal((await slow).text, '"slow"')
    await pass(1_100)
    assert.equal((await deployment.run('late', HELLO)).text, '"hello"')
  })
})

test('an idle sandbox is frozen after a while, costs no processor, and resumes with its connections', async () => {
  const counts: number[] = []
  const server = net.createServer((socket) => {
    const at = counts.push(0) - 1
    socket.on('data', () => socket.write(String((counts[at]! += 1))))
    socket.on('error', () => {})
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const port = (server.address() as net.AddressInfo).port
  try {
    await using deployment = await startDeployment({
      WEBTASK_PREWARMED: '0',
      WEBTASK_SANDBOX_PAUSE_SECONDS: '1',
      WEBTASK_EGRESS_ALLOW: `127.0.0.1:${port}`,
    })
    const code = `const socket = require('net').connect(${port}, '127.0.0.1')
      module.exports = cb => { socket.once('data', d => cb(null, Number(d))); socket.write('x') }`
    await deployment.issue({ ten: 'acme', jtn: 'pooled', code })
    assert.equal((await deployment.ask('/api/run/acme/pooled')).json(), 1)
    const [container] = await sandboxesOf(deployment)
    const state = async () => (await docker.getContainer(container!).inspect()).State.Status
    const cpu = async () =>
      ((await docker.getContainer(container!).stats({ stream: false, 'one-shot': true } as never)) as any).cpu_stats.cpu_usage.total_usage as number
    for (let round = 2; round <= 4; round += 1) {
      await eventually('it is frozen', async () => (await state()) === 'paused')
      const [before, began] = [await cpu(), performance.now()]
      await pass(500)
      // gVisor's kernel goes on a little by itself.
      assert.ok((await cpu()) - before < (performance.now() - began) * 1e6 * (RUNTIME === 'runsc' ? 0.06 : 0.001))
      assert.equal((await deployment.ask('/api/run/acme/pooled')).json(), round, 'the same connection goes on')
    }
    assert.deepEqual(counts, [4])
    assert.deepEqual(await sandboxesOf(deployment), [container])
  } finally {
    server.close()
  }
})

describe('a sandbox is replaced under load without a failed request', () => {
  for (const [why, times, settings] of [
    ['after its number of requests', 2, { WEBTASK_SANDBOX_USES: '300' }],
    ['when it is old', 1, { WEBTASK_SANDBOX_AGE_SECONDS: '10' }],
  ] as const)
    test(why, async () => {
      await using deployment = await startDeployment({ WEBTASK_PREWARMED: '1', ...settings })
      await deployment.issue({ ten: 'acme', jtn: 'hello', code: HELLO })
      assert.equal((await deployment.ask('/api/run/acme/hello')).text, '"hello"')
      const renewed = () => (deployment.output().match(/"sandbox.renewed"/g) ?? []).length
      const answers = await underLoad(deployment, '/api/run/acme/hello', () => eventually('a fresh one', () => renewed() >= times, 40_000))
      assert.deepEqual([...new Set(answers)], ['200 "hello"'])
      assert.match(deployment.output(), /"cause":"recycled","msg":"sandbox.retired"/)
    })

  test('when it holds too much memory', async () => {
    await using deployment = await startDeployment({ WEBTASK_PREWARMED: '1', WEBTASK_SANDBOX_MEMORY_HIGH_PERCENT: '40' })
    const hoard =
      'const held = []; module.exports = (ctx, cb) => { if (ctx.query.more) held.push(Buffer.alloc(260e6, 1)); cb(null, "held " + held.length) }'
    await deployment.issue({ ten: 'acme', jtn: 'hoard', code: hoard })
    assert.equal((await deployment.ask('/api/run/acme/hoard?more=1')).text, '"held 1"')
    const answers = await underLoad(deployment, '/api/run/acme/hoard', () =>
      eventually('a fresh one', async () => (await deployment.ask('/api/run/acme/hoard')).text === '"held 0"', 20_000),
    )
    assert.ok(
      answers.every((answer) => /^200 "held [01]"$/.test(answer)),
      [...new Set(answers)].join(', '),
    )
  })

  test('and a request that takes long ends in the old one', async () => {
    await using deployment = await startDeployment({ WEBTASK_PREWARMED: '1', WEBTASK_SANDBOX_USES: '5' })
    await deployment.issue({ ten: 'acme', jtn: 'slow', code: SLOW })
    const slow = deployment.ask('/api/run/acme/slow?ms=5000')
    for (let i = 0; i < 6; i += 1) assert.equal((await deployment.ask('/api/run/acme/slow?ms=1')).text, '"slow"')
    await eventually('a fresh one', () => deployment.output().includes('"sandbox.renewed"'))
    assert.equal((await slow).text, '"slow"')
    await eventually('the old one goes', () => /"cause":"recycled","msg":"sandbox.retired"/.test(deployment.output()))
  })
})

test('the stock of prewarmed sandboxes grows with demand within its bounds, and advise says what it would have been worth', async () => {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '1', WEBTASK_PREWARMED_MAX: '4' })
  await eventually('one to begin with', async () => (await prewarmedOf(deployment)) === 1)
  const answers = await Promise.all(Array.from({ length: 6 }, (_, index) => deployment.run(`tenant${index}`, HELLO)))
  assert.deepEqual([...new Set(answers.map(({ text }) => text))], ['"hello"'])
  await eventually('four', async () => (await prewarmedOf(deployment)) === 4, 15_000)
  await pass(1_000)
  assert.equal(await prewarmedOf(deployment), 4)

  const ask = (...words: string[]) =>
    promisify(execFile)(process.execPath, ['src/advise.ts', ...words], { cwd: ROOT, env: { ...process.env, WEBTASK_DATA_DIR: deployment.dataDir } })
  const [advice] = JSON.parse((await ask('--json')).stdout) as { starts: number; adopted: number; outlooks: { size: number; ready: number }[] }[]
  assert.equal(advice!.starts, 6)
  assert.ok(advice!.adopted >= 1)
  assert.equal(advice!.outlooks.find(({ size }) => size === 8)!.ready, 1)
  const { stdout } = await ask('--p95', '100')
  assert.match(stdout, /6 first requests.*\n.*\n\n +PREWARMED +READY +P50 +P95\n/)
  assert.match(stdout, /WEBTASK_PREWARMED=\d+ would have had a p95 of at most 100 ms/)
  await assert.rejects(ask('--p95', 'soon'), /--p95 must be a whole number/)
})

test('500 simultaneous first requests of one tenant make one container, and none fails', async () => {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0' })
  const answers = await Promise.all(Array.from({ length: 500 }, () => deployment.run('herd', HELLO)))
  assert.deepEqual([...new Set(answers.map((answer) => `${answer.status} ${answer.text}`))], ['200 "hello"'])
  assert.equal((await sandboxesOf(deployment)).length, 1)
})
