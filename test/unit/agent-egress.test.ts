import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import http2 from 'node:http2'
import http from 'node:http'
import https from 'node:https'
import tls from 'node:tls'
import { after, before, describe, test } from 'node:test'
import { CA, CERTIFICATE } from '../support/certificate.ts'
import { startPair, type AgentProcess } from '../support/agent-process.ts'
import { listenTcp, startWorld, type Listener, type World, type WorldOptions } from '../support/egress-world.ts'
import type { FakeGateway } from '../support/fake-gateway.ts'

const OPEN = '127.0.0.1:*, *.example.com:*, example.com:*'
const names: WorldOptions['names'] = {
  openedAddresses: async (name) => {
    if (name.startsWith('nowhere')) return []
    if (name.startsWith('broken')) throw Object.assign(new Error('no'), { code: 'ESERVFAIL' })
    return ['127.0.0.1']
  },
  records: async (name, rrtype) => {
    if (name.startsWith('nowhere')) throw Object.assign(new Error('no'), { code: 'ENOTFOUND' })
    if (rrtype === 'A') return [{ address: '192.0.2.1', ttl: 60 }]
    if (rrtype === 'SRV') return [{ name: 'a.example.com', port: 27_017, priority: 0, weight: 5 }]
    if (rrtype === 'TXT') return [['authSource=admin', '&x=1']]
    if (rrtype === 'MX') return [{ exchange: 'mail.example.com', priority: 10 }]
    return []
  },
}

let world: World
let gateway: FakeGateway
let agent: AgentProcess
const parts = new AsyncDisposableStack()

before(async () => {
  world = parts.use(await startWorld({ opened: OPEN, names }))
  const pair = parts.use(await startPair({ egressDir: world.directory }))
  gateway = pair.gateway
  agent = pair.agent
})
after(() => parts.disposeAsync())

/** Runs the body of an async function in a worker; gives what it returns. `$` values are put in as JSON. */
async function inside(body: string, values: Record<string, unknown> = {}): Promise<any> {
  const code = Object.entries(values).reduce((text, [name, value]) => text.replaceAll(`$${name}`, JSON.stringify(value)), body)
  const source = `const told = e => ({ name: e.name, code: e.code, syscall: e.syscall, address: e.address, port: e.port, hostname: e.hostname, errno: e.errno, message: e.message })
const { once } = require('events')
module.exports = async () => { ${code} }`
  const worker = createHash('sha256').update(source).digest('hex').slice(0, 16)
  const loaded = await gateway.load(worker, source)
  assert.equal(loaded.kind, 'loaded', JSON.stringify(loaded))
  const answer = await gateway.call(worker)
  gateway.send({ kind: 'end', worker, run: (loaded as { run: number }).run, graceMs: 0 })
  assert.equal(answer.status, 200, answer.text + agent.stderr())
  return answer.json
}

async function listening<T extends AsyncDisposable>(listener: Promise<T>, action: (listener: T) => Promise<void>): Promise<void> {
  await using held = await listener
  await action(held)
}

