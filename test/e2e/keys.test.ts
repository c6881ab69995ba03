import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { startDeployment, startGatewayBeside, type Deployment, type GatewayBeside } from '../support/deployment.ts'
import { eventually } from '../support/docker.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const TELL = 'module.exports = (ctx, cb) => cb(null, ctx.secrets.word)'

let runtime: Deployment
/** A second gateway process of the same deployment: keys matter most between two. */
let beside: GatewayBeside

before(async () => {
  runtime = await startDeployment()
  beside = await startGatewayBeside(runtime)
})
after(async () => {
  await beside?.[Symbol.asyncDispose]()
  await runtime?.[Symbol.asyncDispose]()
  // One that was started again leaves its data to whoever made it.
  await rm(runtime.dataDir, { recursive: true, force: true })
})

async function keys(...args: string[]): Promise<{ kid: string; use: string; state: string }[]> {
  const env = { ...process.env, WEBTASK_DATA_DIR: runtime.dataDir }
  const { stdout } = await promisify(execFile)(process.execPath, ['src/keys.ts', ...args, '--json'], { cwd: ROOT, env })
  return JSON.parse(stdout).keys
}

const masterToken = async () => (await readFile(path.join(runtime.dataDir, 'master.token'), 'utf8')).trim()
const kidOf = (token: string): string => JSON.parse(Buffer.from(token.split('.')[0]!, 'base64url').toString()).kid
const sealedWith = (token: string): string => {
  const { ectx } = JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString())
  return JSON.parse(Buffer.from(ectx.split('.')[0], 'base64url').toString()).kid
}

async function send(
  gateway: { url: string },
  pathname: string,
  options: { token: string; body?: unknown },
): Promise<{ status: number; text: string }> {
  const answer = await fetch(gateway.url + pathname, {
    method: 'POST',
    headers: { authorization: `Bearer ${options.token}` },
    ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
  })
  return { status: answer.status, text: await answer.text() }
}

/** Asks over and over, four at a time, until told to stop; every answer that is not the wished one is kept. */
function underLoad(ask: () => Promise<string | undefined>): { stop(): Promise<{ asked: number; failures: string[] }> } {
  let going = true
  let asked = 0
  const failures: string[] = []
  const loops = Array.from({ length: 4 }, async () => {
    while (going) {
      asked += 1
      const failure = await ask().catch((error: Error) => `${error.message} ${String(error.cause)}`)
      if (failure !== undefined) failures.push(failure)
      await sleep(5)
    }
  })
  return {
    async stop() {
      going = false
      await Promise.all(loops)
      return { asked, failures }
    },
  }
}

test('ten rotations under load fail no request, of old tokens and of tokens issued meanwhile, at two gateways', async (t: TestContext) => {
  const old = await runtime.issue({ ten: 'acme', dd: 3, code: TELL, ectx: { word: 'before' } })
  const maker = await runtime.issue({ ten: 'acme', dd: 3 })
  const named = await runtime.issue({ ten: 'acme', jtn: 'told', code: TELL, ectx: { word: 'named' } })
  assert.equal(sealedWith(named), 'kek-1')
  const first = kidOf(old)
  const expect = (what: string, answer: { status: number; text: string }, text: string) =>
    answer.status === 200 && answer.text === JSON.stringify(text) ? undefined : `${what}: ${answer.status} ${answer.text}`
  let turn = 0
  const load = underLoad(async () => {
    const [here, there] = (turn += 1) % 2 === 0 ? [runtime, beside] : [beside, runtime]
    const failures = [expect('old', await send(here, '/api/run/acme', { token: old }), 'before')]
    failures.push(expect('named', await send(there, '/api/run/acme/told', { token: old }), 'named'))
    // Issued at one gateway and used at the other at once; only every few turns, as each is a webtask of its own to load.
    if (turn % 8 === 0) {
      const word = `during ${turn % 3}`
      const made = await send(here, '/api/tokens/issue', { token: maker, body: { ten: 'acme', code: TELL, ectx: { word } } })
      failures.push(made.status === 200 ? expect('fresh', await send(there, '/api/run/acme', { token: made.text }), word) : `issue: ${made.text}`)
    }
    return failures.find((failure) => failure !== undefined)
  })
  for (let i = 0; i < 10; i += 1) {
    await keys('rotate', '--overlap', '1')
    runtime.process.kill('SIGHUP')
  }
  await sleep(500)
  const { asked, failures } = await load.stop()
  t.diagnostic(`${asked} turns of 2 to 4 requests in ten rotations, ${failures.length} failed`)
  assert.deepEqual(failures.slice(0, 5), [])
  assert.ok(asked > 300, `${asked} turns are no load`)

  const listed = await keys('list')
  assert.equal(listed.length, 22)
  assert.equal(listed.filter(({ state }) => state === 'retiring').length, 20)
  const fresh = await runtime.issue({ ten: 'acme', code: TELL, ectx: { word: 'after' } })
  const active = (use: string) => listed.find((key) => key.use === use && key.state === 'active')?.kid
  assert.deepEqual([kidOf(fresh), sealedWith(fresh)], [active('sig'), active('enc')])
  assert.notEqual(kidOf(fresh), first)
  assert.equal(kidOf(await masterToken()), active('sig'), 'the master token follows the keys')
  const derived = await runtime.issue({ ten: 'acme' }, old)
  assert.equal((await send(beside, '/api/run/acme', { token: derived })).text, '"before"', 'secrets of a retiring key open, and are sealed anew')
  assert.equal(sealedWith(derived), active('enc'))
})

