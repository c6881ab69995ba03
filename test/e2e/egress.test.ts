import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import os from 'node:os'
import { after, before, describe, test } from 'node:test'
import tls from 'node:tls'
import { SMTPServer } from 'smtp-server'
import { CA, CERTIFICATE } from '../support/certificate.ts'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'
import { startDns, type DnsServer } from '../support/dns-server.ts'
import { listenTcp, type Listener } from '../support/egress-world.ts'
import { startServers, type Servers } from '../support/servers.ts'

const HOST = 'db.example.com'
const parts = new AsyncDisposableStack()
let deployment: Deployment
let servers: Servers
let names: DnsServer
let listeners: Record<'http' | 'https' | 'http2' | 'socket' | 'tls' | 'echo' | 'forbidden', Listener>
let smtp: SMTPServer
const mails: string[] = []
/** What came in at the TLS listener: the name it was called by, and the first bytes. */
const called: { servername: string | false | null; bytes: Buffer }[] = []

before(async () => {
  const ok = (request: http.IncomingMessage, response: http.ServerResponse) =>
    void request.pipe(response.setHeader('x-seen', request.headers.host ?? ''))
  listeners = {
    http: parts.use(await listenTcp(undefined, http.createServer(ok))),
    https: parts.use(await listenTcp(undefined, https.createServer(CERTIFICATE, ok))),
    http2: parts.use(await listenTcp(undefined, http2.createSecureServer(CERTIFICATE).on('stream', (stream) => stream.end('two')) as never)),
    socket: parts.use(await listenTcp(undefined, http.createServer().on('upgrade', echoWebSocket))),
    tls: parts.use(
      await listenTcp(
        undefined,
        tls.createServer(
          CERTIFICATE,
          (socket) => void socket.on('error', () => {}).once('data', (bytes: Buffer) => called.push({ servername: socket.servername, bytes })),
        ) as never,
      ),
    ),
    echo: parts.use(await listenTcp()),
    forbidden: parts.use(await listenTcp(() => {}, net.createServer(), '::')),
  }
  smtp = new SMTPServer({
    ...CERTIFICATE,
    authOptional: true,
    onData(stream, _session, done) {
      let mail = ''
      stream.on('data', (chunk) => (mail += String(chunk))).on('end', () => done(void mails.push(mail) as undefined))
    },
  })
  const smtpServer = smtp.listen(0, '127.0.0.1')
  await once(smtpServer, 'listening')
  const smtpPort = (smtpServer.address() as net.AddressInfo).port
  parts.defer(() => new Promise<void>((resolve) => smtp.close(() => resolve())))
  servers = parts.use(await startServers())
  names = parts.use(
    await startDns({
      [HOST]: [{ type: 'A', address: '127.0.0.1' }],
      'shard.example.com': [{ type: 'A', address: '127.0.0.1' }],
      '_mongodb._tcp.cluster.example.com': [{ type: 'SRV', name: 'shard.example.com', port: listeners.tls.port }],
      'cluster.example.com': [{ type: 'TXT', text: 'authSource=admin' }],
      'mixed.example.com': [
        { type: 'A', address: '93.184.215.14' },
        { type: 'A', address: '127.0.0.1' },
      ],
      'metadata.example.com': [{ type: 'A', address: '169.254.169.254' }],
    }),
  )
  const open = [
    ...Object.entries(listeners).flatMap(([name, { port }]) => (name === 'forbidden' ? [] : [port])),
    smtpPort,
    servers.postgres,
    servers.mariadb,
    servers.redis,
  ]
  deployment = parts.use(
    await startDeployment({
      WEBTASK_EGRESS_ALLOW: open.map((port) => `127.0.0.1:${port}`).join(','),
      WEBTASK_EGRESS_DNS: names.address,
      WEBTASK_EGRESS_CONNECTIONS: '20',
    }),
  )
})
after(() => parts.disposeAsync())