describe('clients of Node go out unmodified', () => {
  test('fetch, over http and https', () =>
    listening(
      listenTcp(
        undefined,
        http.createServer((request, response) => request.pipe(response)),
      ),
      async ({ port }) => {
        const got = await inside(
          `const a = await fetch('http://127.0.0.1:$port/', { method: 'POST', body: 'hello' }); return [a.status, await a.text()]`,
          { port },
        )
        assert.deepEqual(got, [200, 'hello'])
      },
    ))

  test('https.get with a CA of its own, by name; the answer says whom it spoke to', () =>
    listening(
      listenTcp(
        undefined,
        https.createServer(CERTIFICATE, (_, response) => response.end('secret')),
      ),
      async ({ port }) => {
        const got = await inside(
          `const [res] = await once(require('https').get({ host: 'www.example.com', port: $port, ca: $CA }), 'response')
         const { authorized, remoteAddress: address, remotePort: port, remoteFamily: family } = res.socket; let text = ''; for await (const c of res) text += c
         return { text, authorized, address, port, family }`,
          { port, CA },
        )
        assert.deepEqual(got, { text: 'secret', authorized: true, address: '127.0.0.1', port, family: 'IPv4' })
      },
    ))

  test('keep-alive: one connection serves several requests', () =>
    listening(
      listenTcp(
        undefined,
        http.createServer((_, response) => response.end('ok')),
      ),
      async ({ port, reached }) => {
        const got = await inside(
          `const http = require('http'); const agent = new http.Agent({ keepAlive: true, maxSockets: 1 }); const out = []
         for (let i = 0; i < 3; i++) { const [res] = await once(http.get({ host: '127.0.0.1', port: $port, agent }), 'response'); out.push(res.statusCode); res.resume(); await once(res, 'end'); await new Promise(setImmediate) }
         agent.destroy(); return out`,
          { port },
        )
        assert.deepEqual(got, [200, 200, 200])
        assert.equal(reached(), 1)
      },
    ))

  test('http2, encrypted and in clear', async () => {
    const answer = (stream: http2.ServerHttp2Stream) => stream.end('two')
    const ask = `const s = require('http2').connect($url, { ca: $CA }); const r = s.request({ ':path': '/' }); let text = ''
      r.setEncoding('utf8').on('data', c => text += c); await once(r, 'end'); s.close(); return text`
    await listening(listenTcp(undefined, http2.createSecureServer(CERTIFICATE).on('stream', answer) as never), async ({ port }) =>
      assert.equal(await inside(ask, { url: `https://www.example.com:${port}`, CA }), 'two'),
    )
    await listening(listenTcp(undefined, http2.createServer().on('stream', answer) as never), async ({ port }) =>
      assert.equal(await inside(ask, { url: `http://127.0.0.1:${port}`, CA }), 'two'),
    )
  })

  test('tls.connect over a socket that is still connecting, and STARTTLS over one that is not', () =>
    listening(
      listenTcp((socket) => {
        socket.write('ready')
        socket.once('data', () => {
          const secure = new tls.TLSSocket(socket, { isServer: true, ...CERTIFICATE })
          secure.on('error', () => {}).end('inside')
        })
      }),
      async ({ port }) => {
        const got = await inside(
          `const net = require('net'), tls = require('tls'); const plain = net.connect($port, '127.0.0.1'); const [hi] = await once(plain, 'data'); plain.write('go'); await new Promise(r => setTimeout(r, 20))
           const secure = tls.connect({ socket: plain, ca: $CA, servername: 'www.example.com' }); const [d] = await once(secure, 'data'); return [String(hi), String(d)]`,
          { port, CA },
        )
        assert.deepEqual(got, ['ready', 'inside'])
        await listening(
          listenTcp(undefined, tls.createServer(CERTIFICATE, (secure) => void secure.on('error', () => {}).end('at once')) as never),
          async (other) =>
            assert.equal(
              await inside(
                `const net = require('net'), tls = require('tls'); const secure = tls.connect({ socket: net.connect($port, '127.0.0.1'), ca: $CA, servername: 'www.example.com' }); const [d] = await once(secure, 'data'); return String(d)`,
                { port: other.port, CA },
              ),
              'at once',
            ),
        )
      },
    ))

  test('ES modules, which import net and dns by name', () =>
    listening(listenTcp(), async ({ port }) => {
      await gateway.load(
        'esm',
        `import { connect } from 'node:net'; import { lookup } from 'node:dns/promises'; import { resolve4 } from 'dns'; import { once } from 'node:events'
        export default { async fetch() { const s = connect(${port}, 'www.example.com'); s.write('x'); const [d] = await once(s, 'data'); s.end()
          return Response.json([String(d), await lookup('www.example.com'), await new Promise((y, n) => resolve4('example.com', (e, r) => e ? n(e) : y(r)))]) } }`,
      )
      assert.deepEqual((await gateway.call('esm')).json, ['x', { address: '127.0.0.1', family: 4 }, ['192.0.2.1']])
    }))
})

