import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, existsSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import type { BoundSecrets } from '../../src/egress/bound-secrets.ts'
import { dialRelay } from '../../src/egress/relay.ts'
import { startRelayService } from '../../src/egress/relay-service.ts'
import { listenEgress } from '../../src/egress/server.ts'
import { hostCertificate } from '../../src/gateway/host-certificate.ts'
import { createWayOutClient, type Used } from '../../src/gateway/way-out.ts'
import { createLog } from '../../src/log.ts'
import { MAX_EGRESS_REPLY } from '../../src/protocol/egress.ts'
import { createFrameReader, encodeFrame } from '../../src/protocol/frame.ts'
import type { TenantId } from '../../src/tenant/tenant-id.ts'
import { eventually } from '../support/docker.ts'
import { listenTcp } from '../support/egress-world.ts'

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

const BOUND: BoundSecrets = {
  id: 'f'.repeat(32),
  ...hostCertificate(Buffer.alloc(32, 7), ['api.example.com']),
  secrets: [{ placeholder: `wtsecret-${'a'.repeat(40)}`, value: 'sk_live_4242424242', hosts: ['api.example.com'] }],
}

/** Whether a request to the host of the bound secrets would get them: then the egress role speaks TLS with the host before it answers. */
async function isBound(id: string): Promise<boolean> {
  const socket = connect(path.join(directory, id, 'egress.sock'))
  socket.on('error', () => {}).write(encodeFrame({ kind: 'connect', host: 'api.example.com', port: 443, bound: BOUND.id }))
  const [reply] = createFrameReader(MAX_EGRESS_REPLY).push((await once(socket, 'data'))[0] as Buffer) as [{ ok: boolean }]
  socket.destroy()
  return !reply.ok
}

async function startRole(graceMs = 200): Promise<AsyncDisposable> {
  const stack = new AsyncDisposableStack()
  // A host that hangs up on whoever speaks first.
  const host = stack.use(await listenTcp((socket) => void socket.once('data', () => socket.destroy())))
  const dial: typeof dialRelay = async (address, _port, signal) =>
    Object.defineProperty(await dialRelay('127.0.0.1', host.port, signal), 'remoteAddress', { value: address })
  const names = { addresses: async () => ['93.184.215.14'], openedAddresses: async () => [], records: async () => [] }
  const relays = stack.use(
    startRelayService({ directory, opened: [], limits: { connections: 10, perSecond: 100, bytesPerHour: 1e9 }, servers: [], graceMs, dial, names }),
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

test('bound secrets are known to the egress role when bind resolves, again when it comes back, and no more when nobody holds them', async () => {
  await using client = startClient()
  {
    await using role = await startRole()
    void role
    await eventually('the connection', async () => (await client.attach(IDS[0], TENANT), isServed(IDS[0])))
    assert.equal(await isBound(IDS[0]), false)
    const [first, second] = [await client.bind(IDS[0], BOUND), await client.bind(IDS[0], BOUND)]
    assert.equal(await isBound(IDS[0]), true)
    // Attached once more, as for another request of the tenant, and another sandbox.
    await client.attach(IDS[0], TENANT)
    await client.attach(IDS[1], TENANT)
    assert.deepEqual([await isBound(IDS[0]), await isBound(IDS[1])], [true, false])
    first[Symbol.dispose]()
    await client.attach(IDS[0], TENANT)
    assert.equal(await isBound(IDS[0]), true)
    second[Symbol.dispose]()
    await eventually('the secrets to be forgotten', async () => !(await isBound(IDS[0])))
    await client.bind(IDS[0], BOUND)
  }
  await using role = await startRole()
  void role
  await eventually('the way out', () => isServed(IDS[0]))
  await eventually('the secrets', () => isBound(IDS[0]))
  client.detach(IDS[0])
  await client.attach(IDS[0], TENANT)
  assert.equal(await isBound(IDS[0]), false)
})

test('without an egress role bind does not wait, and what it was told too much of is refused to the tenant alone', async () => {
  await using client = startClient()
  const began = performance.now()
  await client.attach(IDS[0], TENANT)
  for (let i = 0; i < 512; i += 1) await client.bind(IDS[0], { ...BOUND, id: i.toString(16).padStart(32, '0') })
  assert.ok(performance.now() - began < 200)
  await assert.rejects(client.bind(IDS[0], BOUND), { code: 'quota_exceeded' })
  // All of them fit into one frame.
  await using role = await startRole()
  void role
  await eventually('the way out', () => isServed(IDS[0]))
})
