import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:https'
import { connect } from 'node:net'
import type { AddressInfo } from 'node:net'
import test from 'node:test'
import type { TestContext } from 'node:test'
import type { TLSSocket } from 'node:tls'
import { createCodeFetcher } from '../../src/egress/fetch-code.ts'
import type { FetcherOptions } from '../../src/egress/fetch-code.ts'
import { WebtaskError } from '../../src/errors.ts'

/** Made for these tests and used nowhere else: valid for localhost and code.example.com until 2126. */
const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHR7NKIGhK1jdOVpR
50scFDx/3uIksrd8eFJuuYiKYZGhRANCAAT6bwbsMB75EuhwQk9bxQSVrK85fWaB
PyBCYf9+aetTLaJO4JVO/mU7TIRcqRXxFEyR34hfn2qRX9bAXn4yXqwH
-----END PRIVATE KEY-----
`
const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBnDCCAUOgAwIBAgIUArIZ5D/nqmEHNRrk4t9yIDhFqjQwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIxODQ5MTZaGA8yMTI2MTAyOTE4NDkx
NlowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPpv
BuwwHvkS6HBCT1vFBJWsrzl9ZoE/IEJh/35p61Mtok7glU7+ZTtMhFypFfEUTJHf
iF+fapFf1sBefjJerAejezB5MB0GA1UdDgQWBBT0LSNZDwFpJf7BhgFC3wBsFIQM
KzAfBgNVHSMEGDAWgBT0LSNZDwFpJf7BhgFC3wBsFIQMKzAPBgNVHRMBAf8EBTAD
AQH/MCYGA1UdEQQfMB2CCWxvY2FsaG9zdIIQY29kZS5leGFtcGxlLmNvbTAKBggq
hkjOPQQDAgNHADBEAiBSHgMIysYem3eeL5MoS5+9QGhlHyO3tAFsIIhRXehe2wIg
WjCt3HL2fz31LXPYqy4TRbIMP22rm18/oPvdexE28PQ=
-----END CERTIFICATE-----
`

const PUBLIC = '93.184.215.14'
const CODE = 'module.exports = (cb) => cb(null, 1)'

type Dialled = { address: string; port: number }

/** A TLS host on loopback that a fake dial reaches under any address. `remote` is what the connection says it reached. */
async function tlsHost(t: TestContext, options: Omit<FetcherOptions, 'rules' | 'dial'> & { remote?: string; redirect?: Record<string, string> }) {
  const dialled: Dialled[] = []
  const servernames: unknown[] = []
  const hosts: unknown[] = []
  const server = createServer({ key: KEY, cert: CERTIFICATE }, (request, response) => {
    servernames.push((request.socket as TLSSocket).servername)
    hosts.push(request.headers.host)
    const location = options.redirect?.[request.headers.host ?? '']
    if (location === undefined) response.end(CODE)
    else response.writeHead(302, { location }).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const fetch = createCodeFetcher({
    ca: CERTIFICATE,
    ...options,
    rules: { allow: [{ host: 'localhost', port }] },
    async dial(address, dialledPort) {
      dialled.push({ address, port: dialledPort })
      const socket = connect(port, '127.0.0.1')
      await once(socket, 'connect')
      Object.defineProperty(socket, 'remoteAddress', { value: options.remote ?? address })
      return socket
    },
  })
  return { fetch, dialled, servernames, hosts, port }
}

async function refusal(work: Promise<unknown>): Promise<WebtaskError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  )
  assert(outcome instanceof WebtaskError, String(outcome))
  return outcome
}

test('a public name is connected by its judged address, with the name in SNI and Host', async (t) => {
  const host = await tlsHost(t, { resolve: async () => [PUBLIC] })
  assert.equal((await host.fetch({ url: 'https://code.example.com./x.js' })).status, 'fetched')
  assert.deepEqual(host.dialled, [{ address: PUBLIC, port: 443 }])
  assert.deepEqual([host.servernames, host.hosts], [['code.example.com'], ['code.example.com']])
})

test('a certificate for another name or from nobody is refused', async (t) => {
  const host = await tlsHost(t, { resolve: async () => [PUBLIC] })
  assert.match((await refusal(host.fetch({ url: 'https://other.example.com/' }))).message, /TLS failed \(ERR_TLS_CERT_ALTNAME_INVALID\)/)
  const stranger = createCodeFetcher({ rules: { allow: [{ host: 'localhost', port: host.port }] } })
  assert.match((await refusal(stranger({ url: `https://localhost:${host.port}/` }))).message, /TLS failed \(DEPTH_ZERO_SELF_SIGNED_CERT\)/)
})

test('a listed host is found as the system finds it', async (t) => {
  const host = await tlsHost(t, {})
  assert.equal((await host.fetch({ url: `https://localhost:${host.port}/x.js` })).status, 'fetched')
  assert.deepEqual(host.servernames, ['localhost'])
})

