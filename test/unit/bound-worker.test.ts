import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import http2 from 'node:http2'
import { after, before, test } from 'node:test'
import type { BoundSecrets } from '../../src/egress/bound-secrets.ts'
import { dialRelay } from '../../src/egress/relay.ts'
import { hostCertificate } from '../../src/gateway/host-certificate.ts'
import { startPair } from '../support/agent-process.ts'
import { CA, CERTIFICATE } from '../support/certificate.ts'
import { listenTcp, startWorld } from '../support/egress-world.ts'
import { sourceOf, type FakeGateway } from '../support/fake-gateway.ts'

const PLACEHOLDER = `wtsecret-${'a'.repeat(40)}`
const VALUE = 'sk_live_4242424242'
const HOST = 'api.example.com'
const BOUND: BoundSecrets = {
  id: 'f'.repeat(32),
  ...hostCertificate(Buffer.alloc(32, 7), [HOST]),
  secrets: [{ placeholder: PLACEHOLDER, value: VALUE, hosts: [HOST] }],
}

const parts = new AsyncDisposableStack()
let gateway: FakeGateway
/** What requests had as their key, at any host. */
const keys: unknown[] = []

before(async () => {
  // A host for every name, as far as its own certificate goes; it speaks HTTP/2 too.
  const server = http2.createSecureServer({ ...CERTIFICATE, allowHTTP1: true }, (request, response) => {
    keys.push(request.headers['x-key'])
    response.end(JSON.stringify({ key: request.headers['x-key'] === VALUE, http: request.httpVersion }))
  })
  const host = parts.use(await listenTcp(undefined, server as never))
  const world = parts.use(
    await startWorld({
      bound: [BOUND],
      authorities: CA,
      names: { addresses: async () => ['93.184.215.14'] },
      dial: async (address, _port, signal) => {
        const socket = await dialRelay('127.0.0.1', host.port, signal)
        Object.defineProperty(socket, 'remoteAddress', { value: address })
        return socket
      },
    }),
  )
  gateway = parts.use(await startPair({ egressDir: world.directory })).gateway
})
after(() => parts.disposeAsync())

/** Runs the body of an async function in a worker that was loaded with bound secrets, or without. */
async function inside(body: string, isBound = true): Promise<unknown> {
  const code = `const { once } = require('events'), https = require('https'), CA = ${JSON.stringify(CA)}
const CERT = ${JSON.stringify(BOUND.certificate)}
const get = (options) => new Promise((done, fail) => https.get({ host: '${HOST}', headers: { 'x-key': KEY }, ...options }, async (res) => {
  let text = ''; for await (const chunk of res) text += chunk; done(JSON.parse(text)) }).on('error', fail))
let KEY
module.exports = async (ctx) => { KEY = ctx.secrets.key; ${body} }`
  const worker = createHash('sha256').update(code).digest('hex').slice(0, 16)
  const source = sourceOf(code, { secrets: { key: PLACEHOLDER }, ...(isBound ? { bound: { id: BOUND.id, certificate: BOUND.certificate } } : {}) })
  const loaded = await gateway.load(worker, source)
  assert.equal(loaded.kind, 'loaded', JSON.stringify(loaded))
  const answer = await gateway.call(worker)
  gateway.send({ kind: 'end', worker, run: (loaded as { run: number }).run, graceMs: 0 })
  assert.equal(answer.status, 200, answer.text)
  return answer.json
}

test('fetch, https, TLS and kept connections trust the egress role for a bound host, and the host gets the value', async () => {
  assert.deepEqual(await inside(`return (await fetch('https://${HOST}/', { headers: { 'x-key': KEY } })).json()`), { key: true, http: '1.1' })
  assert.deepEqual(await inside('return get({})'), { key: true, http: '1.1' })
  assert.deepEqual(
    await inside(
      'const agent = new https.Agent({ keepAlive: true, maxSockets: 1 }); return [await get({ agent }), await get({ agent }), await get({ agent })]',
    ),
    Array.from({ length: 3 }, () => ({ key: true, http: '1.1' })),
  )
  assert.deepEqual(
    await inside(
      `const s = require('tls').connect({ host: '${HOST}', port: 443, servername: '${HOST}' }); await once(s, 'secureConnect')
       s.write('GET / HTTP/1.1\\r\\nHost: ${HOST}\\r\\nX-Key: ' + KEY + '\\r\\nConnection: close\\r\\n\\r\\n'); let t = ''; for await (const c of s) t += c; return [s.authorized, /"key":true/.test(t)]`,
    ),
    [true, true],
  )
  assert.deepEqual(await inside('return [KEY, process.env, ...require("worker_threads").workerData ? [require("worker_threads").workerData] : []]'), [
    PLACEHOLDER,
    { NODE_ENV: 'production', HOME: '/tmp', TZ: 'UTC' },
    {},
  ])
})

test('any other host is spoken to directly, and gets the placeholder alone', async () => {
  keys.length = 0
  assert.deepEqual(await inside(`return get({ host: 'other.example.com', ca: CA })`), { key: false, http: '1.1' })
  // As a redirect would lead there.
  assert.deepEqual(
    await inside(
      `require('tls').setDefaultCACertificates([CA]); return (await fetch('https://other.example.com/', { headers: { 'x-key': KEY } })).json()`,
    ),
    { key: false, http: '2.0' },
  )
  assert.deepEqual(keys, [PLACEHOLDER, PLACEHOLDER])
})

test('a webtask without bound secrets beside it reaches the same host directly, over HTTP/2 too, and does not trust the egress role', async () => {
  keys.length = 0
  assert.deepEqual(await inside('return get({ ca: CA })', false), { key: false, http: '1.1' })
  assert.deepEqual(
    await inside(
      `const s = require('http2').connect('https://${HOST}', { ca: CA }); const r = s.request({ ':path': '/', 'x-key': KEY }); let t = ''; for await (const c of r) t += c; s.close(); return JSON.parse(t)`,
      false,
    ),
    { key: false, http: '2.0' },
  )
  assert.deepEqual(await inside(`return [require('tls').getCACertificates('default').some((each) => each.trim() === CERT.trim())]`, false), [false])
  assert.deepEqual(keys, [PLACEHOLDER, PLACEHOLDER])
})

test('what cannot work with a bound host fails as TLS does: HTTP/2, a list of authorities of one’s own, a pinned certificate', async () => {
  keys.length = 0
  const failing = (what: string) => inside(`return ${what}.then(() => 'worked', (error) => error.code)`)
  assert.equal(await failing('get({ ca: CA })'), 'DEPTH_ZERO_SELF_SIGNED_CERT')
  assert.match(
    String(await failing(`new Promise((done, fail) => require('http2').connect('https://${HOST}').on('connect', done).on('error', fail))`)),
    /ERR_SSL|ECONNRESET/,
  )
  assert.deepEqual(keys, [])
})
