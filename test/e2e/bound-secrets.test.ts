import assert from 'node:assert/strict'
import { randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import https from 'node:https'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { Redis } from 'ioredis'
import { CA, CERTIFICATE } from '../support/certificate.ts'
import { startDeployment, startGatewayBeside, type Deployment } from '../support/deployment.ts'
import { startDns } from '../support/dns-server.ts'
import { containersOf, eventually } from '../support/docker.ts'
import * as places from '../support/sweep.ts'
import { sweep } from '../support/sweep.ts'

const HOST = 'api.example.com'
const OTHER = 'other.example.com'
const newSentinel = () => randomBytes(64).toString('base64url').replace(/[-_]/g, '').slice(0, 36)
const BOUND = newSentinel()
const ORDINARY = newSentinel()

const parts = new AsyncDisposableStack()
let runtime: Deployment
/** What the hosts were asked with; they never say it back. */
const asked: { readonly host: string | undefined; readonly authorization: string | undefined; readonly key: unknown }[] = []

before(async () => {
  // On the port that secrets are bound to, so as root, as whoever reads the memory of others must be; at an address that nobody else uses.
  const address = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.${randomInt(1, 255)}`
  const server = https.createServer(CERTIFICATE, (request, response) => {
    const { host, authorization, 'x-key': key } = request.headers
    asked.push({ host, authorization, key })
    if (request.url === '/elsewhere') response.writeHead(307, { location: `https://${OTHER}/` })
    request.resume().on('end', () => response.end('thanks'))
  })
  server.listen(443, address)
  await once(server, 'listening')
  parts.defer(() => {
    server.closeAllConnections()
    server.close()
  })
  const folder = await mkdtemp(path.join(tmpdir(), 'wt-ca-'))
  parts.defer(() => rm(folder, { recursive: true }))
  await writeFile(path.join(folder, 'ca.pem'), CA)
  const names = parts.use(await startDns(Object.fromEntries([HOST, OTHER].map((name) => [name, [{ type: 'A' as const, address }]]))))
  runtime = parts.use(
    await startDeployment({
      WEBTASK_EGRESS_ALLOW: `${address}:443`,
      WEBTASK_EGRESS_DNS: names.address,
      WEBTASK_EGRESS_CA: path.join(folder, 'ca.pem'),
      WEBTASK_LOG_LEVEL: 'debug',
    }),
  )
})
after(() => parts.disposeAsync())

const KEY = { value: BOUND, hosts: [HOST] }
/** Code that uses what it has as a key, in the ways that clients do, and gives back what it has. */
const code = (body: string) => `const https = require('https'), tls = require('tls'), CA = ${JSON.stringify(CA)}
const get = (options) => new Promise((done, fail) => https.get({ host: '${HOST}', ...options }, (res) => res.resume().on('end', () => done(res.statusCode))).on('error', fail))
module.exports = async (ctx) => { const { key, word } = ctx.secrets; ${body} }`

async function run(body: string, on: { ask: Deployment['ask'] } = runtime): Promise<any> {
  const token = await runtime.issue({ ten: 'acme', code: code(body), ectx: { key: KEY, word: ORDINARY } })
  const answer = await on.ask('/api/run/acme', { method: 'POST', token })
  assert.equal(answer.status, 200, answer.text)
  return answer.json()
}

test('a bound secret reaches its host through fetch and https, and is nowhere in the memory of the sandbox, where an ordinary one is', async (t) => {
  const had = await run(
    `const fetched = await (await fetch('https://${HOST}/', { method: 'POST', body: word, headers: { authorization: 'Bearer ' + key } })).text()
     const got = await get({ auth: key + ':', headers: { 'x-key': 'a=' + key } })
     return { key, fetched, got, data: ctx.data.key, length: word.length }`,
  )
  assert.match(had.key, /^wtsecret-[0-9a-f]{40}$/)
  assert.deepEqual(had, { key: had.key, fetched: 'thanks', got: 200, data: had.key, length: ORDINARY.length })
  assert.deepEqual(asked, [
    { host: HOST, authorization: `Bearer ${BOUND}`, key: undefined },
    { host: HOST, authorization: `Basic ${Buffer.from(`${BOUND}:`).toString('base64')}`, key: `a=${BOUND}` },
  ])

  const sandboxes = (await containersOf(runtime.id, 'sandbox')).map(({ Id }) => Id)
  const { found, pieces, bytes } = await sweep(BOUND, places.memory(sandboxes))
  t.diagnostic(`searched ${pieces} pieces, ${Math.round(bytes / 2 ** 20)} MiB`)
  assert.deepEqual(found, [])
  const ordinary = await sweep(ORDINARY, places.memory(sandboxes))
  assert.ok(
    ordinary.found.some((where) => /^memory .*\(plain\)/.test(where)),
    JSON.stringify(ordinary.found),
  )
})

