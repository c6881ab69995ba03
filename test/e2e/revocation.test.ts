import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { startDeployment, startGatewayBeside, type Deployment, type GatewayBeside } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

const HELLO = "module.exports = cb => cb(null, 'hello')"
const STALE_SECONDS = '3'

let runtime: Deployment
let beside: GatewayBeside
let names = 0

before(async () => {
  const settings = { WEBTASK_REVOCATION_STALE_SECONDS: STALE_SECONDS, WEBTASK_REVOCATIONS_MAX: '5' }
  runtime = await startDeployment(settings)
  beside = await startGatewayBeside(runtime, settings)
})
after(async () => {
  await beside?.[Symbol.asyncDispose]()
  await runtime?.[Symbol.asyncDispose]()
  // One that was started again leaves its data to whoever made it.
  await rm(runtime.dataDir, { recursive: true, force: true })
})

const newTenant = () => `tenant-${++names}`

async function send(gateway: { url: string }, pathname: string, options: { token?: string; body?: unknown; method?: string } = {}) {
  const { token, body, method = 'POST' } = options
  const answer = await fetch(gateway.url + pathname, {
    method,
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  const text = await answer.text()
  return { status: answer.status, text, error: answer.status < 400 ? undefined : (JSON.parse(text).error as string) }
}

const revoke = (body: unknown, token = runtime.master) => send(runtime, '/api/tokens/revoke', { token, body })
/** Whether a token is good, without a sandbox. */
const inspect = (gateway: { url: string }, token: string) => send(gateway, `/api/tokens/inspect?token=${token}`, { token, method: 'GET' })

async function refusedSoon(gateway: { url: string }, token: string): Promise<void> {
  await eventually('the token is refused', async () => (await inspect(gateway, token)).error === 'token_invalid', 1000)
}

test('a master token revokes a tenant: all its tokens are refused at every gateway within a second, new ones work at once', async () => {
  const ten = newTenant()
  const tokens = [
    await runtime.issue({ ten, dd: 2 }),
    await runtime.issue({ ten, code: HELLO, ectx: { a: 'b' } }),
    await runtime.issue({ ten: [newTenant(), ten] }),
  ]
  tokens.push(await runtime.issue({ ten }, tokens[0]))
  await runtime.issue({ ten, jtn: 'named', code: HELLO })
  const others = [runtime.master, await runtime.issue({ ten: newTenant() }), await runtime.issue({ ten: '/^tenant-/' })]
  assert.equal((await send(beside, `/api/run/${ten}/named`)).text, '"hello"')
  assert.deepEqual((await revoke({ ten })).text, '{"revoked":true}')
  for (const gateway of [runtime, beside]) {
    for (const token of tokens) await refusedSoon(gateway, token)
    assert.equal((await send(gateway, `/api/run/${ten}/named`)).error, 'token_invalid')
    for (const token of others) assert.equal((await inspect(gateway, token)).error === 'token_invalid', false)
  }
  await runtime.issue({ ten, jtn: 'named', code: HELLO })
  const fresh = await runtime.issue({ ten, code: HELLO })
  for (const gateway of [runtime, beside]) {
    assert.equal((await send(gateway, `/api/run/${ten}`, { token: fresh })).text, '"hello"')
    assert.equal((await send(gateway, `/api/run/${ten}/named`)).text, '"hello"')
  }
  assert.equal((await revoke(`ten=${ten}`)).status, 200, 'as a form')
  await refusedSoon(beside, fresh)
})

test('a tenant is revoked by its own first tokens, and by nobody who would revoke his betters', async () => {
  const ten = newTenant()
  const admin = await runtime.issue({ ten, dd: 3 })
  const refused = [
    await runtime.issue({ ten, dd: 1 }, admin),
    await runtime.issue({ ten, dr: 1 }),
    await runtime.issue({ ten, code: HELLO }),
    await runtime.issue({ ten, jtnm: ['a'] }),
    await runtime.issue({ ten: newTenant(), dd: 1 }),
    await runtime.issue({ ten: [ten, newTenant()], dd: 1 }),
    await runtime.issue({ ten: `/^${ten}$/`, dd: 1 }),
  ]
  for (const token of refused) assert.equal((await revoke({ ten }, token)).error, 'forbidden')
  for (const bad of ['', '/x/', 'a b', '../x', ['a', 'b'], 5, null, {}]) assert.equal((await revoke({ ten: bad })).error, 'bad_request')
  assert.equal((await revoke({ ten, token: admin })).error, 'bad_request')
  assert.equal((await revoke({})).error, 'bad_request')
  for (const body of ['null', '"x"', '[]', '']) assert.equal((await revoke(body)).error, 'bad_request')
  assert.equal((await inspect(runtime, admin)).status, 200)
  assert.equal((await revoke({ ten }, admin)).status, 200)
  await refusedSoon(runtime, admin)
})

test('a tenant that revokes token after token is stopped at its limit; the way out works, and the master goes on', async () => {
  const admin = await runtime.issue({ ten: newTenant(), dd: 3 })
  const tokens = await Promise.all(Array.from({ length: 6 }, () => runtime.issue({}, admin)))
  for (const token of tokens.slice(0, 5)) assert.equal((await revoke({ token }, admin)).status, 200)
  const over = await revoke({ token: tokens[5] }, admin)
  assert.deepEqual([over.status, over.error], [429, 'quota_exceeded'])
  assert.equal((await revoke({ token: tokens[5] })).status, 200)
  const elsewhere = await runtime.issue({ ten: newTenant(), dd: 1 })
  assert.equal((await revoke({ token: await runtime.issue({}, elsewhere) }, elsewhere)).status, 200)
})

test('two processes, 100 revocations over HTTP: the other one refuses within a second', async (t) => {
  const tokens = await Promise.all(Array.from({ length: 100 }, () => runtime.issue({ ten: 'acme' })))
  await Promise.all(tokens.map((token) => inspect(beside, token)))
  const times: number[] = []
  for (const token of tokens) {
    const began = performance.now()
    const revoking = revoke({ token })
    while ((await inspect(beside, token)).status === 200);
    times.push(performance.now() - began)
    assert.equal((await revoking).status, 200)
  }
  times.sort((a, b) => a - b)
  t.diagnostic(
    `revoke sent to refused by the other process: p50 ${times[49]!.toFixed(1)} ms, p99 ${times[98]!.toFixed(1)} ms, most ${times[99]!.toFixed(1)} ms`,
  )
  assert.ok(times[98]! < 1000)
})

test('while Redis cannot be read tokens are judged by what is known, then refused with 503; revoked ones stay refused, and it heals', async () => {
  const [good, revoked] = [await runtime.issue({ ten: 'acme' }), await runtime.issue({ ten: 'acme' })]
  assert.equal((await send(runtime, '/api/run/acme', { token: good, body: HELLO })).text, '"hello"')
  await revoke({ token: revoked })
  const [redis] = await containersOf(runtime.id, 'redis')
  const container = docker.getContainer(redis!.Id)
  await container.pause()
  try {
    assert.equal((await send(runtime, '/api/run/acme', { token: good, body: HELLO })).status, 200)
    const refusal = await eventually(
      'the gateway refuses to guess',
      async () => {
        const answer = await send(runtime, '/api/run/acme', { token: good, body: HELLO })
        return answer.status === 200 ? undefined : answer
      },
      6000,
    )
    assert.deepEqual([refusal.status, refusal.error], [503, 'unavailable'])
    assert.match(JSON.parse(refusal.text).message, /cannot be told: Redis could not be read for \d+ s; try again/)
    assert.equal((await inspect(runtime, revoked)).error, 'token_invalid')
    assert.equal((await inspect(runtime, 'garbage')).error, 'token_invalid')
    const ready = await fetch(`${runtime.adminUrl}/readyz`)
    assert.equal(ready.status, 503)
    assert.ok(((await ready.json()) as { missing: string[] }).missing.includes('revocations'))
  } finally {
    await container.unpause()
  }
  await eventually('tokens work again', async () => (await send(runtime, '/api/run/acme', { token: good, body: HELLO })).status === 200, 8000)
  assert.equal((await inspect(runtime, revoked)).error, 'token_invalid')
})

test('revocations survive a flushed Redis, and a Redis that comes back empty', async () => {
  const ten = newTenant()
  const [one, all] = [await runtime.issue({ ten: 'acme', dd: 1 }), await runtime.issue({ ten })]
  const child = await runtime.issue({}, one)
  assert.equal((await revoke({ token: one })).status, 200)
  assert.equal((await revoke({ ten })).status, 200)
  const refused = [one, child, all]
  const redis = new Redis(path.join(runtime.runDir, 'redis/redis.sock'))
  await redis.flushall()
  redis.disconnect()
  for (let i = 0; i < 10; i += 1) {
    for (const gateway of [runtime, beside]) for (const token of refused) assert.equal((await inspect(gateway, token)).error, 'token_invalid')
    await sleep(100)
  }
  await beside[Symbol.asyncDispose]()
  await runtime.stop()
  await rm(path.join(runtime.dataDir, 'redis'), { recursive: true })
  const { dataDir } = runtime
  runtime = await startDeployment({}, { dataDir })
  for (const token of refused) assert.equal((await inspect(runtime, token)).error, 'token_invalid')
  assert.equal((await inspect(runtime, await runtime.issue({ ten }))).status, 200)
})