/** Runs the body of an async function in the tenant's sandbox, and gives what it returns. */
async function inside(body: string, { tenant = 'acme', on = deployment }: { tenant?: string; on?: Deployment } = {}): Promise<any> {
  const answer = await on.run(
    tenant,
    `const { once } = require('events'); const CA = ${JSON.stringify(CA)}; const failing = s => new Promise(r => s.on('error', e => r(e.code)).on('connect', () => (s.destroy(), r('connected'))))
module.exports = async () => { ${body} }`,
  )
  assert.equal(answer.status, 200, answer.text)
  return answer.json()
}

describe('unmodified clients and drivers reach their servers', () => {
  test('fetch and https, http and TLS, with a CA of their own', async () => {
    assert.equal(
      await inside(`return (await fetch('http://${HOST}:${listeners.http.port}/', { method: 'POST', body: 'over http' })).text()`),
      'over http',
    )
    assert.deepEqual(
      await inside(
        `const [res] = await once(require('https').request({ host: '${HOST}', port: ${listeners.https.port}, ca: CA, method: 'POST' }).end('x'), 'response'); const { authorized, remoteAddress } = res.socket; res.resume(); return [res.statusCode, authorized, remoteAddress, res.headers['x-seen']]`,
      ),
      [200, true, '127.0.0.1', `${HOST}:${listeners.https.port}`],
    )
    assert.equal(
      await inside(
        `require('tls').setDefaultCACertificates([CA]); return (await fetch('https://${HOST}:${listeners.https.port}/', { method: 'POST', body: 'over TLS' })).text()`,
      ),
      'over TLS',
    )
    const unknown = await inside(`return fetch('https://${HOST}:${listeners.https.port}/').catch(e => e.cause.code)`)
    assert.equal(unknown, 'DEPTH_ZERO_SELF_SIGNED_CERT')
  })

  test('axios and request', async () => {
    assert.equal(await inside(`return (await require('axios').post('http://${HOST}:${listeners.http.port}/', 'by axios')).data`), 'by axios')
    assert.equal(
      await inside(`return require('request-promise')({ method: 'POST', uri: 'http://${HOST}:${listeners.http.port}/', body: 'by request' })`),
      'by request',
    )
  })

  test('http2', async () =>
    assert.equal(
      await inside(
        `const s = require('http2').connect('https://${HOST}:${listeners.http2.port}', { ca: CA }); const r = s.request({ ':path': '/' }); let t = ''; r.setEncoding('utf8').on('data', c => t += c); await once(r, 'end'); s.close(); return t`,
      ),
      'two',
    ))

  test('ws and the global WebSocket', async () => {
    const url = `'ws://${HOST}:${listeners.socket.port}/'`
    assert.equal(
      await inside(
        `const s = new (require('ws'))(${url}); await once(s, 'open'); s.send('by ws'); const [d] = await once(s, 'message'); s.terminate(); return String(d)`,
      ),
      'by ws',
    )
    assert.equal(
      await inside(
        `const s = new WebSocket(${url}); await once(s, 'open'); s.send('built in'); const [e] = await once(s, 'message'); s.close(); return e.data`,
      ),
      'built in',
    )
  })

  test('pg, in clear and over TLS, against PostgreSQL', async () => {
    const query = `await c.connect(); const { rows } = await c.query('select $1::int + 1 as n, ssl from pg_stat_ssl where pid = pg_backend_pid()', [41]); await c.end(); return rows[0]`
    const options = `host: '${HOST}', port: ${servers.postgres}, user: 'webtask', password: 'webtask', database: 'postgres'`
    assert.deepEqual(await inside(`const c = new (require('pg').Client)({ ${options} }); ${query}`), { n: 42, ssl: false })
    assert.deepEqual(await inside(`const c = new (require('pg').Client)({ ${options}, ssl: { ca: CA } }); ${query}`), { n: 42, ssl: true })
    assert.equal(
      await inside(
        `const p = new (require('pg').Pool)({ ${options}, max: 3 }); const all = await Promise.all([1, 2, 3, 4, 5].map(i => p.query('select $1::int as n', [i]))); await p.end(); return all.reduce((s, { rows }) => s + rows[0].n, 0)`,
      ),
      15,
    )
  })

  test('mysql2 against MariaDB, which speaks first', async () =>
    assert.deepEqual(
      await inside(`const c = await require('mysql2/promise').createConnection({ host: '${HOST}', port: ${servers.mariadb}, user: 'webtask', password: 'webtask', database: 'webtask' })
        await c.query('create table if not exists t (n int)'); await c.execute('insert into t values (?)', [7]); const [rows] = await c.query('select n from t limit 1'); await c.end(); return rows[0]`),
      { n: 7 },
    ))

  test('ioredis against Redis', async () =>
    assert.deepEqual(
      await inside(
        `const { Redis } = require('ioredis'); const r = new (Redis ?? require('ioredis'))({ host: '${HOST}', port: ${servers.redis}, password: 'webtask' }); await r.set('k', 'v'); const got = await r.get('k'); r.disconnect(); return got`,
      ),
      'v',
    ))

  test('nodemailer over STARTTLS', async () => {
    const { port } = smtp.server.address() as net.AddressInfo
    const info = await inside(
      `const t = require('nodemailer').createTransport({ host: '${HOST}', port: ${port}, requireTLS: true, tls: { ca: CA } }); return (await t.sendMail({ from: 'a@example.com', to: 'b@example.com', subject: 'hello', text: 'from a webtask' })).response`,
    )
    assert.match(info, /^250/)
    assert.match(mails[0]!, /from a webtask/)
  })

  test('mongodb finds its servers by SRV and TXT, and opens TLS to them', async () => {
    const message = await inside(
      `const { MongoClient } = require('mongodb-7'); require('fs').writeFileSync('/tmp/ca.pem', CA)
       const c = new MongoClient('mongodb+srv://u:p@cluster.example.com/', { tlsCAFile: '/tmp/ca.pem', serverSelectionTimeoutMS: 1500 }); return c.connect().then(() => 'connected', e => e.message).finally(() => c.close())`,
    )
    assert.match(message, /timed out|ended|closed/i)
    assert.equal(called[0]?.servername, 'shard.example.com')
    // An OP_QUERY or OP_MSG that says hello.
    assert.match(called[0]!.bytes.toString('latin1'), /hello|ismaster/i)
    assert.ok(names.asked.includes('TXT cluster.example.com'))
  })

  test('tls.connect, half-close and a large body with nothing lost', async () => {
    assert.equal(
      await inside(
        `const s = require('net').connect({ host: '${HOST}', port: ${listeners.echo.port}, allowHalfOpen: true }); s.end('half'); let t = ''; for await (const c of s) t += c; return t`,
      ),
      'half',
    )
    const size = 50e6
    const [bytes, hash] = await inside(
      `const body = require('crypto').randomBytes(${size}); const sha = b => require('crypto').createHash('sha256').update(b).digest('hex'); const s = require('net').connect(${listeners.echo.port}, '${HOST}'); s.end(body); const out = []; for await (const c of s) out.push(c); const back = Buffer.concat(out); return [back.length, sha(back) === sha(body)]`,
    )
    assert.deepEqual([bytes, hash], [size, true])
  })
})

