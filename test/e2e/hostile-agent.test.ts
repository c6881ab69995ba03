import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { eventually } from '../support/docker.ts'

const HELLO = 'module.exports = cb => cb(null, "hello")'
/** What code in a sandbox has at hand to speak to the gateway as if it were the agent. */
const TOOLS = `
  const net = require('net'), fs = require('fs')
  const socketPath = '/run/wt/' + fs.readdirSync('/run/wt').find((name) => name.endsWith('.sock'))
  const frame = (value) => { const body = Buffer.from(JSON.stringify(value)); const head = Buffer.alloc(4); head.writeUInt32BE(body.length); return Buffer.concat([head, body]) }
  const dial = () => new Promise((resolve) => { const socket = net.connect(socketPath); socket.on('error', () => {}); socket.once('connect', () => resolve(socket)); socket.once('close', () => resolve(socket)) })
  const control = async () => { const socket = await dial(); socket.write(frame({ kind: 'hello', role: 'control', version: 1 })); return socket }
  const flood = async (socket, bytes, ms) => { const end = Date.now() + ms; while (Date.now() < end && !socket.destroyed) { if (!socket.write(bytes)) await new Promise((resolve) => { socket.once('drain', resolve); socket.once('close', resolve); setTimeout(resolve, 50) }) } }
  const everywhere = async (bytes, ms) => { const end = Date.now() + ms; const mine = () => fs.readdirSync('/proc/self/fd').filter((fd) => { try { return fs.readlinkSync('/proc/self/fd/' + fd).startsWith('socket:') } catch { return false } }); while (Date.now() < end) { for (const fd of mine()) try { fs.writeSync(+fd, bytes) } catch {} ; await new Promise(setImmediate) } }
  const many = (value, count) => Buffer.concat(Array.from({ length: count }, () => frame(value)))`
const attackOf = (body: string) => `${TOOLS}\nmodule.exports = async () => { ${body}\nreturn 'done' }`

const ATTACKS: Record<string, string> = {
  'garbage on two hundred connections': `for (let i = 0; i < 200; i++) (await dial()).write(require('crypto').randomBytes(4096))`,
  'connections that come and go as fast as they can': `const end = Date.now() + 2000; while (Date.now() < end) { const all = await Promise.all(Array.from({ length: 50 }, dial)); for (const socket of all) socket.destroy() }`,
  'connections that never say what they are': `const all = await Promise.all(Array.from({ length: 400 }, dial)); await new Promise((resolve) => setTimeout(resolve, 1000)); for (const socket of all) socket.destroy()`,
  'workers that nobody asked for': `for (let i = 0; i < 3000; i++) { const socket = await dial(); socket.end(frame({ kind: 'hello', role: 'worker', worker: 'w' + i, run: i })) }`,
  'a flood of output': `await flood(await control(), many({ kind: 'output', worker: 'w', request: null, level: 'info', line: 'FLOOD ' + 'x'.repeat(100) }, 200), 2000)`,
  'a flood of output on every connection of the agent': `await everywhere(many({ kind: 'output', worker: 'w', request: null, level: 'info', line: 'FLOOD ' + 'x'.repeat(100) }, 200), 2000)`,
  'a flood of questions on every connection of the agent': `await everywhere(many({ kind: 'call', call: 1, worker: 'w', request: 'r', op: 'create_token', claims: {} }, 200), 2000)`,
  'a flood of questions': `await flood(await control(), many({ kind: 'call', call: 1, worker: 'w', request: 'r', op: 'create_token', claims: {} }, 200), 2000)`,
  'a flood of lies about workers': `await flood(await control(), Buffer.concat([many({ kind: 'loaded', worker: 'w', run: 1, ms: 1 }, 100), many({ kind: 'gone', worker: 'w', run: 1, end: 'memory', message: '' }, 100), many({ kind: 'tainted', worker: 'w', run: 1 }, 100)]), 2000)`,
  'frames without end': `const socket = await control(); socket.write(Buffer.from([255, 255, 255, 255])); await flood(socket, Buffer.alloc(65536), 1000)`,
  'frames that are not JSON, or deep': `for (const text of ['{', '['.repeat(100000), '"' + 'x'.repeat(200000), 'null', '1e999', '{"__proto__":{"kind":"gone"}}']) { const socket = await control(); const head = Buffer.alloc(4); head.writeUInt32BE(text.length); socket.write(Buffer.concat([head, Buffer.from(text)])) }`,
}

describe('code that speaks to the gateway in the place of its agent hurts nobody else', () => {
  let runtime: Deployment
  before(async () => {
    runtime = await startDeployment({ WEBTASK_INVOCATION_MS: '5000' })
    for (const ten of ['attacker', 'neighbour']) {
      await runtime.issue({ ten, jtn: 'hello', code: HELLO })
      assert.equal((await runtime.ask(`/api/run/${ten}/hello`)).text, '"hello"')
    }
  })
  after(() => runtime?.[Symbol.asyncDispose]())

  for (const [what, body] of Object.entries(ATTACKS))
    test(what, async () => {
      const logged = runtime.output().length
      let attacking = true
      const times: number[] = []
      const neighbour = (async () => {
        while (attacking || times.length < 50) {
          const began = performance.now()
          const answer = await runtime.ask('/api/run/neighbour/hello')
          times.push(performance.now() - began)
          assert.equal(answer.text, '"hello"')
        }
      })()
      const attack = runtime.run('attacker', attackOf(body)).finally(() => (attacking = false))
      await Promise.all([attack, neighbour])
      times.sort((a, b) => a - b)
      const median = times[times.length >> 1]!
      assert.ok(median < 50, `Half of the neighbours waited over ${median.toFixed(1)} ms`)
      assert.ok(times.at(-1)! < 1_000, `A neighbour waited ${times.at(-1)} ms`)
      const written = runtime.output().slice(logged)
      assert.ok(written.split('FLOOD').length < 10_000, 'the log is bounded')
      await eventually('the attacker is served again', async () => (await runtime.ask('/api/run/attacker/hello')).text === '"hello"', 10_000)
      assert.equal((await fetch(`${runtime.adminUrl}/readyz`)).status, 200)
    })

  test('and nothing of it stays: memory and descriptors of the runtime are as before', async () => {
    const metrics = await (await fetch(`${runtime.adminUrl}/metrics`)).text()
    const figure = (name: string) => Number(new RegExp(`^${name} (\\S+)`, 'm').exec(metrics)![1])
    assert.ok(figure('webtask_process_open_fds') < 300, `${figure('webtask_process_open_fds')} open files`)
    assert.ok(figure('webtask_process_resident_memory_bytes') < 600 * 2 ** 20)
  })
})
