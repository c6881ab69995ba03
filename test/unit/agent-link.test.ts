import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { createLog } from '../../src/log.ts'
import { createFrameReader, encodeFrame, MAX_FRAME_TO_GATEWAY } from '../../src/protocol/frame.ts'
import { PROTOCOL_VERSION, type FromAgent, type ToAgent } from '../../src/protocol/messages.ts'
import { openAgentLink, type AgentLink } from '../../src/sandbox/agent-link.ts'
import { SandboxLost } from '../../src/sandbox/loads.ts'
import { sourceOf } from '../support/fake-gateway.ts'

const LOAD_MS = 10_000
const log = createLog('silent', 'test')

/** A gateway's link with something that only pretends to be an agent at the other end. */
async function linkToPretender(): Promise<
  AsyncDisposable & {
    link: AgentLink
    says(message: FromAgent): void
    hears(kind: ToAgent['kind']): Promise<ToAgent>
    exhausted: () => boolean
    /** Another connection that says it is the agent; resolves when it is hung up on. */
    second(): Promise<void>
    /** The agent's connection is lost, and it comes back. */
    reconnect(): Promise<void>
  }
> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'wt-agent-link-'))
  let isExhausted = false
  const link = await openAgentLink({
    id: 's',
    directory,
    gateway: 'g',
    workersMax: 4,
    workerLimits: { heapMib: 64, connections: 8, parsedBodyBytes: 1024, logLinesPerSecond: 100 },
    maxHeaderBytes: 16_384,
    loadMs: LOAD_MS,
    now: Date.now,
    log,
    on: {
      output: () => {},
      call: () => Promise.reject(new Error('None')),
      stuck: () => {},
      exhausted: () => (isExhausted = true),
      hostile: () => {},
    },
  })
  const dial = async () => {
    const dialled = net.connect(path.join(directory, 'g.sock'))
    await once(dialled, 'connect')
    dialled.write(encodeFrame({ kind: 'hello', role: 'control', version: PROTOCOL_VERSION }))
    return dialled
  }
  let socket = await dial()
  const heard: ToAgent[] = []
  const waiting = new Set<() => void>()
  const listen = () => {
    const reader = createFrameReader(MAX_FRAME_TO_GATEWAY)
    socket.on('data', (chunk: Buffer) => {
      for (const value of reader.push(chunk)) heard.push(value as ToAgent)
      for (const look of waiting) look()
    })
  }
  listen()
  const says = (message: FromAgent) => void socket.write(encodeFrame(message))
  await link.whenConnected(AbortSignal.timeout(5_000))
  return {
    link,
    says,
    exhausted: () => isExhausted,
    async second() {
      const other = await dial()
      other.resume()
      await once(other, 'close')
    },
    async reconnect() {
      socket.destroy()
      while (link.connected) await new Promise(setImmediate)
      socket = await dial()
      listen()
      await link.whenConnected(AbortSignal.timeout(5_000))
    },
    hears: (kind) =>
      new Promise((resolve) => {
        const look = () => {
          const at = heard.findIndex((message) => message.kind === kind)
          if (at < 0) return
          waiting.delete(look)
          resolve(heard.splice(at, 1)[0]!)
        }
        waiting.add(look)
        look()
      }),
    async [Symbol.asyncDispose]() {
      socket.destroy()
      await link[Symbol.asyncDispose]()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

const gone = (run: number, end: Extract<FromAgent, { kind: 'gone' }>['end']): FromAgent => ({ kind: 'gone', worker: 'w', run, end, message: '' })

for (const [end, code] of [
  ['memory', 'memory_limit'],
  ['exit', 'sandbox_crashed'],
  ['error', 'sandbox_crashed'],
] as const)
  test(`a worker whose load ends by "${end}" is told of at once, not after the load's time`, async () => {
    await using pretender = await linkToPretender()
    const began = performance.now()
    const loading = pretender.link.load('w', sourceOf('x'))
    const refused = assert.rejects(loading, { code })
    await pretender.hears('load')
    pretender.says(gone(1, end))
    await refused
    assert.ok(performance.now() - began < LOAD_MS / 2)
  })

test('a sandbox that cannot start one more worker is to be replaced, and the request may go elsewhere', async () => {
  await using pretender = await linkToPretender()
  const refused = assert.rejects(pretender.link.load('w', sourceOf('x')), SandboxLost)
  await pretender.hears('load')
  pretender.says(gone(1, 'unstarted'))
  await refused
  assert.ok(pretender.exhausted())
})

test('whoever else says that it is the agent is hung up on, and the agent stays', async () => {
  await using pretender = await linkToPretender()
  const loading = pretender.link.load('w', sourceOf('x'))
  await pretender.hears('load')
  await pretender.second()
  pretender.says({ kind: 'loaded', worker: 'w', run: 1, ms: 1 })
  assert.equal((await loading).run, 1)
})

test('after the agent came back its workers are loaded anew, and their old runs are good again', async () => {
  await using pretender = await linkToPretender()
  const first = pretender.link.load('w', sourceOf('x'))
  await pretender.hears('load')
  pretender.says({ kind: 'loaded', worker: 'w', run: 1, ms: 1 })
  const old = await first
  await pretender.reconnect()
  assert.equal(await old.gone, undefined)
  assert.equal(pretender.link.worker('w'), undefined)
  const again = pretender.link.load('w', sourceOf('x'))
  await pretender.hears('load')
  pretender.says({ kind: 'loaded', worker: 'w', run: 1, ms: 1 })
  assert.equal((await again).closed, false)
})

test('late word of an earlier worker does not refuse the load of its successor', async () => {
  await using pretender = await linkToPretender()
  const first = pretender.link.load('w', sourceOf('x'))
  await pretender.hears('load')
  pretender.says({ kind: 'loaded', worker: 'w', run: 1, ms: 1 })
  pretender.link.endWorker(await first, 0)
  await pretender.hears('end')
  const second = pretender.link.load('w', sourceOf('x'))
  await pretender.hears('load')
  pretender.says(gone(1, 'memory'))
  pretender.says({ kind: 'loaded', worker: 'w', run: 2, ms: 1 })
  assert.equal((await second).run, 2)
})
