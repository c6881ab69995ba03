import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { RUNTIME, startDeployment, type Deployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

const HELLO = 'module.exports = cb => cb(null, "hello")'
/** What may be used with nothing to do: gVisor's kernel takes 2 to 3 % by itself, and more soon after it did more. */
const IDLE = RUNTIME === 'runsc' ? 0.06 : 0.01
/** Answers at once, and goes on using all the processor it can get. */
const BURN = `
  let turns = 0
  module.exports = (ctx, cb) => { cb(null, { turns }); if (ctx.query.burn) (function burn() { const end = Date.now() + 20; while (Date.now() < end) turns++; setTimeout(burn, 0) })() }`

async function containerOf(deployment: Deployment): Promise<string> {
  const [only] = await containersOf(deployment.id, 'sandbox')
  return only!.Id
}

/** Nanoseconds of processor time, as the engine counts. */
async function cpuNanos(container: string): Promise<number> {
  const stats = (await docker.getContainer(container).stats({ stream: false, 'one-shot': true } as never)) as unknown as {
    cpu_stats: { cpu_usage: { total_usage: number } }
  }
  return stats.cpu_stats.cpu_usage.total_usage
}

const stateOf = async (container: string) => (await docker.getContainer(container).inspect()).State.Status
const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe('work that goes on after the answer', () => {
  let runtime: Deployment
  before(async () => {
    runtime = await startDeployment({ WEBTASK_PREWARMED: '0' })
    await runtime.issue({ ten: 'acme', jtn: 'burn', code: BURN })
    await runtime.issue({ ten: 'acme', jtn: 'hello', code: HELLO })
  })
  after(() => runtime[Symbol.asyncDispose]())

  test(`uses less than ${IDLE * 100} % of a processor one second later, and goes on with the next request`, async () => {
    assert.equal((await runtime.ask('/api/run/acme/burn?burn=1')).status, 200)
    const container = await containerOf(runtime)
    await pass(1_000)
    const [before, began] = [await cpuNanos(container), performance.now()]
    await pass(2_000)
    const share = ((await cpuNanos(container)) - before) / 1e6 / (performance.now() - began)
    assert.ok(share < IDLE, `It used ${(share * 100).toFixed(1)} % of a processor`)
    assert.equal(await stateOf(container), 'paused')

    const asked = performance.now()
    const answer = await runtime.ask('/api/run/acme/burn')
    assert.ok(answer.json().turns > 0, 'the same worker answers, with its memory')
    assert.ok(performance.now() - asked < 1_000)
    assert.equal(await containerOf(runtime), container)
    assert.equal((await runtime.ask('/api/run/acme/hello')).text, '"hello"')
  })

  test('does not disturb requests that come again and again while it pauses and resumes', async () => {
    const end = performance.now() + 6_000
    let [asked, slowest] = [0, 0]
    for (; performance.now() < end; asked += 1) {
      const began = performance.now()
      const answer = await runtime.ask('/api/run/acme/hello')
      slowest = Math.max(slowest, performance.now() - began)
      assert.equal(answer.text, '"hello"', `request ${asked}`)
      await pass(400 + (asked % 5) * 100)
    }
    assert.ok(slowest < 1_000, `The slowest took ${slowest} ms`)
  })

  test('of a sandbox that is paused and idle for long: it is retired', async () => {
    await using short = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOX_IDLE_SECONDS: '1' })
    await short.issue({ ten: 'acme', jtn: 'burn', code: BURN })
    assert.equal((await short.ask('/api/run/acme/burn?burn=1')).status, 200)
    const container = await containerOf(short)
    await eventually('it is paused', async () => (await stateOf(container).catch(() => 'gone')) === 'paused', 10_000)
    await eventually('it is gone', async () => (await containersOf(short.id, 'sandbox')).length === 0, 60_000)
  })

  test('ends with the deployment, paused or not', async () => {
    await using stopping = await startDeployment({ WEBTASK_PREWARMED: '0' })
    await stopping.issue({ ten: 'acme', jtn: 'burn', code: BURN })
    await stopping.ask('/api/run/acme/burn?burn=1')
    const container = await containerOf(stopping)
    await eventually('it is paused', async () => (await stateOf(container)) === 'paused', 10_000)
    assert.equal(await stopping.stop('SIGINT'), 0)
    assert.deepEqual(await containersOf(stopping.id), [])
  })
})

test('a sandbox that does nothing is not paused: its next request is as quick as ever', async () => {
  await using quiet = await startDeployment({ WEBTASK_PREWARMED: '0' })
  await quiet.issue({ ten: 'acme', jtn: 'hello', code: HELLO })
  assert.equal((await quiet.ask('/api/run/acme/hello')).text, '"hello"')
  const container = await containerOf(quiet)
  // What starting it takes is over by then.
  await pass(2_000)
  assert.equal((await quiet.ask('/api/run/acme/hello')).text, '"hello"')
  const until = performance.now() + 4_000
  await eventually('four seconds without a pause', async () => {
    assert.equal(await stateOf(container), 'running')
    return performance.now() > until
  })
})