test('what a revoked key signed, or secrets that it sealed, are refused by every gateway within a second; all else works', async (t) => {
  const oldMaster = await masterToken()
  const signed = await runtime.issue({ ten: 'acme', code: TELL, ectx: { word: 'signed' } })
  const [signing, sealing] = [kidOf(signed), sealedWith(signed)]
  await keys('rotate', '--overlap', '1', '--use', 'sig')
  const master = await eventually('the master token is signed by the new key', async () => {
    const token = await masterToken()
    return kidOf(token) === signing ? undefined : token
  })
  const resigned = await eventually('both gateways sign with the new key', async () => {
    const token = await runtime.issue({ ten: 'acme', code: TELL, ectx: { word: 'resigned' } }, master)
    return kidOf(token) === signing ? undefined : token
  })
  assert.equal(sealedWith(resigned), sealing)
  const both = [runtime, beside]
  for (const gateway of both) for (const token of [signed, resigned]) assert.equal((await send(gateway, '/api/run/acme', { token })).status, 200)

  const revokeKey = async (kid: string, token: string): Promise<number> => {
    await keys('revoke', kid)
    const revoked = performance.now()
    for (const gateway of both) {
      const answer = await eventually('the token is refused', async () => {
        const asked = await send(gateway, '/api/run/acme', { token })
        return asked.status === 200 ? undefined : asked
      })
      const { error, message } = JSON.parse(answer.text)
      assert.deepEqual([answer.status, error, message], [401, 'token_invalid', 'The token is not valid'])
    }
    return performance.now() - revoked
  }
  const took = [await revokeKey(signing, signed)]
  for (const gateway of both) {
    assert.equal((await send(gateway, '/api/run/acme', { token: resigned })).text, '"resigned"')
    assert.equal((await send(gateway, '/api/tokens/issue', { token: oldMaster, body: { ten: 'acme' } })).status, 401)
    assert.equal((await send(gateway, '/api/tokens/issue', { token: master, body: { ten: 'acme' } })).status, 200)
  }
  await keys('rotate', '--overlap', '1', '--use', 'enc')
  took.push(await revokeKey(sealing, resigned))
  t.diagnostic(`a revoked key was refused everywhere after ${took.map((ms) => ms.toFixed(0)).join(' and ')} ms`)
  assert.ok(Math.max(...took) < 1000)
  const fresh = await runtime.issue({ ten: 'acme', code: TELL, ectx: { word: 'fresh' } }, master)
  for (const gateway of both) assert.equal((await send(gateway, '/api/run/acme', { token: fresh })).text, '"fresh"')
})

test('a start with the same data finds the same keys, and a master token that works', async () => {
  const master = await masterToken()
  const token = await runtime.issue({ ten: 'acme', code: TELL, ectx: { word: 'kept' } }, master)
  await beside[Symbol.asyncDispose]()
  await runtime.stop()
  runtime = await startDeployment({}, { dataDir: runtime.dataDir })
  assert.equal(runtime.master, master)
  assert.equal((await runtime.ask('/api/run/acme', { token })).text, '"kept"')
})