describe('what may not be reached is refused before anything is connected', () => {
  test('every spelling of an address that is not public', async () => {
    const { port } = listeners.forbidden
    const own = Object.values(os.networkInterfaces()).flatMap((each) => each?.map(({ address }) => address) ?? [])
    const hosts = [
      '127.0.0.1',
      '127.0.0.2',
      '127.255.255.254',
      '0.0.0.0',
      '::',
      '::1',
      '::ffff:127.0.0.1',
      '::ffff:7f00:1',
      '::7f00:1',
      '64:ff9b::7f00:1',
      '64:ff9b:1::7f00:1',
      '2002:7f00:1::',
      '2001:0:7f00:1::',
      'fe80::1',
      'fec0::1',
      'fc00::1',
      'ff02::1',
      '10.0.0.1',
      '172.16.0.1',
      '172.17.0.1',
      '192.168.0.1',
      '100.64.0.1',
      '100.100.100.200',
      '169.254.169.254',
      '168.63.129.16',
      '192.0.0.192',
      '198.18.0.1',
      '224.0.0.1',
      '255.255.255.255',
      'localhost',
      'LOCALHOST.',
      'x.localhost',
      '127.1',
      '127.0.1',
      '0x7f000001',
      '0x7f.0.0.1',
      '2130706433',
      '017700000001',
      '0177.0.0.1',
      '①②⑦.⓪.⓪.①',
      '127。0。0。1',
      'mixed.example.com',
      'metadata.example.com',
      'metadata.google.internal',
      'host.docker.internal',
      'gateway',
      'redis',
      ...own,
    ]
    const codes = await inside(
      `const out = {}; for (const host of ${JSON.stringify(hosts)}) { out[host] = await failing(require('net').connect({ host, port: ${port} })); await new Promise(r => setTimeout(r, 12)) } return out`,
    )
    for (const host of hosts) assert.match(codes[host], /^(EACCES|ENOTFOUND)$/, host)
    for (const address of hosts.filter((host) => net.isIP(host) !== 0)) assert.equal(codes[address], 'EACCES', address)
    const urls = [
      'http://127.1',
      'http://2130706433',
      'http://0x7f.1',
      'http://[::ffff:127.0.0.1]',
      'http://①②⑦.⓪.⓪.①',
      'http://127.0.0.1.',
      'http://[::1]',
      'http://localhost',
    ]
    const causes = await inside(
      `const out = []; for (const url of ${JSON.stringify(urls)}) out.push(await fetch(url + ':${port}/').catch(e => e.cause.code)); return out`,
    )
    assert.deepEqual(
      causes,
      urls.map(() => 'EACCES'),
    )
    assert.equal(listeners.forbidden.reached(), 0)
  })

  test('port 25, and a name that has one inner address among its own; only public names are asked about', async () => {
    assert.equal(await inside(`return failing(require('net').connect(25, '127.0.0.1'))`), 'EACCES')
    assert.equal(await inside(`return failing(require('net').connect(${listeners.http.port}, 'metadata.example.com'))`), 'EACCES')
    assert.equal(
      names.asked.some((asked) => /internal|gateway|redis|localhost/.test(asked)),
      false,
    )
  })

  test('code that goes around the preload finds no other way: no socket of an address family, no name server', async () => {
    const tried = await inside(
      `const { Worker } = require('worker_threads'); return new Promise(r => new Worker("const s = require('net').connect(80, '127.0.0.1'); s.on('error', e => require('worker_threads').parentPort.postMessage(e.code))", { eval: true }).on('message', r))`,
    )
    assert.match(tried, /^(EACCES|EPERM|ENETUNREACH|EAFNOSUPPORT|ECONNREFUSED)$/)
  })
})

