import assert from 'node:assert/strict'
import net from 'node:net'
import { once } from 'node:events'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { Redis } from 'ioredis'
import { RUNTIME, startDeployment, startGatewayBeside, type Answer, type Deployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

const HELLO = 'module.exports = cb => cb(null, "hello")'
const SLOW = 'module.exports = (ctx, cb) => setTimeout(() => cb(null, "slow"), Number(ctx.query.ms))'

let runtime: Deployment
let runtimes: string[]
/** A server that webtasks of one deployment may reach although it is on loopback. */
let inner: net.Server
let innerPort: number

before(async () => {
  inner = net.createServer((socket) => socket.end('inner'))
  await once(inner.listen(0, '127.0.0.1'), 'listening')
  innerPort = (inner.address() as net.AddressInfo).port
  runtime = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_EGRESS_ALLOW: `127.0.0.1:${innerPort}` })
  runtimes = Object.keys(((await docker.info()) as { Runtimes: object }).Runtimes)
})
after(async () => {
  inner.close()
  await runtime[Symbol.asyncDispose]()
})

const api = (pathname: string, method = 'GET', body?: unknown, token = runtime.master): Promise<Answer> =>
  runtime.ask(`/api/${pathname}`, { method, token, ...(body === undefined ? {} : { body }) })

async function givePlan(tenant: string, plan: Record<string, unknown>): Promise<void> {
  const made = await api(`plans/${tenant}-plan`, 'PUT', plan)
  assert.equal(made.status, 200, made.text)
  const given = await api(`tenants/${tenant}`, 'PUT', { plan: `${tenant}-plan` })
  assert.equal(given.status, 200, given.text)
}

/** Containers of a tenant, by a mark that its own code leaves in /tmp. */
const MARK = `
  const { randomBytes } = require('crypto'), fs = require('fs')
  module.exports = cb => { try { fs.writeFileSync('/tmp/mark', randomBytes(8).toString('hex'), { flag: 'wx' }) } catch {} cb(null, fs.readFileSync('/tmp/mark', 'utf8')) }`

/** The same, after a while. */
const LASTING_MARK = MARK.replace('cb => {', 'cb => setTimeout(() => {').concat(', 50)')