describe('a socket behaves as any other', () => {
  let far: Listener
  before(async () => {
    far = await listenTcp()
  })
  after(() => far[Symbol.asyncDispose]())

  test('its events come in order, with its addresses, and writes before it is connected are kept', async () => {
    const got = await inside(
      `const s = require('net').connect({ port: $port, host: 'www.example.com' }, () => seen.push('callback')); const seen = [s.connecting, s.pending, s.readyState]
       for (const e of ['lookup', 'connect', 'ready', 'end', 'close']) s.on(e, (...a) => seen.push(e + (e === 'lookup' ? JSON.stringify(a) : '')))
       s.setNoDelay(true); s.setKeepAlive(true, 1000); s.write('early '); s.end('late'); let text = ''; s.on('data', d => text += d)
       await once(s, 'connect'); seen.push([s.connecting, s.pending, s.remoteAddress, s.remotePort, s.remoteFamily])
       await once(s, 'close'); return { seen, text, read: s.bytesRead, written: s.bytesWritten }`,
      { port: far.port },
    )
    assert.deepEqual(got, {
      seen: [
        true,
        true,
        'opening',
        `lookup[null,"127.0.0.1",4,"www.example.com"]`,
        'callback',
        'connect',
        'ready',
        [false, false, '127.0.0.1', far.port, 'IPv4'],
        'end',
        'close',
      ],
      text: 'early late',
      read: 10,
      written: 10,
    })
  })

  test('half-open sockets, sockets that are used again, and user buffers', async () => {
    const got = await inside(
      `const net = require('net'); const out = []
       const s = new net.Socket({ allowHalfOpen: true }); s.connect($port, '127.0.0.1'); s.end('a'); let t = ''; s.on('data', d => t += d); await once(s, 'end'); out.push(t, s.writableEnded)
       await once(s, 'close'); s.connect($port, '127.0.0.1'); t = ''; await once(s, 'connect'); s.write('again'); const [d] = await once(s, 'data'); out.push(String(d)); s.destroy()
       const chunks = []; const u = net.connect({ port: $port, host: '127.0.0.1', onread: { buffer: Buffer.alloc(3), callback: (n, b) => { chunks.push(String(b.subarray(0, n))); return true } } }); u.end('abcdefg'); await once(u, 'close'); out.push(chunks.join('|'))
       return out`,
      { port: far.port },
    )
    assert.deepEqual(got, ['a', true, 'again', 'abc|def|g'])
  })

  test('timeouts, abort signals and destruction before it is connected', async () => {
    await using silent = await listenTcp(() => {})
    const got = await inside(
      `const net = require('net'); const out = []
       const idle = net.connect({ port: $port, host: '127.0.0.1', timeout: 30 }); await once(idle, 'timeout'); out.push(idle.timeout); idle.destroy()
       const aborter = new AbortController(); const a = net.connect({ port: $port, host: '127.0.0.1', signal: aborter.signal }); aborter.abort(); const [e] = await once(a, 'error'); out.push(e.name, a.destroyed)
       const d = net.connect($port, '127.0.0.1'); d.on('connect', () => out.push('connected')); d.destroy(); await once(d, 'close'); out.push('closed')
       out.push(await fetch('http://127.0.0.1:$port', { signal: AbortSignal.timeout(30) }).catch(e => e.name))
       return out`,
      { port: silent.port },
    )
    assert.deepEqual(got, [30, 'AbortError', true, 'closed', 'TimeoutError'])
  })

  test('a lookup function of its own and autoSelectFamily are obeyed', async () => {
    const got = await inside(
      `const net = require('net'); const asked = []
       const lookup = (host, options, done) => { asked.push(host, options.all === true); options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4) }
       for (const autoSelectFamily of [true, false]) { const s = net.connect({ host: 'anything.example.org', port: $port, lookup, autoSelectFamily }); await once(s, 'connect'); asked.push(s.remoteAddress); s.destroy() }
       const bad = net.connect({ host: 'x.example.org', port: $port, lookup: (h, o, done) => done(Object.assign(new Error('mine'), { code: 'EMINE' })) }); const [e] = await once(bad, 'error'); asked.push(e.code)
       return asked`,
      { port: far.port },
    )
    assert.deepEqual(got, ['anything.example.org', true, '127.0.0.1', 'anything.example.org', false, '127.0.0.1', 'EMINE'])
  })

  test('a connection that breaks half-way says ECONNRESET instead of an end that looks whole', () =>
    listening(
      listenTcp((socket) => {
        socket.write('half')
        socket.once('data', () => socket.resetAndDestroy())
      }),
      async ({ port }) => {
        const got = await inside(
          `const s = require('net').connect($port, '127.0.0.1'); const seen = []; s.on('end', () => seen.push('end')); const [d] = await once(s, 'data'); s.write('x'); const [e] = await once(s, 'error'); return [String(d), e.code, e.syscall, seen]`,
          { port },
        )
        assert.deepEqual(got, ['half', 'ECONNRESET', 'read', []])
      },
    ))

  test('unix sockets are left to code, and arguments that make no sense fail as they always do', async () => {
    const got = await inside(
      `const net = require('net'); const out = []
       const server = net.createServer(s => s.end('unix')).listen('/tmp/wt-own-' + process.pid + '.sock'); await once(server, 'listening')
       const s = net.connect(server.address()); const [d] = await once(s, 'data'); out.push(String(d)); server.close()
       for (const port of [70000, -1, 'x', {}]) try { net.connect({ port, host: '127.0.0.1' }); out.push('none') } catch (e) { out.push(e.code) }
       try { net.connect({}) } catch (e) { out.push(e.code) }
       return out`,
    )
    assert.deepEqual(got, ['unix', 'ERR_SOCKET_BAD_PORT', 'ERR_SOCKET_BAD_PORT', 'ERR_SOCKET_BAD_PORT', 'ERR_INVALID_ARG_TYPE', 'ERR_MISSING_ARGS'])
  })

  test('a large body goes both ways with nothing lost', () =>
    listening(
      listenTcp(
        undefined,
        http.createServer((request, response) => request.pipe(response)),
      ),
      async ({ port }) => {
        const got = await inside(
          `const { createHash } = require('crypto'); const body = Buffer.alloc(20e6, 'abcdefg'); const a = await fetch('http://127.0.0.1:$port', { method: 'POST', body }); const back = Buffer.from(await a.arrayBuffer()); return [back.length, back.equals(body)]`,
          { port },
        )
        assert.deepEqual(got, [20e6, true])
      },
    ))
})

