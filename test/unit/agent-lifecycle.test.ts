import assert from 'node:assert/strict'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'node:test'
import { startAgent, startPair } from '../support/agent-process.ts'
import { FakeGateway, makeRendezvous, sourceOf } from '../support/fake-gateway.ts'
import { openConnections, wantedConnections } from '../../src/agent/connections.ts'
import { createService } from '../../src/agent/serve.ts'

const HELLO = 'let count = 0; module.exports = (cb) => cb(null, ++count)'
const SLOW = "module.exports = (ctx, cb) => setTimeout(cb, +ctx.query.ms, null, 'slow')"

test('a stuck worker does not delay another, and is ended', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  await gateway.load('hello', HELLO)
  const stuck = await gateway.load('stuck', 'module.exports = (cb) => { for (;;) {} }')
  const lost = assert.rejects(gateway.call('stuck'))
  await sleep(100)
  for (let i = 1; i <= 20; i++) {
    const start = performance.now()
    assert.equal((await gateway.call('hello')).text, String(i))
    assert.ok(performance.now() - start < 250)
  }
  const start = performance.now()
  gateway.send({ kind: 'end', worker: 'stuck', run: stuck.run, graceMs: 100 })
  const gone = await gateway.frame('gone', (frame) => frame.worker === 'stuck')
  assert.equal(gone.end, 'ended')
  assert.ok(performance.now() - start < 400)
  await lost
  assert.equal((await gateway.call('hello')).status, 200)
})

test('ending waits for running requests, but not longer than the grace', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  const first = await gateway.load('slow', SLOW)
  const running = gateway.call('slow', { path: '/x?ms=300' })
  await sleep(50)
  gateway.send({ kind: 'end', worker: 'slow', run: first.run, graceMs: 5000 })
  assert.equal((await running).text, '"slow"')
  await gateway.frame('gone', (frame) => frame.run === first.run, 500)

  const second = await gateway.load('slow', SLOW)
  assert.ok(second.run > first.run)
  const cut = assert.rejects(gateway.call('slow', { path: '/x?ms=5000' }))
  await sleep(50)
  gateway.send({ kind: 'end', worker: 'slow', run: second.run, graceMs: 100 })
  await gateway.frame('gone', (frame) => frame.run === second.run, 1000)
  await cut
})

test('what was sent before the end is answered, though the worker could not read it yet', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  const { run } = await gateway.load(
    'busy',
    'module.exports = (ctx, cb) => { const end = Date.now() + +ctx.query.ms; while (Date.now() < end); cb(null, ctx.query.ms) }',
  )
  const blocking = gateway.call('busy', { path: '/x?ms=300' })
  await sleep(50)
  const crossing = [gateway.call('busy', { path: '/x?ms=1' }), gateway.call('busy', { path: '/x?ms=2' })]
  await sleep(50)
  gateway.send({ kind: 'end', worker: 'busy', run, graceMs: 5000 })
  assert.deepEqual(
    (await Promise.all([blocking, ...crossing])).map(({ text }) => text),
    ['"300"', '"1"', '"2"'],
  )
  await gateway.frame('gone', (frame) => frame.run === run, 500)
})

test('an ending worker gives up its idle connections and finishes what runs', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  const { run } = await gateway.load('w', SLOW)
  const running = gateway.call('w', { path: '/x?ms=500' })
  await sleep(50)
  gateway.send({ kind: 'end', worker: 'w', run, graceMs: 5000 })
  await gateway.until(() => gateway.lines.filter((line) => line.worker === 'w').length === 1)
  assert.equal((await running).text, '"slow"')
})

test('ending waits for waitUntil', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  const { run } = await gateway.load(
    'later',
    "export default { fetch(request, env, ctx) { ctx.waitUntil(new Promise((r) => setTimeout(() => { console.log('finished'); r() }, 200))); return new Response('now') } }",
  )
  assert.equal((await gateway.call('later')).text, 'now')
  gateway.send({ kind: 'end', worker: 'later', run, graceMs: 5000 })
  await gateway.frame('gone', (frame) => frame.run === run)
  assert.deepEqual(gateway.output(), ['finished'])
})

test('a late word about an earlier run does not end its successor', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  const first = await gateway.load('w', HELLO)
  gateway.send({ kind: 'end', worker: 'w', run: first.run, graceMs: 0 })
  await gateway.frame('gone', (frame) => frame.run === first.run)
  await gateway.load('w', HELLO)
  gateway.send({ kind: 'end', worker: 'w', run: first.run, graceMs: 0 })
  await sleep(50)
  assert.equal((await gateway.call('w')).status, 200)
})

test('loading a key again gives the same worker, with its memory', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  const [first, second] = await Promise.all([gateway.load('w', HELLO), gateway.load('w', HELLO)])
  assert.equal((await gateway.call('w')).text, '1')
  const third = await gateway.load('w', HELLO)
  assert.deepEqual([second.run, third.run], [first.run, first.run])
  assert.equal((await gateway.call('w')).text, '2')
})