describe('a plan', () => {
  test('gives its tenants their runtime, memory and processor, and others keep theirs', async () => {
    const other = runtimes.includes('runsc') ? (RUNTIME === 'runsc' ? 'runc' : 'runsc') : 'runc'
    await givePlan('special', { runtime: other, memoryMib: 400, cpuMillis: 250 })
    const before = new Set((await containersOf(runtime.id, 'sandbox')).map(({ Id }) => Id))
    assert.equal((await runtime.run('special', HELLO)).text, '"hello"')
    const [mine] = (await containersOf(runtime.id, 'sandbox')).filter(({ Id }) => !before.has(Id))
    const { HostConfig } = await docker.getContainer(mine!.Id).inspect()
    assert.deepEqual([HostConfig.Runtime, HostConfig.Memory, HostConfig.NanoCpus], [other, 400 * 2 ** 20, 250e6])
    assert.equal((await runtime.run('ordinary', HELLO)).text, '"hello"')
    const [theirs] = (await containersOf(runtime.id, 'sandbox')).filter(({ Id }) => !before.has(Id) && Id !== mine!.Id)
    assert.equal((await docker.getContainer(theirs!.Id).inspect()).HostConfig.Runtime, RUNTIME)
  })

  test('that changes moves its tenant to another sandbox under load, and no request fails', async () => {
    await givePlan('mover', { memoryMib: 410 })
    await runtime.issue({ ten: 'mover', jtn: 'hello', code: HELLO })
    assert.equal((await runtime.ask('/api/run/mover/hello')).text, '"hello"')
    const memoryOf = async () => {
      const all = await containersOf(runtime.id, 'sandbox')
      return Promise.all(
        all.map(
          async ({ Id }) =>
            (
              await docker
                .getContainer(Id)
                .inspect()
                .catch(() => undefined)
            )?.HostConfig.Memory,
        ),
      )
    }
    let isOver = false
    const answers: string[] = []
    const asking = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (!isOver) answers.push((await runtime.ask('/api/run/mover/hello')).text)
      }),
    )
    await givePlan('mover', { memoryMib: 444 })
    await eventually(
      'only the new sandbox',
      async () => {
        const sizes = await memoryOf()
        return sizes.includes(444 * 2 ** 20) && !sizes.includes(410 * 2 ** 20)
      },
      20_000,
    )
    isOver = true
    await asking
    assert.ok(answers.length > 20)
    assert.deepEqual([...new Set(answers)], ['"hello"'])
  })

  test('of isolation "webtask" gives each webtask a container of its own, as many as it may have', async () => {
    await givePlan('apart', { isolation: 'webtask', sandboxes: 2 })
    for (const name of ['one', 'two', 'three']) await runtime.issue({ ten: 'apart', jtn: name, code: `${MARK} // ${name}` })
    const mark = async (name: string) => (await runtime.ask(`/api/run/apart/${name}`)).text
    const [one, two] = [await mark('one'), await mark('two')]
    assert.notEqual(one, two)
    assert.deepEqual([await mark('one'), await mark('two')], [one, two], 'each meets its own again')
    assert.match(await mark('three'), /^"[0-9a-f]{16}"$/, 'the longest idle one makes room')
    assert.equal(await mark('two'), two)
  })

  test('has rules of its own for outbound connections, and a change holds at once', async () => {
    const reach = `module.exports = cb => { let text = ''; require('net').connect(${innerPort}, '127.0.0.1').on('data', d => text += d).on('error', e => cb(null, e.code)).on('close', () => text && cb(null, text)) }`
    assert.equal((await runtime.run('fenced', reach)).text, '"inner"')
    await givePlan('fenced', { egress: 'allow *.example.com:443' })
    await eventually('the rule holds', async () => (await runtime.run('fenced', reach)).text === '"EACCES"')
    assert.equal((await runtime.run('free', reach)).text, '"inner"')
    assert.equal((await api('tenants/fenced', 'PUT', { plan: 'default' })).status, 200)
    await eventually('the rule is gone', async () => (await runtime.run('fenced', reach)).text === '"inner"')
  })

  test('bounds how many requests run and wait at once: by tenant and by token, with 429 and when to come back', async () => {
    await givePlan('busy', { concurrency: 2, queue: 1 })
    await runtime.issue({ ten: 'busy', jtn: 'slow', code: SLOW })
    assert.equal((await runtime.ask('/api/run/busy/slow?ms=1')).status, 200)
    const answers = await Promise.all(Array.from({ length: 6 }, () => runtime.ask('/api/run/busy/slow?ms=400')))
    assert.deepEqual(answers.map(({ status }) => status).toSorted(), [200, 200, 200, 429, 429, 429])
    const refused = answers.find(({ status }) => status === 429)!
    assert.deepEqual([refused.json().error, refused.json().fault], ['quota_exceeded', 'caller'])
    assert.match(refused.json().message, /2 requests running and 1 waiting/)
    assert.ok(Number(refused.headers.get('retry-after')) >= 1)

    await givePlan('keyed', { tokenConcurrency: 2 })
    const token = await runtime.issue({ ten: 'keyed', code: SLOW })
    const other = await runtime.issue({ ten: 'keyed', code: SLOW })
    const ask = (by: string) => runtime.ask('/api/run/keyed?ms=400', { token: by })
    assert.equal((await runtime.ask('/api/run/keyed?ms=1', { token })).status, 200)
    const [a, b, c, d] = await Promise.all([ask(token), ask(token), ask(token), ask(other)])
    assert.deepEqual([a.status, b.status, c.status, d.status].toSorted(), [200, 200, 200, 429])
    assert.equal(d.status, 200, 'the other token has its own count')
  })

  test('lets a saturated tenant grow to more sandboxes, spreads requests over them, and shrinks again', async () => {
    await using growing = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOX_IDLE_SECONDS: '2', WEBTASK_SANDBOX_PAUSE_SECONDS: '2' })
    const put = (pathname: string, body: unknown) => growing.ask(`/api/${pathname}`, { method: 'PUT', token: growing.master, body })
    assert.equal((await put('plans/large', { sandboxes: 2, sandboxRequests: 4 })).status, 200)
    assert.equal((await put('tenants/acme', { plan: 'large' })).status, 200)
    await growing.issue({ ten: 'acme', jtn: 'mark', code: LASTING_MARK })
    let isOver = false
    const marks = new Map<string, number>()
    const asking = Promise.all(
      Array.from({ length: 16 }, async () => {
        while (!isOver) {
          const { status, text } = await growing.ask('/api/run/acme/mark')
          assert.equal(status, 200, text)
          marks.set(text, (marks.get(text) ?? 0) + 1)
        }
      }),
    )
    await eventually('a second sandbox', async () => (await containersOf(growing.id, 'sandbox')).length === 2, 20_000)
    marks.clear()
    await eventually('requests in both', () => marks.size === 2 && Math.min(...marks.values()) > 20, 10_000)
    assert.equal((await containersOf(growing.id, 'sandbox')).length, 2, 'saturation alone adds no more than the plan allows')
    isOver = true
    await asking
    await eventually('none is left', async () => (await containersOf(growing.id, 'sandbox')).length === 0, 30_000)
  })

  test('keeps sandboxes running for a tenant that nobody asks for, in its window', async () => {
    const containers = async () => (await containersOf(runtime.id, 'sandbox')).length
    const before = await containers()
    await givePlan('ready', { sandboxes: 2, minWarm: 2 })
    await eventually('two more', async () => (await containers()) === before + 2, 15_000)
    // The window is one minute in four years.
    await givePlan('asleep', { minWarm: 1, warmWindow: '0 0 29 2 *', timezone: 'Europe/Berlin' })
    await api('tenants/ready', 'PUT', { plan: 'default' })
    assert.equal((await runtime.run('asleep', HELLO)).status, 200, 'it is made when it is asked for')
    assert.equal(await containers(), before + 3)
  })

  test('is told apart from what is no plan: each mistake gets 400 and its name', async () => {
    for (const [plan, says] of [
      [{ runtime: 'kata' }, /runtime/],
      [{ memoryMib: 4 }, /memoryMib/],
      [{ memoryMib: '512' }, /memoryMib/],
      [{ memoryMib: 130 }, /"memoryMib" must be at least \d+ for 12/],
      [{ weight: 0 }, /weight/],
      [{ color: 'red' }, /color/],
      [{ egress: 'allow everything' }, /"egress"/],
      [{ minWarm: 3, sandboxes: 2 }, /"minWarm" \(3\) must not be over "sandboxes" \(2\)/],
      [{ minWarm: 1, isolation: 'webtask' }, /"minWarm" needs/],
      [{ warmWindow: 'always' }, /"warmWindow" must be a cron expression of five fields/],
      [{ warmWindow: '61 * * * *' }, /"warmWindow"/],
      [{ warmWindow: '* * * * *', timezone: 'Mars/Olympus' }, /"timezone": "Mars\/Olympus"/],
    ] as const) {
      const answer = await api('plans/bad', 'PUT', plan)
      assert.equal(answer.status, 400, JSON.stringify(plan))
      assert.match(answer.json().message, says)
      assert.equal(answer.json().fault, 'caller')
    }
    assert.equal((await api('plans/bad')).status, 404, 'nothing was made')
    assert.equal((await api('plans/default', 'PUT', {})).status, 400)
    assert.equal((await api('plans/__proto__', 'PUT', {})).status, 400)
    assert.equal((await api('tenants/acme', 'PUT', { plan: 'nowhere' })).status, 400)
    assert.equal((await api('tenants/acme', 'PUT', [])).status, 400)
    assert.equal((await api('tenants/a%2Fb', 'PUT', { plan: 'default' })).status, 400)
  })

  test('is for master tokens, can be read, and cannot be removed while somebody has it', async () => {
    const tenant = await runtime.issue({ ten: 'acme', dd: 1 })
    for (const [pathname, method] of [
      ['plans', 'GET'],
      ['plans/x', 'PUT'],
      ['tenants/acme', 'PUT'],
      ['tenants/acme', 'GET'],
    ] as const) {
      const asked = await api(pathname, method, method === 'PUT' ? {} : undefined, tenant)
      assert.equal(asked.status, 403, `${method} ${pathname}`)
    }
    await givePlan('holder', { weight: 3 })
    assert.equal((await api('tenants/holder')).json().plan.weight, 3)
    assert.ok((await api('plans')).json().some(({ name, weight }: { name: string; weight: number }) => name === 'holder-plan' && weight === 3))
    const kept = await api('plans/holder-plan', 'DELETE')
    assert.deepEqual([kept.status, kept.json().error], [409, 'conflict'])
    await api('tenants/holder', 'PUT', { plan: 'default' })
    assert.equal((await api('plans/holder-plan', 'DELETE')).status, 204)
    assert.equal((await api('plans/holder-plan')).status, 404)
  })
})