describe('failures look as Node would tell them', () => {
  const failing = (options: string) => inside(`const s = require('net').connect(${options}); const [e] = await once(s, 'error'); return told(e)`)

  test('policy, unknown names, name servers, refused connections', async () => {
    assert.deepEqual(await failing(`80, '169.254.169.254'`), {
      name: 'Error',
      code: 'EACCES',
      syscall: 'connect',
      address: '169.254.169.254',
      port: 80,
      errno: -13,
      message: 'connect EACCES 169.254.169.254:80 (the address is not public)',
    })
    assert.deepEqual(await failing(`80, 'nowhere.example.com'`), {
      name: 'Error',
      code: 'ENOTFOUND',
      syscall: 'getaddrinfo',
      hostname: 'nowhere.example.com',
      errno: -3008,
      message: 'getaddrinfo ENOTFOUND nowhere.example.com',
    })
    assert.equal((await failing(`80, 'broken.example.com'`)).code, 'EAI_AGAIN')
    const { port } = await (async () => {
      await using gone = await listenTcp()
      return { port: gone.port }
    })()
    assert.deepEqual(await failing(`${port}, '127.0.0.1'`), {
      name: 'Error',
      code: 'ECONNREFUSED',
      syscall: 'connect',
      address: '127.0.0.1',
      port,
      errno: -111,
      message: `connect ECONNREFUSED 127.0.0.1:${port}`,
    })
    const cause = await inside(`return fetch('http://10.0.0.1/').catch(e => told(e.cause))`)
    assert.deepEqual([cause.code, cause.address], ['EACCES', '10.0.0.1'])
  })

  test('without an egress role the network is down', async () => {
    await using alone = await startWorld({ attached: false })
    await using pair = await startPair({ egressDir: alone.directory })
    await pair.gateway.load(
      'alone',
      `module.exports = async () => { const out = []; const net = require('net')
      for (const host of ['93.184.215.14', 'example.com']) out.push(await new Promise(r => net.connect(80, host).on('error', e => r(e.code))))
      out.push(await require('dns').promises.lookup('example.com').catch(e => e.code), await require('dns').promises.resolve4('example.com').catch(e => e.code)); return out }`,
    )
    assert.deepEqual((await pair.gateway.call('alone')).json, ['ENETUNREACH', 'EAI_AGAIN', 'EAI_AGAIN', 'ECONNREFUSED'])
  })

  test('datagrams say that there are none', async () => {
    const got = await inside(
      `const dgram = require('dgram'); const out = []
       const a = dgram.createSocket('udp4'); out.push(await new Promise(r => a.send('x', 53, '8.8.8.8', r)).then(told))
       const b = dgram.createSocket('udp4'); b.bind(0); const [e] = await once(b, 'error'); out.push(told(e)); return out.map(({ code, message }) => [code, message])`,
    )
    assert.deepEqual(got, [
      ['EACCES', 'send EACCES: a webtask has no datagrams (UDP), only TCP connections'],
      ['EACCES', 'bind EACCES: a webtask has no datagrams (UDP), only TCP connections'],
    ])
  })
})

