import assert from 'node:assert/strict'
import { access, mkdtemp, rm, stat } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { startDeployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

const HELLO = 'module.exports = cb => cb(null, "hello")'

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}

test('SIGTERM lets a running request finish, exits 0 and leaves nothing but the data directory', async () => {
  await using deployment = await startDeployment()
  const slow = deployment.run('acme', 'module.exports = cb => setTimeout(() => cb(null, "finished"), 1000)')
  await eventually('the request runs in a sandbox', async () =>
    (await (await fetch(`${deployment.adminUrl}/metrics`)).text()).includes('webtask_invocations_running 1'),
  )
  const code = await deployment.stop('SIGTERM')
  assert.equal((await slow).text, '"finished"')
  assert.equal(code, 0)
  assert.deepEqual(await containersOf(deployment.id), [])
  assert.equal(await exists(deployment.runDir), false)
  assert.equal(await exists(path.join(deployment.dataDir, 'master.token')), true)
})

test('after kill -9 the next start on the same data works and ends with no container too many', async () => {
  const dataDir = await mkdtemp(path.join(os.tmpdir(), 'wt-'))
  try {
    const first = await startDeployment({}, { dataDir })
    const token = await first.issue({ ten: 'acme', jtn: 'kept', code: HELLO })
    assert.equal((await first.ask('/api/run/acme/kept')).text, '"hello"')
    const before = await containersOf(first.id)
    await first.stop('SIGKILL')
    assert.equal((await containersOf(first.id)).length, before.length, 'a kill leaves the containers behind')

    await using second = await startDeployment({}, { dataDir })
    assert.equal(second.id, first.id)
    assert.equal((await second.ask('/api/run/acme/kept')).text, '"hello"', 'an acknowledged webtask survives')
    assert.equal((await second.ask('/api/run/acme', { method: 'POST', token })).text, '"hello"', 'a token issued before is still good')
    await eventually('one Redis, one sandbox of the tenant and two prewarmed', async () => (await containersOf(second.id)).length === 4)
    assert.equal(await second.stop('SIGINT'), 0)
    assert.deepEqual(await containersOf(second.id), [])
  } finally {
    await rm(dataDir, { recursive: true, force: true })
  }
})

test('what a killed gateway used is still retired when idle', async () => {
  const dataDir = await mkdtemp(path.join(os.tmpdir(), 'wt-'))
  const settings = { WEBTASK_PREWARMED: '0', WEBTASK_SANDBOX_IDLE_SECONDS: '2' }
  try {
    const first = await startDeployment(settings, { dataDir })
    assert.equal((await first.run('acme', HELLO)).status, 200)
    await first.stop('SIGKILL')
    await using second = await startDeployment(settings, { dataDir })
    assert.equal((await containersOf(second.id, 'sandbox')).length, 1, 'it is warm and the tenant may come back')
    await eventually('no sandbox is left', async () => (await containersOf(second.id, 'sandbox')).length === 0, 60_000)
  } finally {
    await rm(dataDir, { recursive: true, force: true })
  }
})

test('two deployments live on one engine without touching each other', async () => {
  await using one = await startDeployment()
  await using two = await startDeployment()
  const [a, b] = await Promise.all([one.run('acme', HELLO), two.run('acme', HELLO)])
  assert.deepEqual([a.status, b.status], [200, 200])
  const foreign = await two.ask('/api/run/acme', { method: 'POST', token: one.master, body: HELLO })
  assert.equal(foreign.status, 401, 'a token of one deployment means nothing to the other')
  await one.stop()
  assert.deepEqual(await containersOf(one.id), [])
  assert.ok((await containersOf(two.id, 'sandbox')).length >= 1)
  assert.equal((await two.run('acme', HELLO)).status, 200)
})

test('a second start on data that is in use is refused with what to do, and disturbs nothing', async () => {
  await using one = await startDeployment()
  const again = startDeployment({}, { dataDir: one.dataDir })
  await assert.rejects(again, /This data directory is in use/)
  assert.equal((await one.run('acme', HELLO)).status, 200)
})

test('keys and data are readable by their owner alone', async () => {
  await using deployment = await startDeployment()
  const mode = async (name: string) => ((await stat(path.join(deployment.dataDir, name))).mode & 0o777).toString(8)
  assert.equal(await mode('.'), '700')
  assert.equal(await mode('keys'), '700')
  assert.equal(await mode('keys/ring.json'), '600')
  assert.equal(await mode('master.token'), '600')
})

test('100 simultaneous first requests of one tenant make one container, and none fails', async () => {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0' })
  const answers = await Promise.all(Array.from({ length: 100 }, () => deployment.run('herd', HELLO)))
  assert.deepEqual([...new Set(answers.map((answer) => `${answer.status} ${answer.text}`))], ['200 "hello"'])
  const sandboxes = await containersOf(deployment.id, 'sandbox')
  assert.equal(sandboxes.length, 1)
})

test('an adopted sandbox serves its tenant for ever and nobody else', async () => {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '1', WEBTASK_PREWARMED_MAX: '1' })
  await eventually('a prewarmed sandbox', async () => (await containersOf(deployment.id, 'sandbox')).length === 1)
  const memory =
    'module.exports = cb => { const { writeFileSync, existsSync } = require("fs"); const seen = existsSync("/tmp/mark"); writeFileSync("/tmp/mark", ""); cb(null, { seen }) }'
  assert.deepEqual((await deployment.run('ann', memory)).json(), { seen: false })
  assert.deepEqual((await deployment.run('ann', memory)).json(), { seen: true }, 'the tenant meets its own container again')
  assert.deepEqual((await deployment.run('bob', memory)).json(), { seen: false }, 'another tenant meets another')
  await eventually('two used sandboxes and a fresh prewarmed one', async () => (await containersOf(deployment.id, 'sandbox')).length === 3)
})

test('a container that is killed costs the requests in it, and the next one gets a new container', async () => {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0' })
  assert.equal((await deployment.run('acme', HELLO)).status, 200)
  const [first] = await containersOf(deployment.id, 'sandbox')
  const pending = deployment.run('acme', 'module.exports = cb => setTimeout(cb, 20000)')
  await eventually('the request runs', async () =>
    (await (await fetch(`${deployment.adminUrl}/metrics`)).text()).includes('webtask_invocations_running 1'),
  )
  await docker.getContainer(first!.Id).kill()
  const broken = await pending
  assert.equal(broken.status, 502)
  assert.equal(broken.json().error, 'sandbox_crashed')
  assert.equal(broken.json().fault, 'tenant')
  assert.equal((await deployment.run('acme', HELLO)).status, 200)
  await eventually('only the new container', async () => {
    const now = await containersOf(deployment.id, 'sandbox')
    return now.length === 1 && now[0]!.Id !== first!.Id
  })
})

test('an idle sandbox is retired, and its tenant gets another when it comes back', async () => {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOX_IDLE_SECONDS: '1' })
  assert.equal((await deployment.run('acme', HELLO)).status, 200)
  await eventually('no sandbox is left', async () => (await containersOf(deployment.id, 'sandbox')).length === 0)
  assert.equal((await deployment.run('acme', HELLO)).status, 200)
})