const NOT_PUBLIC: Record<string, readonly string[]> = {
  'a private address': ['10.0.0.1'],
  loopback: ['127.0.0.1'],
  'loopback, IPv6': ['::1'],
  'a mapped address': ['::ffff:93.184.215.14'],
  'the metadata service': ['169.254.169.254'],
  'the metadata service, IPv6': ['fd00:ec2::254'],
  'public first, private second': [PUBLIC, '192.168.1.1'],
  'private first, public second': ['192.168.1.1', PUBLIC],
  'public A, private AAAA': [PUBLIC, 'fc00::1'],
  'private A, public AAAA': ['172.16.0.1', '2606:50c0:8000::153'],
  'an address that is none': ['localhost'],
  'an octal address': ['010.0.0.1'],
  'a scoped address': ['fe80::1%eth0'],
  '0.0.0.0': ['0.0.0.0'],
  'a hundred addresses': Array.from({ length: 100 }, (_, index) => `93.184.215.${index}`),
  'no address': [],
}

for (const [what, addresses] of Object.entries(NOT_PUBLIC))
  test(`a name with ${what} is refused before any connection`, async (t) => {
    const host = await tlsHost(t, { resolve: async () => addresses })
    const failure = await refusal(host.fetch({ url: 'https://code.example.com/' }))
    assert.equal(failure.code, 'code_unavailable')
    assert.match(failure.message, /its address is not public|too many addresses|no host of this name/)
    for (const address of addresses) assert(!failure.message.includes(address), failure.message)
    assert.deepEqual(host.dialled, [])
  })

test('a name that is public at first and private at the next look is not followed there', async (t) => {
  const answers = [[PUBLIC], ['127.0.0.1']]
  const host = await tlsHost(t, { resolve: async () => answers.shift() ?? [] })
  assert.equal((await host.fetch({ url: 'https://code.example.com/' })).status, 'fetched')
  assert.match((await refusal(host.fetch({ url: 'https://code.example.com/' }))).message, /not public/)
  assert.deepEqual(host.dialled, [{ address: PUBLIC, port: 443 }], 'one look-up for each connection, and the connection goes to its answer')
})

test('a redirect to a public name with a private address is refused before the second connection', async (t) => {
  const host = await tlsHost(t, {
    redirect: { 'code.example.com': 'https://rebound.example.com/' },
    resolve: async (name) => (name === 'code.example.com' ? [PUBLIC] : ['10.0.0.1']),
  })
  const failure = await refusal(host.fetch({ url: 'https://code.example.com/' }))
  assert.equal(failure.code, 'code_unavailable')
  assert.match(failure.message, /not public/)
  assert.equal(host.dialled.length, 1)
})

test('a redirect from https to http is refused, even to a listed place', async (t) => {
  const host = await tlsHost(t, { resolve: async () => [PUBLIC], redirect: { 'code.example.com': 'http://localhost:1/' } })
  assert.match((await refusal(host.fetch({ url: 'https://code.example.com/' }))).message, /redirect is refused/)
  const listed = await tlsHost(t, { resolve: async () => [PUBLIC], redirect: {} })
  const redirect = { 'code.example.com': `http://localhost:${listed.port}/` }
  const down = await tlsHost(t, { resolve: async () => [PUBLIC], redirect })
  redirect['code.example.com'] = `http://localhost:${down.port}/`
  assert.match((await refusal(down.fetch({ url: 'https://code.example.com/' }))).message, /from https to http/)
  assert.equal(down.dialled.length, 1)
})

test('a connection that ends up elsewhere than dialled is dropped before a byte is sent', async (t) => {
  for (const remote of ['127.0.0.1', '10.0.0.1', '::ffff:127.0.0.1', '']) {
    const host = await tlsHost(t, { resolve: async () => [PUBLIC, '93.184.215.15'], remote })
    assert.match((await refusal(host.fetch({ url: 'https://code.example.com/' }))).message, /not public/)
    assert.equal(host.dialled.length, 1)
    assert.deepEqual(host.hosts, [])
  }
})

test('name servers that fail or stall are told apart from a name that does not exist', async (t) => {
  const failing = await tlsHost(t, { resolve: () => Promise.reject(new Error('queryA ESERVFAIL 10.0.0.2')) })
  const failure = await refusal(failing.fetch({ url: 'https://code.example.com/' }))
  assert.match(failure.message, /could not be looked up$/)
  assert(failure.retryAfterSeconds)
  const stalling = await tlsHost(t, { resolve: () => new Promise(() => {}), limits: { lookupMs: 50 } })
  assert.match((await refusal(stalling.fetch({ url: 'https://code.example.com/' }))).message, /could not be looked up in time/)
})

test('when one of two addresses is dead the other serves; when all are, the connection limit holds', async (t) => {
  const host = await tlsHost(t, { resolve: async () => [PUBLIC] })
  const dial = (address: string, _port: number, signal: AbortSignal) =>
    address === PUBLIC
      ? new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      : (async () => {
          const socket = connect(host.port, '127.0.0.1')
          await once(socket, 'connect')
          Object.defineProperty(socket, 'remoteAddress', { value: address })
          return socket
        })()
  const half = createCodeFetcher({
    rules: { allow: [] },
    ca: CERTIFICATE,
    resolve: async () => ['2606:50c0:8000::153', PUBLIC],
    dial,
    limits: { connectMs: 1000 },
  })
  assert.equal((await half({ url: 'https://code.example.com/' })).status, 'fetched')
  const dead = createCodeFetcher({ rules: { allow: [] }, ca: CERTIFICATE, resolve: async () => [PUBLIC], dial, limits: { connectMs: 100 } })
  assert.match((await refusal(dead({ url: 'https://code.example.com/' }))).message, /did not accept the connection/)
})
