import assert from 'node:assert/strict'
import diagnostics from 'node:diagnostics_channel'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { rehearseLater } from '../../src/agent/rehearsal.ts'
import { startPair } from '../support/agent-process.ts'

/** All that code can see of its thread before its first request, but for how long things took. */
const LOOK_AROUND = `
const http = require('http'), net = require('net'), diagnostics = require('diagnostics_channel')
const names = (value) => Reflect.ownKeys(value).map(String)
const listeners = (emitter) => emitter.eventNames().map((name) => String(name) + ' ' + emitter.listenerCount(name)).toSorted()
const seen = {
  globals: names(globalThis),
  cache: Object.keys(require.cache),
  module: [names(module), module.children, require('module').globalPaths],
  process: [names(process), listeners(process), process.env, process.argv, process.execArgv, process.title, process.exitCode],
  streams: [listeners(process.stdout), listeners(process.stderr)],
  handles: [process.getActiveResourcesInfo(), process._getActiveHandles().length, process._getActiveRequests().length],
  timeline: performance.getEntries().map(({ name }) => name),
  http: [Object.keys(http.globalAgent.sockets), Object.keys(http.globalAgent.freeSockets), listeners(http.globalAgent), http.maxHeaderSize],
  channels: ['http.server.request.start', 'net.client.socket', 'net.server.socket'].map((name) => diagnostics.hasSubscribers(name)),
  patched: [net.Socket.prototype.connect, net.Server.prototype.listen, http.Server.prototype.emit, Promise.prototype.then].map((one) => String(one).length),
  errors: [Error.stackTraceLimit, typeof Error.prepareStackTrace],
}
module.exports = (cb) => cb(null, seen)`

test('a webtask finds its thread as it would be without the rehearsal', async () => {
  await using rehearsed = await startPair({ spareHeapMib: 64 })
  await using fresh = await startPair({ spareHeapMib: 0 })
  await sleep(600)
  const seen = []
  for (const { gateway } of [rehearsed, fresh]) {
    const loaded = await gateway.load('w', LOOK_AROUND)
    assert.equal(loaded.kind, 'loaded', JSON.stringify(loaded))
    seen.push((await gateway.call('w')).json)
    assert.deepEqual(gateway.output(), [])
  }
  assert.deepEqual(seen[0], seen[1])
  assert.equal(rehearsed.agent.stderr(), '')
})

test('a load that comes in the middle of the rehearsal finds nothing of it, and is not held up', async () => {
  await using fresh = await startPair({ spareHeapMib: 0 })
  await fresh.gateway.load('w', LOOK_AROUND)
  const expected = (await fresh.gateway.call('w')).json
  for (let ms = 0; ms < 120; ms += 15) {
    await using pair = await startPair({ spareHeapMib: 64 })
    await sleep(ms)
    await pair.gateway.load('w', LOOK_AROUND)
    assert.deepEqual((await pair.gateway.call('w')).json, expected, `After ${ms} ms`)
  }
})

test('a rehearsal is over by itself, and stopping it at any moment leaves nothing open', async () => {
  // Opened by the first look at them.
  assert.ok(process.stdout && process.stderr)
  const before = process.getActiveResourcesInfo().toSorted()
  await rehearseLater().stop()
  assert.deepEqual(process.getActiveResourcesInfo().toSorted(), before)
  for (let turns = 0; turns < 40; turns += 1) {
    const rehearsal = rehearseLater({ afterMs: 0 })
    await sleep(1)
    for (let i = 0; i < turns; i += 1) await new Promise((resolve) => setImmediate(resolve))
    const began = performance.now()
    await rehearsal.stop()
    assert.ok(performance.now() - began < 100)
    assert.deepEqual(process.getActiveResourcesInfo().toSorted(), before, `After ${turns} turns`)
  }
  let answered = 0
  const count = () => void answered++
  diagnostics.subscribe('http.server.response.finish', count)
  rehearseLater({ afterMs: 0 })
  await sleep(300)
  diagnostics.unsubscribe('http.server.response.finish', count)
  assert.ok(answered > 0)
  assert.deepEqual(process.getActiveResourcesInfo().toSorted(), before)
})

test('a prewarmed sandbox at rest takes next to nothing of the processor', async () => {
  await using pair = await startPair({ spareHeapMib: 64 })
  // By then it does not look for gateways as often as at first.
  await sleep(2500)
  const before = processorMs(pair.agent.process.pid!)
  await sleep(1500)
  const rest = processorMs(pair.agent.process.pid!) - before
  assert.ok(rest < 15, `${rest} ms of 1500`)
})

function processorMs(pid: number): number {
  const nanoseconds = readdirSync(`/proc/${pid}/task`).map((task) =>
    Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]),
  )
  return nanoseconds.reduce((sum, one) => sum + one, 0) / 1e6
}