test('limits: one connection too many is refused with EMFILE, and others of the tenant go on', async () => {
  const got = await inside(
    `const net = require('net'); const open = []; const codes = []; for (let i = 0; i < 25; i++) { const s = net.connect(${listeners.echo.port}, '127.0.0.1'); open.push(s); codes.push(await new Promise(r => s.on('connect', () => r('ok')).on('error', e => r(e.code)))) }
     open[0].write('still'); const [d] = await once(open[0], 'data'); for (const s of open) s.destroy(); return [codes.filter(c => c === 'ok').length, codes.at(-1), String(d)]`,
    { tenant: 'greedy' },
  )
  assert.deepEqual(got, [20, 'EMFILE', 'still'])
})

test('each connection is one line in the log, and all are counted', async () => {
  await inside(`const s = require('net').connect(${listeners.echo.port}, '${HOST}'); s.end('12345'); await once(s.resume(), 'close')`, {
    tenant: 'logged',
  })
  const line = await eventually('the line', () =>
    deployment
      .output()
      .split('\n')
      .find((text) => text.includes('egress.closed') && text.includes('"logged"')),
  )
  const { tenant, host, port, address, bytesIn, bytesOut, outcome, msg, sandbox } = JSON.parse(line)
  assert.deepEqual(
    { tenant, host, port, address, bytesIn, bytesOut, outcome, msg },
    {
      tenant: 'logged',
      host: HOST,
      port: listeners.echo.port,
      address: '127.0.0.1',
      bytesIn: 5,
      bytesOut: 5,
      outcome: 'closed',
      msg: 'egress.closed',
    },
  )
  assert.match(sandbox, /^[0-9a-f]{12}$/)
  const metrics = await eventually('the counters', async () => {
    const text = await (await fetch(`${deployment.adminUrl}/metrics`)).text()
    return /webtask_egress_connections_total\{outcome="closed"\}/.test(text) && text
  })
  assert.match(metrics, /webtask_egress_bytes_total\{direction="in"\} \d{8,}/)
})