test('any other host gets the placeholder alone, also by a redirect, and no host gets it under another one’s name', async () => {
  asked.length = 0
  const had = await run(
    `const direct = await get({ host: '${OTHER}', ca: CA, headers: { authorization: key } })
     tls.setDefaultCACertificates([...tls.getCACertificates('default'), CA])
     const redirected = (await fetch('https://${HOST}/elsewhere', { headers: { 'x-key': key } })).url
     const fronted = await get({ servername: '${HOST}', headers: { host: '${OTHER}', authorization: key } })
     return { key, direct, redirected, fronted }`,
  )
  assert.deepEqual([had.direct, had.redirected, had.fronted], [200, `https://${OTHER}/`, 421])
  assert.deepEqual(asked, [
    { host: OTHER, authorization: had.key, key: undefined },
    { host: HOST, authorization: undefined, key: BOUND },
    { host: OTHER, authorization: undefined, key: had.key },
  ])
})

test('the tenant’s other webtasks, and other tenants, have no use of a placeholder that they come to know', async () => {
  asked.length = 0
  const { key } = await run('return { key }')
  for (const tenant of ['acme', 'other']) {
    const answer = await runtime.run(
      tenant,
      `const https = require('https'), CA = ${JSON.stringify(CA)}
module.exports = async () => new Promise((done, fail) => https.get({ host: '${HOST}', ca: CA, headers: { authorization: '${key}' } }, (res) => res.resume().on('end', () => done(res.statusCode))).on('error', fail))`,
    )
    assert.deepEqual([answer.status, answer.text], [200, '200'])
  }
  assert.deepEqual(
    asked.map(({ authorization }) => authorization),
    [key, key],
  )
})

test('every gateway gives a token the same placeholder, and the host gets the value whichever of them is left', async () => {
  asked.length = 0
  const token = await runtime.issue({
    ten: 'twice',
    code: code(`return { key, got: await get({ headers: { authorization: key } }) }`),
    ectx: { key: KEY },
  })
  const here = (await runtime.ask('/api/run/twice', { method: 'POST', token })).json()
  {
    await using beside = await startGatewayBeside(runtime)
    const response = await fetch(`${beside.url}/api/run/twice`, { method: 'POST', headers: { authorization: `Bearer ${token}` } })
    assert.deepEqual(await response.json(), here)
  }
  assert.deepEqual((await runtime.ask('/api/run/twice', { method: 'POST', token })).json(), here)
  assert.deepEqual(
    asked.map(({ authorization }) => authorization),
    [BOUND, BOUND, BOUND],
  )
})

test('who may inspect the token sees the secret as it was given; a malformed one is refused by its name', async () => {
  const token = await runtime.issue({ ten: 'acme', code: code('return 1'), ectx: { key: KEY } })
  const { secrets } = (await runtime.ask(`/api/tokens/inspect?token=${token}&decrypt=1`, { token: runtime.master })).json()
  assert.deepEqual(secrets, { key: KEY })
  const refused = await runtime.ask('/api/tokens/issue', {
    method: 'POST',
    token: runtime.master,
    body: { ten: 'acme', code: 'x', ectx: { key: { ...KEY, hosts: ['127.0.0.1'] } } },
  })
  assert.equal(refused.status, 400)
  assert.match(refused.json().detail ?? refused.json().message, /ectx\.key.*"hosts" must be a list/)
})

test('after all this the bound secret is in no log, file, key of Redis, environment or description of a container', async (t) => {
  using redis = Object.assign(new Redis(path.join(runtime.runDir, 'redis/redis.sock')), { [Symbol.dispose]: () => redis.disconnect() })
  await eventually('the connections to be logged', () => (runtime.output().match(/egress\.closed/g) ?? []).length >= 5, 20_000)
  const all = {
    logs: places.texts('log', [runtime.output()]),
    data: places.files(runtime.dataDir),
    run: places.files(runtime.runDir),
    redis: places.redisValues(redis),
    processes: places.processes(),
    inspections: places.inspections(),
    tmp: places.sandboxTmp((await containersOf(runtime.id, 'sandbox')).map(({ Id }) => Id)),
  }
  for (const [name, pieces] of Object.entries(all)) {
    const { found, bytes } = await sweep(BOUND, pieces)
    t.diagnostic(`${name}: ${Math.ceil(bytes / 1024)} KiB`)
    assert.deepEqual(found, [])
  }
})
