import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, existsSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { startRelayService } from '../../src/egress/relay-service.ts'
import { listenEgress } from '../../src/egress/server.ts'
import { createWayOutClient, type Used } from '../../src/gateway/way-out.ts'
import { createLog } from '../../src/log.ts'
import type { TenantId } from '../../src/tenant/tenant-id.ts'
import { eventually } from '../support/docker.ts'

const TENANT = 'acme' as TenantId
const IDS = ['aaaaaaaaaaaa', 'bbbbbbbbbbbb', 'cccccccccccc'] as const
const log = createLog('silent', 'test')
let directory: string
before(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'wt-way-out-'))
  for (const id of IDS.slice(0, 2)) mkdirSync(path.join(directory, id))
})
after(() => rmSync(directory, { recursive: true, force: true }))

const socketPath = () => path.join(directory, 'role.sock')
const isServed = (id: string) => existsSync(path.join(directory, id, 'egress.sock'))

async function startRole(graceMs = 200): Promise<AsyncDisposable> {
  const stack = new AsyncDisposableStack()
  const relays = stack.use(
    startRelayService({ directory, opened: [], limits: { connections: 10, perSecond: 100, bytesPerHour: 1e9 }, servers: [], graceMs }),
  )
  stack.use(await listenEgress({ socketPath: socketPath(), rules: { allow: [] }, relays }))
  return stack
}

const startClient = (used: (used: Used) => void = () => {}) =>
  createWayOutClient({ socketPath: socketPath(), rulesOf: () => [{ action: 'allow', to: '*', ports: [0, 65_535] }], log, used })

test('a sandbox is served when attach resolves, whoever asks again, and no more when it is detached', async () => {
  await using role = await startRole()
  await using client = startClient()
  void role
  await eventually('the connection', async () => (await client.attach(IDS[0], TENANT), isServed(IDS[0])))
  await client.attach(IDS[0], TENANT)
  assert.equal(isServed(IDS[0]), true)
  client.detach(IDS[0])
  await eventually('the end', () => !isServed(IDS[0]))
})

test('without an egress role attach does not wait, and when it comes, or comes again, all that is held is served', async () => {
  await using client = startClient()
  const began = performance.now()
  await client.attach(IDS[0], TENANT)
  await client.attach(IDS[1], TENANT)
  assert.ok(performance.now() - began < 100)
  for (let round = 0; round < 2; round += 1) {
    await using role = await startRole()
    void role
    await eventually('both', () => isServed(IDS[0]) && isServed(IDS[1]))
  }
})

test('one of two gateways ends: the sandbox goes on; the other dies: it goes on for the grace, and then no more', async () => {
  await using role = await startRole()
  void role
  await using first = startClient()
  {
    await using second = startClient()
    for (const client of [first, second]) await eventually('the connection', async () => (await client.attach(IDS[0], TENANT), isServed(IDS[0])))
    first.detach(IDS[0])
    await new Promise((resolve) => setTimeout(resolve, 50))
    assert.equal(isServed(IDS[0]), true)
  }
  assert.equal(isServed(IDS[0]), true)
  await eventually('the end', () => !isServed(IDS[0]))
})

test('a sandbox whose directory comes late is attached then', async () => {
  await using role = await startRole()
  void role
  await using client = startClient()
  await eventually('the connection', async () => (await client.attach(IDS[0], TENANT), isServed(IDS[0])))
  await client.attach(IDS[2], TENANT)
  assert.equal(isServed(IDS[2]), false)
  mkdirSync(path.join(directory, IDS[2]))
  await eventually('the way out', () => isServed(IDS[2]))
})