describe('dns', () => {
  test('lookup: callbacks, promises, all, families, order, localhost and literals', async () => {
    const got = await inside(
      `const dns = require('dns'), { promisify } = require('util'); const cb = (...a) => new Promise(r => dns.lookup(...a, (e, ...x) => r(e ? e.code : x)))
       return [await cb('www.example.com'), await cb('www.example.com', { all: true }), await cb('www.example.com', 4), await cb('www.example.com', { family: 6 }), await promisify(dns.lookup)('www.example.com'),
         await dns.promises.lookup('localhost', { all: true, family: 4 }), await cb('192.0.2.7'), await dns.promises.lookup('nowhere.example.com').catch(told)]`,
    )
    const v4 = { address: '127.0.0.1', family: 4 }
    assert.deepEqual(got.slice(0, 7), [['127.0.0.1', 4], [[v4]], ['127.0.0.1', 4], 'ENOTFOUND', v4, [v4], ['192.0.2.7', 4]])
    assert.deepEqual(
      [got[7].code, got[7].syscall, got[7].hostname, got[7].message],
      ['ENOTFOUND', 'getaddrinfo', 'nowhere.example.com', 'getaddrinfo ENOTFOUND nowhere.example.com'],
    )
  })

  test('records by every door: functions, promises, Resolver classes', async () => {
    const got = await inside(
      `const dns = require('dns'); const p = require('dns/promises'); const R = new dns.Resolver(), P = new p.Resolver(); const cb = (f, ...a) => new Promise(r => f(...a, (e, x) => r(e ? e.code : x)))
       return [await cb(dns.resolve4, 'example.com', { ttl: true }), await cb(dns.resolve, 'example.com', 'MX'), await p.resolveSrv('_mongodb._tcp.example.com'), await p.resolveTxt('example.com'),
         await cb(R.resolve4.bind(R), 'example.com'), await P.resolve('example.com', 'TXT'), await p.resolve4('nowhere.example.com').catch(told), await p.resolveTlsa('example.com').catch(e => e.code)]`,
    )
    assert.deepEqual(got.slice(0, 6), [
      [{ address: '192.0.2.1', ttl: 60 }],
      [{ exchange: 'mail.example.com', priority: 10 }],
      [{ name: 'a.example.com', port: 27_017, priority: 0, weight: 5 }],
      [['authSource=admin', '&x=1']],
      ['192.0.2.1'],
      [['authSource=admin', '&x=1']],
    ])
    assert.deepEqual([got[6].code, got[6].syscall, got[6].hostname], ['ENOTFOUND', 'queryA', 'nowhere.example.com'])
    assert.equal(got[7], 'ENOTIMP')
  })

  test('arguments that make no sense fail as they always do', async () => {
    const got = await inside(
      `const dns = require('dns'); const out = []; for (const f of [() => dns.lookup('x.example.com', { family: 5 }, () => {}), () => dns.lookup('x.example.com'), () => dns.lookup(1, () => {}), () => dns.resolve4(1, () => {}), () => dns.lookup('', () => {})]) try { f(); out.push('none') } catch (e) { out.push(e.code) } return out`,
    )
    assert.deepEqual(got, ['ERR_INVALID_ARG_VALUE', 'ERR_INVALID_ARG_TYPE', 'ERR_INVALID_ARG_TYPE', 'ERR_INVALID_ARG_TYPE', 'ERR_INVALID_ARG_VALUE'])
  })
})
