import assert from 'node:assert/strict'
import http from 'node:http'
import { test } from 'node:test'
import { eventually } from '../support/docker.ts'
import { startRoles, type Roles } from '../support/roles.ts'

const HELLO = 'module.exports = cb => cb(null, "hello")'
const STREAM =
  'module.exports = (ctx, req, res) => { let n = 0; const timer = setInterval(() => { res.write("x"); if (++n === 20) { clearInterval(timer); res.end() } }, 100) }'

interface Told {
  readonly status: number
  readonly text: string
  readonly connection: string | undefined
}

function ask(roles: Roles, pathname: string, agent: http.Agent): Promise<Told> {
  return new Promise((resolve, reject) => {
    const asking = http.get({ host: '127.0.0.1', port: roles.port, path: pathname, agent }, (answer) => {
      let text = ''
      answer.setEncoding('utf8').on('data', (chunk) => (text += chunk))
      answer.on('end', () => resolve({ status: answer.statusCode!, text, connection: answer.headers.connection }))
      answer.on('error', reject)
    })
    asking.on('error', reject)
  })
}

test('two gateways on one port are restarted in turn under load, and no request fails', { timeout: 180_000 }, async () => {
  await using roles = await startRoles({ gateways: 2 })
  await roles.issue({ ten: 'acme', jtn: 'hello', code: HELLO })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 16 })
  let isOver = false
  let asked = 0
  const failures: string[] = []
  const load = Promise.all(
    Array.from({ length: 16 }, async () => {
      while (!isOver) {
        asked += 1
        const told = await ask(roles, '/api/run/acme/hello', agent).catch((error: Error) => error.message)
        if (typeof told === 'string' || told.status !== 200 || told.text !== '"hello"') failures.push(JSON.stringify(told))
      }
    }),
  )
  for (const gateway of [...roles.gateways, ...roles.gateways]) {
    assert.equal(await gateway.stop('SIGTERM'), 0)
    await gateway.start()
  }
  isOver = true
  await load
  agent.destroy()
  assert.deepEqual(failures, [])
  assert.ok(asked > 1_000, `${asked} requests`)
})

test('a stopping gateway is not ready at once, lets streams finish, says that connections close, and ends', { timeout: 120_000 }, async () => {
  await using roles = await startRoles()
  await roles.issue({ ten: 'acme', jtn: 'hello', code: HELLO })
  await roles.issue({ ten: 'acme', jtn: 'stream', code: STREAM })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const other = new http.Agent({ keepAlive: true, maxSockets: 1 })
  assert.equal((await ask(roles, '/api/run/acme/hello', agent)).connection, 'keep-alive')
  const stream = ask(roles, '/api/run/acme/stream', other)
  await eventually('it streams', async () =>
    (await (await fetch(`http://127.0.0.1:${roles.adminPorts[0]}/metrics`)).text()).includes('webtask_invocations_running 1'),
  )
  const stopped = roles.gateways[0]!.stop('SIGTERM')
  await eventually('not ready', async () => (await fetch(`http://127.0.0.1:${roles.adminPorts[0]}/readyz`)).status === 503, 1_000)
  const last = await ask(roles, '/api/run/acme/hello', agent)
  assert.deepEqual([last.status, last.connection], [200, 'close'])
  await assert.rejects(ask(roles, '/api/run/acme/hello', new http.Agent()), /ECONNREFUSED/, 'no new connections')
  const streamed = await stream
  assert.deepEqual([streamed.status, streamed.text], [200, 'x'.repeat(20)])
  const ended = performance.now()
  assert.equal(await stopped, 0)
  assert.ok(performance.now() - ended < 3_000)
  agent.destroy()
  other.destroy()
})