test('plans and who has them survive a restart', async () => {
  await using first = await startDeployment({ WEBTASK_PREWARMED: '0' })
  const put = (pathname: string, body: unknown) => first.ask(`/api/${pathname}`, { method: 'PUT', token: first.master, body })
  assert.equal((await put('plans/gold', { weight: 7 })).status, 200)
  assert.equal((await put('tenants/acme', { plan: 'gold' })).status, 200)
  await first.stop('SIGINT')
  await using second = await startDeployment({ WEBTASK_PREWARMED: '0' }, { dataDir: first.dataDir })
  const answer = await second.ask('/api/tenants/acme', { token: second.master })
  assert.deepEqual([answer.json().plan.name, answer.json().plan.weight], ['gold', 7])
})

test('a Redis that loses everything takes nobody out of a plan, whoever changes one next, and whatever starts anew', async () => {
  await using first = await startDeployment({ WEBTASK_PREWARMED: '0' })
  const put = (pathname: string, body: unknown) => first.ask(`/api/${pathname}`, { method: 'PUT', token: first.master, body })
  const flush = async () => {
    const redis = new Redis(path.join(first.runDir, 'redis/redis.sock'))
    await redis.flushall()
    redis.disconnect()
  }
  assert.equal((await put('plans/tight', { weight: 3, egress: 'deny *:*' })).status, 200)
  assert.equal((await put('tenants/acme', { plan: 'tight' })).status, 200)
  await flush()
  assert.equal((await put('plans/unrelated', { weight: 2 })).status, 200)
  assert.equal((await first.ask('/api/tenants/acme', { token: first.master })).json().plan.name, 'tight')
  await using beside = await startGatewayBeside(first)
  const told = await fetch(`${beside.url}/api/tenants/acme`, { headers: { authorization: `Bearer ${first.master}` } })
  assert.equal(((await told.json()) as { plan: { name: string } }).plan.name, 'tight')
  await flush()
  await first.stop('SIGINT')
  await using second = await startDeployment({ WEBTASK_PREWARMED: '0' }, { dataDir: first.dataDir })
  const answer = await second.ask('/api/tenants/acme', { token: second.master })
  assert.deepEqual([answer.json().plan.name, answer.json().plan.weight], ['tight', 3])
  assert.equal((await second.ask('/api/plans/unrelated', { token: second.master })).status, 200)
})
