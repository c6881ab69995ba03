import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type AgentProcess, startPair } from '../support/agent-process.ts'
import type { FakeGateway } from '../support/fake-gateway.ts'

const MIB = 1024 * 1024
/** What a body comes to, and what the agent may grow by: the collector of garbage needs room when the machine is busy. */
const BODY_MIB = 256
const GROWTH_MIB = 100
let pair: { agent: AgentProcess; gateway: FakeGateway; dir: string } & AsyncDisposable
let gateway: FakeGateway
before(async () => {
  pair = await startPair()
  gateway = pair.gateway
})
after(() => pair[Symbol.asyncDispose]())

function* chunks(mib: number): Generator<Buffer> {
  const chunk = Buffer.alloc(64 * 1024, 'x')
  for (let i = 0; i < mib * 16; i++) yield chunk
}

/** The most memory that the agent had while something was going on (MiB). */
async function peakRss(action: Promise<unknown>): Promise<number> {
  let peak = pair.agent.rssMib()
  const timer = setInterval(() => (peak = Math.max(peak, pair.agent.rssMib())), 10)
  await action.finally(() => clearInterval(timer))
  return peak
}

const UPLOADS = {
  node: "module.exports = (ctx, req, res) => { let n = 0; req.on('data', (c) => (n += c.length)); req.on('end', () => res.end(String(n))) }",
  web: 'export default { async fetch(request) { let n = 0; for await (const c of request.body) n += c.length; return new Response(String(n)) } }',
}
const DOWNLOADS = {
  node: `module.exports = (ctx, req, res) => { const chunk = Buffer.alloc(65536, 120); let i = 0; (function more() { while (i++ < ${BODY_MIB * 16}) if (!res.write(chunk)) return res.once('drain', more); res.end() })() }`,
  web: `export default { fetch() { let i = 0; return new Response(new ReadableStream({ pull(c) { if (i++ === ${BODY_MIB * 16}) return c.close(); c.enqueue(new Uint8Array(65536).fill(120)) } })) } }`,
}

for (const [kind, code] of Object.entries(UPLOADS)) {
  test(`${BODY_MIB} MiB come in with bounded memory (${kind})`, async () => {
    await gateway.load(`up-${kind}`, code)
    await gateway.call(`up-${kind}`, { method: 'POST', body: 'warm' })
    const before = pair.agent.rssMib()
    let text = ''
    const peak = await peakRss(
      gateway.call(`up-${kind}`, { method: 'POST', body: Readable.from(chunks(BODY_MIB)) }).then((answer) => (text = answer.text)),
    )
    assert.equal(text, String(BODY_MIB * MIB))
    assert.ok(peak - before < GROWTH_MIB, `grew by ${peak - before} MiB`)
  })
}

for (const [kind, code] of Object.entries(DOWNLOADS)) {
  test(`${BODY_MIB} MiB go out with bounded memory, also to a slow reader (${kind})`, async () => {
    await gateway.load(`down-${kind}`, code)
    const before = pair.agent.rssMib()
    let bytes = 0
    const read = async (): Promise<void> => {
      const { body } = await gateway.request(`down-${kind}`)
      for await (const chunk of body) {
        // The first megabyte slowly: what does not stop for the reader would be all in memory by then.
        if (bytes < MIB) await sleep(5)
        bytes += (chunk as Buffer).length
      }
    }
    const peak = await peakRss(read())
    assert.equal(bytes, BODY_MIB * MIB)
    assert.ok(peak - before < GROWTH_MIB, `grew by ${peak - before} MiB`)
  })
}

test('a server-sent event arrives before the response ends', async () => {
  for (const [worker, code] of [
    [
      'sse-node',
      "module.exports = (ctx, req, res) => { res.writeHead(200, { 'content-type': 'text/event-stream' }); res.write('data: 1\\n\\n'); setTimeout(() => res.end('data: 2\\n\\n'), 300) }",
    ],
    [
      'sse-web',
      "export default { fetch: () => new Response(new ReadableStream({ async start(c) { const e = new TextEncoder(); c.enqueue(e.encode('data: 1\\n\\n')); await new Promise((r) => setTimeout(r, 300)); c.enqueue(e.encode('data: 2\\n\\n')); c.close() } }), { headers: { 'content-type': 'text/event-stream' } }) }",
    ],
  ] as const) {
    await gateway.load(worker, code)
    const start = performance.now()
    const seen: [string, number][] = []
    for await (const chunk of (await gateway.request(worker)).body) seen.push([String(chunk), performance.now() - start])
    assert.deepEqual(
      seen.map(([text]) => text),
      ['data: 1\n\n', 'data: 2\n\n'],
    )
    assert.ok(seen[0]![1] < 250 && seen[1]![1] >= 290, JSON.stringify(seen))
  }
})

test('request and response stream at the same time', async () => {
  await gateway.load('echo', 'export default { fetch: (request) => new Response(request.body) }')
  await gateway.load('echo-node', 'module.exports = (ctx, req, res) => req.pipe(res)')
  for (const worker of ['echo', 'echo-node']) {
    const source = new Readable({ read() {} })
    const asked = gateway.request(worker, { method: 'POST', body: source })
    source.push('one')
    const { body } = await asked
    const words: string[] = []
    for await (const chunk of body) {
      words.push(String(chunk))
      if (words.length === 1) source.push('two')
      else if (words.length === 2) source.push(null)
    }
    assert.deepEqual(words, ['one', 'two'], worker)
  }
})

test('code learns that the caller is gone', async () => {
  await gateway.load(
    'left-web',
    "export default { async fetch(request) { request.signal.addEventListener('abort', () => console.log('aborted')); return new Response(new ReadableStream({ start(c) { c.enqueue(new Uint8Array(1)) }, cancel() { console.log('cancelled') } })) } }",
  )
  await gateway.load('left-node', "module.exports = (ctx, req, res) => { res.on('close', () => console.log('closed')); res.write('x') }")
  for (const worker of ['left-web', 'left-node']) {
    const { body } = await gateway.request(worker)
    await sleep(30)
    body.on('error', () => {})
    body.destroy()
  }
  await gateway.until(() => ['aborted', 'cancelled', 'closed'].every((word) => gateway.output().includes(word)))
  // Connections that broke are replaced.
  await sleep(150)
  assert.ok(gateway.lines.filter((line) => line.worker === 'left-node').length >= 4)
})

test('a response may come before the request body is read', async () => {
  await gateway.load('early', "module.exports = (cb) => cb(null, 'early')")
  for (let i = 0; i < 5; i++) assert.equal((await gateway.call('early', { method: 'POST', body: Readable.from(chunks(4)) })).text, '"early"')
})

test('fifty requests run at once, each with its own context', async () => {
  await gateway.load('fifty', 'module.exports = (ctx, cb) => setTimeout(() => { console.log(ctx.id); cb(null, ctx.id) }, 100)')
  const start = performance.now()
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => gateway.call('fifty', { id: `r${i}` })))
  assert.deepEqual(
    answers.map((answer) => answer.json),
    Array.from({ length: 50 }, (_, i) => `r${i}`),
  )
  assert.ok(performance.now() - start < 1500)
  await gateway.until(
    () => gateway.frames.filter((frame) => frame.kind === 'output' && frame.worker === 'fifty' && frame.line === frame.request).length === 50,
  )
})
