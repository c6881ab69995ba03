import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test, type TestContext } from 'node:test'
import { Redis } from 'ioredis'
import { RUNTIME, startDeployment, type Answer, type Deployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'
import * as places from '../support/sweep.ts'
import { sweep } from '../support/sweep.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const newSentinel = () => randomBytes(64).toString('base64url').replace(/[-_]/g, '').slice(0, 36)
const SECRET = newSentinel()

let runtime: Deployment
let redis: Redis
let began: number
/** All that anybody was answered, but for those answers whose purpose is to tell the secret. */
const answers: string[] = []

before(async () => {
  began = Math.floor(Date.now() / 1000)
  runtime = await startDeployment({ WEBTASK_INVOCATION_MS: '1500', WEBTASK_LOG_LEVEL: 'debug', WEBTASK_WORKERS_MAX: '8' })
  redis = new Redis(path.join(runtime.runDir, 'redis/redis.sock'))
})
after(async () => {
  redis?.disconnect()
  await runtime?.[Symbol.asyncDispose]()
})

/** Everywhere that a secret could have got to, class by class. */
async function everywhere(): Promise<Record<string, AsyncIterable<places.Piece>>> {
  const ids = (await containersOf(runtime.id)).map(({ Id }) => Id)
  const admin = await Promise.all(['/metrics', '/readyz', '/healthz'].map(async (name) => (await fetch(runtime.adminUrl + name)).text()))
  return {
    inspections: places.inspections(),
    events: places.events(began),
    processes: places.processes(),
    redis: places.redisValues(redis),
    logs: places.texts('log', [runtime.output()]),
    metrics: places.texts('admin answer', admin),
    answers: places.texts('answer', answers),
    data: places.files(runtime.dataDir),
    run: places.files(runtime.runDir),
    cores: places.coreFiles([ROOT, runtime.dataDir, runtime.runDir]),
    engine: places.engineFiles(ids),
    tmp: places.sandboxTmp(ids),
  }
}

async function sweepAll(t: TestContext, secret: string): Promise<Record<string, string[]>> {
  const found: Record<string, string[]> = {}
  const searched: string[] = []
  for (const [name, pieces] of Object.entries(await everywhere())) {
    const result = await sweep(secret, pieces)
    found[name] = result.found
    searched.push(`${name} ${result.pieces} (${Math.ceil(result.bytes / 1024)} KiB)`)
  }
  t.diagnostic(`searched: ${searched.join(', ')}`)
  return found
}

async function keep(asking: Promise<Answer>, status?: number): Promise<Answer> {
  const answer = await asking
  if (status !== undefined) assert.equal(answer.status, status, answer.text)
  answers.push(JSON.stringify([answer.status, [...answer.headers], answer.text]))
  return answer
}

/** Code that uses its secret and tells only how long it is; each is another webtask. */
const use = (body: string) => `module.exports = (ctx, cb) => { const secret = ctx.secrets.word; const used = secret.length; ${body} }`

const issuing = (claims: unknown, token = runtime.master) => runtime.ask('/api/tokens/issue', { method: 'POST', token, body: claims })
const withSecret = (claims: Record<string, unknown>) => runtime.issue({ ten: 'acme', ectx: { word: SECRET, nested: { deep: [SECRET] } }, ...claims })
const running = (token: string, query = '', options: { body?: unknown; method?: string; headers?: Record<string, string> } = {}) =>
  runtime.ask(`/api/run/acme${query}`, { method: 'POST', token, ...options })

test('a secret used in 100 requests, many of which fail, is found nowhere', async (t) => {
  let asked = 0
  const ask = (asking: Promise<Answer>, status?: number) => {
    asked += 1
    return keep(asking, status)
  }
  const good = await withSecret({ code: use('cb(null, { used })'), dd: 2 })
  for (let i = 0; i < 30; i += 1) assert.deepEqual((await ask(running(good), 200)).json(), { used: SECRET.length })
  await withSecret({ jtn: 'named', code: use('cb(null, { used })'), meta: { about: 'it' } })
  for (let i = 0; i < 20; i += 1) await ask(runtime.ask(`/api/run/acme/named?turn=${i}`), 200)
  const web = await withSecret({ code: 'export default { fetch: (request, env) => new Response(String(env.word.length)) }' })
  for (let i = 0; i < 10; i += 1) await ask(running(web, '', { body: 'x'.repeat(1000) }), 200)
  const maker = await withSecret({ code: use('ctx.create_token({ dd: 0, ectx: { more: secret } }, (e, t) => cb(e, { made: !!t }))'), dd: 2 })
  for (let i = 0; i < 3; i += 1) await ask(running(maker), 200)
  const derived = await runtime.issue({ ectx: { more: SECRET } }, good)
  for (let i = 0; i < 5; i += 1) await ask(running(derived), 200)

  // Answered by the platform on behalf of the code.
  for (const [code, status] of [
    [use('cb(new Error("no"))'), 400],
    [use('throw new Error("no " + used)'), 500],
    [use('null.x'), 500],
    [use('setTimeout(() => { null.x }, 5)'), 500],
    [use('setTimeout(() => cb(null, 1), 5000)'), 504],
    [use('for (;;);'), 504],
    [use('process.exit(3)'), 502],
    [use('process.abort()'), 500],
    [use('process.kill(process.pid, "SIGSEGV")'), undefined],
    [use('const all = []; for (;;) all.push(secret.repeat(1000).split(""))'), 502],
    [`${use('cb()')}; syntax error here`, 400],
    ['throw new Error("while loading")', undefined],
    ['module.exports = 5', 400],
    ["module.exports = (ctx, req, res) => { res.socket.write('HTTP/9.9 what\\r\\n\\r\\n') }", 502],
    ["module.exports = (ctx, req, res) => { res.write('x'); setTimeout(() => req.socket.destroy(), 20) }", undefined],
  ] as const) {
    const token = await withSecret({ code })
    await ask(
      running(token).catch(() => NO_ANSWER),
      status,
    )
  }
  assert.ok((await eventually('the container is back', async () => (await running(good)).status === 200, 20_000)) === true)

  // Refused by the platform itself.
  const unreachable = await withSecret({ url: 'https://no-such-name.example.com/x.js' })
  const cph = `sha256-${'A'.repeat(43)}`
  for (const [asking, status] of [
    [running(unreachable), 502],
    [running(await withSecret({ url: 'https://no-such-name.example.com/x.js', cph })), 502],
    [runtime.ask('/api/run/globex', { method: 'POST', token: good }), 403],
    [running(good, '?webtask_url=https://code.example/'), 400],
    [running(`${good.slice(0, -3)}AAA`), 401],
    [running(good.replace(/\.[^.]*\./, (payload) => payload.replace('A', 'B'))), 401],
    [running(good, `?key=${good}`, { headers: { authorization: 'Basic x' } }), undefined],
    [runtime.ask(`/api/tokens/inspect?token=${good}&decrypt=1`, { token: derived }), 403],
    [runtime.ask(`/api/tokens/inspect?token=${good}&fetch_code=1&meta=1`, { token: runtime.master }), 200],
    [issuing({ ten: 'acme', ectx: { word: SECRET } }), 400],
    [issuing({ ten: 'acme', code: 'x', ectx: SECRET }), 400],
    [issuing({ ten: 'acme', code: 'x', ectx: [SECRET] }), 400],
    [issuing({ ten: 'acme', code: 'x', ectx: { word: SECRET.repeat(300) } }), 400],
    [issuing({ ten: 'acme', code: 'x', ectx: { a: { b: { c: { d: { e: { f: { g: { h: { i: SECRET } } } } } } } } } }), 400],
    [issuing({ ten: '../x', code: 'x', ectx: { word: SECRET } }), 400],
    [issuing({ ten: 'acme', code: 'x', ectx: { word: SECRET }, exp: 'never' }), 400],
    [issuing({ ten: 'acme', code: 'x', ectx: { word: SECRET } }, derived), 403],
    [issuing({ ectx: { word: `${SECRET}2` } }, good), 403],
    [issuing(`{"ten":"acme","ectx":{"word":"${SECRET}"`), 400],
    [issuing(`{"ten":"acme","ectx":x${SECRET}}`), 400],
    [issuing(`x${SECRET}`), 400],
    [issuing(`"${SECRET}"`), 400],
    [running(good, '', { headers: { 'x-too-much': 'x'.repeat(20_000) } }), 431],
    [running('garbage', '', { body: 'x' }), 401],
  ] as const)
    await ask(asking, status)
  // Told to whom it belongs: the one answer that has it.
  const told = await runtime.ask(`/api/tokens/inspect?token=${good}&decrypt=1`, { token: runtime.master })
  assert.equal(told.json().secrets.word, SECRET)
  await runtime.ask('/api/tokens/revoke', { method: 'POST', token: runtime.master, body: { token: derived } })
  await ask(running(derived), 401)
  t.diagnostic(`${asked} requests`)
  assert.ok(asked >= 100, `${asked} requests`)

  const found = await sweepAll(t, SECRET)
  assert.deepEqual(Object.values(found).flat(), [])
  // What a restart of Redis would read: the log so far, then a snapshot written now.
  await redis.save()
  assert.deepEqual((await sweep(SECRET, places.files(runtime.dataDir))).found, [])
})

test('the sweep finds a secret in every class of places, so that finding none means something', async (t) => {
  const planted = newSentinel()
  await using cleanup = new AsyncDisposableStack()
  const sandbox = (await containersOf(runtime.id, 'sandbox'))[0]!
  const { Image } = await docker.getContainer(sandbox.Id).inspect()
  const container = await docker.createContainer({
    Image,
    Labels: { 'webtask.test': planted, 'webtask.deployment': runtime.id, 'webtask.part': 'test' },
    Env: [`SECRET=${Buffer.from(`x${planted}`).toString('base64')}`],
  })
  cleanup.defer(() => container.remove({ force: true }))
  const running = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60000)', planted], { env: { PATH: process.env['PATH'], PLANTED: planted } })
  cleanup.defer(() => void running.kill())
  await redis.hset('test:hash', 'field', planted.repeat(20))
  cleanup.defer(async () => void (await redis.del('test:hash', `test:${planted}`, 'test:list')))
  await redis.set(`test:${planted}`, '')
  await redis.rpush('test:list', Buffer.from(`xx${planted}`).toString('base64url'))
  answers.push(JSON.stringify({ message: planted }))
  await mkdir(path.join(runtime.dataDir, 'code', 'deep'), { recursive: true })
  await writeFile(path.join(runtime.dataDir, 'code', 'deep', 'file'), Buffer.concat([randomBytes(100_000), Buffer.from(planted, 'utf16le')]))
  await writeFile(path.join(runtime.runDir, 'planted'), Buffer.from(planted).toString('hex'))
  const cores = await mkdtemp(path.join(tmpdir(), 'wt-cores-'))
  cleanup.defer(() => rm(cores, { recursive: true }))
  await writeFile(path.join(cores, 'core.4711'), planted)
  // Printing its secret is a tenant's own doing, and the way into our log.
  const token = await runtime.issue({
    ten: 'acme',
    code: "module.exports = (ctx, cb) => { console.log(ctx.secrets.word); require('fs').writeFileSync('/tmp/x', ctx.secrets.word); cb() }",
    ectx: { word: planted },
  })
  assert.equal((await runtime.ask('/api/run/acme', { token })).status, 200)
  await eventually('the line is logged', () => runtime.output().includes(planted))

  const found = await sweepAll(t, planted)
  for (const [name, pieces] of Object.entries({ cores: places.coreFiles([cores]), metrics: places.texts('metrics', [`x{label="${planted}"} 1`]) }))
    found[name] = (await sweep(planted, pieces)).found
  const expected = {
    inspections: /docker inspect .*\(plain\)/,
    events: /docker events/,
    processes: new RegExp(`/proc/${running.pid}/(cmdline|environ)`),
    redis: /redis key test:hash \(plain\)/,
    logs: /log/,
    metrics: /metrics/,
    answers: /answer/,
    data: /code\/deep\/file \(utf-16\)/,
    run: /planted \(hex\)/,
    cores: /core\.4711/,
    engine: /config\.v2\.json/,
    // gVisor keeps a sandbox's /tmp in its own memory: for the host there is no such file.
    tmp: RUNTIME === 'runsc' ? /^$/ : /\/tmp\/x \(plain\)/,
  }
  for (const [name, where] of Object.entries(expected)) assert.match(found[name]!.join('\n'), where, `nothing found in ${name}`)
  for (const where of [/environ/, /cmdline/]) assert.match(found['processes']!.join('\n'), where)
  for (const where of [/hash \(dump\)/, /test:list \(base64/, new RegExp(`test:${planted} `)]) assert.match(found['redis']!.join('\n'), where)
  assert.match(found['inspections']!.join('\n'), /base64/)
  assert.match(found['data']!.join('\n'), /redis\/.*\.aof/)
  assert.deepEqual(Object.keys(await everywhere()).sort(), Object.keys(expected).sort(), 'a class of places without a planted secret')
})

const NO_ANSWER: Answer = { status: 0, headers: new Headers(), text: '', json: () => undefined }