test('an agent finds a gateway that starts later and comes back, and keeps its workers', async () => {
  using rendezvous = makeRendezvous()
  await using agent = startAgent(rendezvous.dir)
  await sleep(100)
  let gateway = await FakeGateway.listen(rendezvous.dir)
  try {
    const { run } = await gateway.load('w', HELLO)
    assert.equal((await gateway.call('w')).text, '1')
    await gateway[Symbol.asyncDispose]()
    await sleep(300)
    gateway = await FakeGateway.listen(rendezvous.dir)
    const again = await gateway.load('w', HELLO)
    assert.equal(again.run, run)
    assert.equal((await gateway.call('w')).text, '2')
    assert.equal(agent.stderr(), '')
  } finally {
    await gateway[Symbol.asyncDispose]()
  }
})

test('two gateways share a worker; each hears of its own requests', async () => {
  await using pair = await startPair()
  await using other = await FakeGateway.listen(pair.dir, 'other')
  const code = 'let count = 0; module.exports = (ctx, cb) => { console.log(ctx.id); cb(null, ++count) }'
  const one = await pair.gateway.load('w', code)
  const two = await other.load('w', code)
  assert.equal(one.run, two.run)
  assert.equal((await pair.gateway.call('w', { id: 'first' })).text, '1')
  assert.equal((await other.call('w', { id: 'second' })).text, '2')
  await pair.gateway.frame('output')
  await other.frame('output')
  assert.deepEqual([pair.gateway.output(), other.output()], [['first'], ['second']])
  other.send({ kind: 'end', worker: 'w', run: two.run, graceMs: 0 })
  await Promise.all([pair.gateway.frame('gone'), other.frame('gone')])
})

test('a gateway that sends garbage loses its connection, not the agent', async () => {
  await using pair = await startPair()
  const { gateway } = pair
  await gateway.load('w', HELLO)
  gateway.control!.write('this is not a frame at all, not even nearly')
  await gateway.until(() => gateway.frames.filter((frame) => frame.kind === 'hello').length === 2)
  await gateway.load('w', HELLO)
  assert.equal((await gateway.call('w')).text, '1')
})

test('connections grow before they are needed and a worker has four at rest', async () => {
  assert.deepEqual(
    [0, 1, 2, 3, 10, 40, 64].map((busy) => wantedConnections(busy, 0, 64)),
    [4, 4, 4, 6, 20, 64, 64],
  )
  await using pair = await startPair()
  const { gateway } = pair
  await gateway.load('slow', SLOW, { connections: 20 })
  await gateway.until(() => gateway.lines.length === 4)
  const running = Array.from({ length: 8 }, () => gateway.call('slow', { path: '/x?ms=300' }))
  await gateway.until(() => gateway.lines.length === 16)
  running.push(...Array.from({ length: 40 }, () => gateway.call('slow', { path: '/x?ms=300' })))
  await gateway.until(() => gateway.lines.length === 20)
  for (const answer of await Promise.all(running)) assert.equal(answer.status, 200)
  assert.equal(gateway.lines.length, 20)
})

test('surplus connections are given up after a while, and what crosses that word on the way is not run', async () => {
  using rendezvous = makeRendezvous()
  await using gateway = await FakeGateway.listen(rendezvous.dir)
  let runs = 0
  const { server } = createService({ run: ({ res }) => void setTimeout(() => res.end(String(++runs)), 50), onQuiet() {} })
  const connections = openConnections({
    gateway: 'g',
    path: join(rendezvous.dir, 'gateway.sock'),
    worker: 'w',
    run: 1,
    limit: 64,
    server,
    idleMs: 200,
  })
  await connections.ready
  await Promise.all(Array.from({ length: 10 }, () => gateway.call('w')))
  assert.ok(gateway.lines.length >= 16)
  await gateway.until(() => gateway.lines.length === 4)
  assert.equal((await gateway.call('w')).text, '11')

  await Promise.all(Array.from({ length: 10 }, () => gateway.call('w')))
  const heard: string[] = []
  // Connections that no HTTP client has touched yet, so that the raw bytes can be seen.
  for (const { socket } of gateway.lines.filter(({ socket }) => socket.listenerCount('readable') === 0)) {
    socket.removeAllListeners('data').on('data', (chunk) => {
      heard.push(String(chunk))
      socket.write('GET / HTTP/1.1\r\nhost: x\r\nx-wt-invocation: {"id":"late","base":"","format":1}\r\n\r\n')
    })
  }
  await gateway.until(() => gateway.lines.length === 4)
  await sleep(100)
  assert.ok(heard.length > 0 && heard.every((text) => text.startsWith('HTTP/1.1 503 Retired\r\nx-wt-outcome: retired\r\n')), JSON.stringify(heard))
  assert.equal(runs, 21)
  connections.close()
})

test('a spare thread makes the first load quick', async () => {
  await using pair = await startPair({ spareHeapMib: 64 })
  await sleep(400)
  const first = await pair.gateway.load('first', sourceOf(HELLO))
  const second = await pair.gateway.load('second', sourceOf(HELLO))
  assert.ok(first.kind === 'loaded' && second.kind === 'loaded')
  assert.ok(first.ms < second.ms, `${first.ms} ms with, ${second.ms} ms without`)
})