test('a sandbox sees the sockets of its own directories alone; prewarmed ones have no way out', async () => {
  assert.deepEqual(await inside(`return require('fs').readdirSync('/run/wt-egress')`), ['egress.sock'])
  const mounts = await Promise.all(
    (await containersOf(deployment.id, 'sandbox')).map(async ({ Id }) => (await docker.getContainer(Id).inspect()).Mounts),
  )
  const sources = mounts.flatMap((each) => each.map(({ Source }) => Source))
  assert.equal(new Set(sources).size, sources.length)
})

test('bytes of an hour: connections are cut when they are used up, and new ones say so', async () => {
  const { port } = listeners.echo
  await using thrifty = await startDeployment({ WEBTASK_EGRESS_MIB_PER_HOUR: '5', WEBTASK_EGRESS_ALLOW: `127.0.0.1:${port}` })
  const got = await inside(
    `const s = require('net').connect(${port}, '127.0.0.1'); const block = Buffer.alloc(65536); const cut = new Promise(r => s.on('error', e => r(e.code)).on('close', () => r('closed'))); const more = () => { while (!s.destroyed && s.write(block)); }; s.on('drain', more).on('connect', more).resume()
     const how = await cut; return [how, await new Promise(r => require('net').connect(${port}, '127.0.0.1').on('error', e => r(e.message)))]`,
    { on: thrifty },
  )
  assert.match(got[0], /^(EDQUOT|EPIPE|ECONNRESET)$/)
  assert.match(got[1], /^connect EDQUOT 127\.0\.0\.1:\d+ \(5242880 bytes in an hour/)
  await eventually('the line', () => thrifty.output().includes('"outcome":"EDQUOT"'))
})

test('off: the network is down for webtasks, and everything else works', async () => {
  await using off = await startDeployment({ WEBTASK_EGRESS: 'off', WEBTASK_EGRESS_ALLOW: `127.0.0.1:${listeners.echo.port}` })
  assert.equal(await inside(`return failing(require('net').connect(${listeners.echo.port}, '127.0.0.1'))`, { on: off }), 'ENETUNREACH')
  assert.equal(await inside(`return require('dns').promises.lookup('example.com').catch(e => e.code)`, { on: off }), 'EAI_AGAIN')
})

/** Sends back every text that comes as one small masked frame. */
function echoWebSocket(request: http.IncomingMessage, stream: NodeJS.WritableStream & NodeJS.ReadableStream): void {
  const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
  stream.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`)
  stream.on('error', () => {})
  stream.on('data', (frame: Buffer) => {
    const size = frame[1]! & 0x7f
    const mask = frame.subarray(2, 6)
    const text = Buffer.from(frame.subarray(6, 6 + size).map((byte, index) => byte ^ mask[index % 4]!))
    stream.write(Buffer.concat([Buffer.of(frame[0]!, size), text]))
  })
}
