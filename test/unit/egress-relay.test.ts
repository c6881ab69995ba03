import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { listenTcp, SANDBOX, startWorld } from '../support/egress-world.ts'
import { dialRelay } from '../../src/egress/relay.ts'

const GO = Buffer.from('\n')
const LOOPBACK = '127.0.0.1/32:*'

/** Stands for the internet: whatever address is dialled, the listener answers; and it says which were. */
function internet(port: number): { dial: typeof dialRelay; dialled: string[] } {
  const dialled: string[] = []
  return {
    dialled,
    dial: async (address, _port, signal) => {
      dialled.push(address)
      const socket = await dialRelay('127.0.0.1', port, signal)
      Object.defineProperty(socket, 'remoteAddress', { value: address })
      return socket
    },
  }
}

describe('a connection of a sandbox', () => {
  test('reaches the far end, which may speak first, and carries bytes both ways with half-close', async () => {
    await using far = await listenTcp((socket) => {
      socket.write('banner ')
      let said = ''
      socket.on('data', (chunk) => (said += String(chunk)))
      socket.on('end', () => socket.end(`heard ${said}`))
    })
    await using world = await startWorld({ opened: LOOPBACK })
    const { reply, socket } = await world.ask({ kind: 'connect', host: '127.0.0.1', port: far.port })
    assert.deepEqual(reply, { ok: true, id: reply.id, address: '127.0.0.1', family: 4, port: far.port })
    socket.write(GO)
    socket.end('hello')
    assert.equal(await text(socket), 'banner heard hello')
    await once(socket, 'close')
    await sleep(20)
    assert.deepEqual(
      world.events.map((event) => ({ ...event, ms: 0 })),
      [
        {
          sandbox: SANDBOX,
          tenant: 'acme',
          host: '127.0.0.1',
          port: far.port,
          address: '127.0.0.1',
          bytesIn: 18,
          bytesOut: 5,
          ms: 0,
          outcome: 'closed',
        },
      ],
    )
    assert.equal((await world.ask({ kind: 'ended', id: reply.id })).reply.broken, null)
  })

  test('nothing of the far end comes before the sandbox has said that it read the reply', async () => {
    await using far = await listenTcp((socket) => void socket.end('early'))
    await using world = await startWorld({ opened: LOOPBACK })
    const { socket } = await world.ask({ kind: 'connect', host: '127.0.0.1', port: far.port })
    let heard = 0
    socket.on('data', (chunk) => (heard += chunk.length)).resume()
    await sleep(50)
    assert.equal(heard, 0)
    socket.write(GO)
    await once(socket, 'end')
    assert.equal(heard, 5)
    socket.destroy()
  })

  test('one that breaks at the far end is known to have broken', async () => {
    await using far = await listenTcp((socket) => {
      socket.write('half of it')
      socket.once('data', () => socket.resetAndDestroy())
    })
    await using world = await startWorld({ opened: LOOPBACK })
    const { reply, socket } = await world.ask({ kind: 'connect', host: '127.0.0.1', port: far.port })
    socket.on('error', () => {})
    socket.write(GO)
    socket.write('x')
    await once(
      socket.resume().on('end', () => socket.destroy()),
      'close',
    )
    assert.equal((await world.ask({ kind: 'ended', id: reply.id })).reply.broken, 'ECONNRESET')
    await sleep(20)
    assert.equal(world.events[0]!.outcome, 'ECONNRESET')
  })

  test('a sandbox that leaves closes the far end', async () => {
    const ended = Promise.withResolvers<void>()
    await using far = await listenTcp((socket) => void socket.resume().once('end', ended.resolve))
    await using world = await startWorld({ opened: LOOPBACK })
    const { socket } = await world.ask({ kind: 'connect', host: '127.0.0.1', port: far.port })
    socket.write(GO)
    socket.destroy()
    await ended.promise
  })

  test('backpressure: a sandbox that does not read holds the far end back', async () => {
    let written = 0
    await using far = await listenTcp((socket) => {
      const block = Buffer.alloc(65_536)
      const more = () => {
        while (written < 200e6 && socket.write(block)) written += block.length
      }
      socket.on('drain', more)
      more()
    })
    await using world = await startWorld({ opened: LOOPBACK })
    const { socket } = await world.ask({ kind: 'connect', host: '127.0.0.1', port: far.port })
    socket.write(GO)
    await sleep(300)
    const before = written
    assert.ok(before < 50e6, `${before} bytes went into a sandbox that reads nothing`)
    socket.destroy()
  })

  test('refusals of the system come with their codes', async () => {
    await using world = await startWorld({ opened: LOOPBACK })
    const { port } = await (async () => {
      await using gone = await listenTcp()
      return { port: gone.port }
    })()
    const { reply } = await world.ask({ kind: 'connect', host: '127.0.0.1', port })
    assert.deepEqual([reply.ok, reply.code, reply.syscall, reply.address], [false, 'ECONNREFUSED', 'connect', '127.0.0.1'])
    assert.equal(world.events[0]!.outcome, 'ECONNREFUSED')
  })

  test('a far end that never answers is given up in time', async () => {
    await using world = await startWorld({
      opened: LOOPBACK,
      dial: (_address, _port, signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
      relayLimits: { connectMs: 60 },
    })
    const { reply } = await world.ask({ kind: 'connect', host: '127.0.0.1', port: 9 })
    assert.equal(reply.code, 'ETIMEDOUT')
  })
})

describe('names', () => {
  test('every address of a name is judged before any is dialled: one that is not public refuses it', async () => {
    await using far = await listenTcp()
    for (const inner of [
      '127.0.0.1',
      '10.0.0.1',
      '169.254.169.254',
      '::1',
      '::ffff:127.0.0.1',
      '64:ff9b::7f00:1',
      'fe80::1',
      '192.168.1.1',
      '100.100.100.200',
    ]) {
      const { dial, dialled } = internet(far.port)
      await using world = await startWorld({ dial, names: { addresses: async () => ['93.184.215.14', inner] } })
      const { reply } = await world.ask({ kind: 'connect', host: 'rebind.example.com', port: far.port })
      assert.equal(reply.code, 'EACCES', inner)
      assert.deepEqual(dialled, [], inner)
    }
    assert.equal(far.reached(), 0)
  })

  test('a name that is public once and then not is never connected to where it was not judged', async () => {
    await using far = await listenTcp()
    const { dial, dialled } = internet(far.port)
    let asked = 0
    await using world = await startWorld({ dial, names: { addresses: async () => (asked++ === 0 ? ['93.184.215.14'] : ['127.0.0.1']) } })
    const first = await world.ask({ kind: 'connect', host: 'rebind.example.com', port: 80 })
    assert.equal(first.reply.address, '93.184.215.14')
    first.socket.destroy()
    const second = await world.ask({ kind: 'connect', host: 'rebind.example.com', port: 80 })
    assert.equal(second.reply.code, 'EACCES')
    assert.deepEqual(dialled, ['93.184.215.14'])
    assert.equal(asked, 2)
  })

  test('a connection that ends up elsewhere than was judged is cut', async () => {
    await using far = await listenTcp()
    await using world = await startWorld({
      dial: (_address, _port, signal) => dialRelay('127.0.0.1', far.port, signal),
      names: { addresses: async () => ['93.184.215.14'] },
    })
    const { reply } = await world.ask({ kind: 'connect', host: 'example.com', port: 80 })
    assert.equal(reply.code, 'EACCES')
  })

  test('the next address is tried when one fails or says nothing', async () => {
    await using far = await listenTcp()
    const reach = internet(far.port)
    await using world = await startWorld({
      names: { addresses: async () => ['93.184.215.1', '93.184.215.2', '93.184.215.3'] },
      relayLimits: { staggerMs: 30 },
      dial: (address, port, signal) => {
        if (address.endsWith('.1')) return Promise.reject(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))
        if (address.endsWith('.2')) return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
        return reach.dial(address, port, signal)
      },
    })
    const { reply, socket } = await world.ask({ kind: 'connect', host: 'example.com', port: 80 })
    assert.equal(reply.address, '93.184.215.3')
    socket.destroy()
  })

  test('unknown names, failing servers, inner names and odd spellings look as Node would say it, and inner ones are never asked about', async () => {
    const asked: string[] = []
    await using world = await startWorld({
      names: {
        addresses: async (name) => {
          asked.push(name)
          if (name.startsWith('broken')) throw Object.assign(new Error('no'), { code: 'ESERVFAIL' })
          return []
        },
      },
    })
    const codes: Record<string, string> = {}
    for (const host of [
      'nowhere.example.com',
      'broken.example.com',
      'db',
      'db.internal',
      'localhost',
      'x.localhost',
      '127.1',
      '0x7f000001',
      '2130706433',
      '0x7f.1',
      '017700000001',
      'a b.example.com',
      '①②⑦.⓪.⓪.①',
      'printer.local',
    ])
      codes[host] = (await world.ask({ kind: 'connect', host, port: 80 })).reply.code
    assert.deepEqual(codes, {
      'nowhere.example.com': 'ENOTFOUND',
      'broken.example.com': 'EAI_AGAIN',
      db: 'ENOTFOUND',
      'db.internal': 'ENOTFOUND',
      localhost: 'EACCES',
      'x.localhost': 'EACCES',
      '127.1': 'ENOTFOUND',
      '0x7f000001': 'ENOTFOUND',
      '2130706433': 'ENOTFOUND',
      '0x7f.1': 'ENOTFOUND',
      '017700000001': 'ENOTFOUND',
      'a b.example.com': 'ENOTFOUND',
      '①②⑦.⓪.⓪.①': 'ENOTFOUND',
      'printer.local': 'ENOTFOUND',
    })
    assert.deepEqual(asked, ['nowhere.example.com', 'broken.example.com'])
  })

  test('records are given as the resolver gives them; what rules do not allow at any port is not asked', async () => {
    await using world = await startWorld({ rules: 'allow *.example.com:443', names: { records: async (name, rrtype) => [`${rrtype} of ${name}`] } })
    assert.deepEqual((await world.ask({ kind: 'resolve', name: '_mongodb._tcp.db.example.com', rrtype: 'SRV' })).reply, {
      ok: true,
      records: ['SRV of _mongodb._tcp.db.example.com'],
    })
    assert.equal((await world.ask({ kind: 'resolve', name: 'leak.example.net', rrtype: 'TXT' })).reply.code, 'EACCES')
    assert.equal((await world.ask({ kind: 'resolve', name: '10.0.0.1', rrtype: 'REVERSE' })).reply.code, 'ENOTFOUND')
    assert.deepEqual((await world.ask({ kind: 'resolve', name: '8.8.8.8', rrtype: 'REVERSE' })).reply.records, ['REVERSE of 8.8.8.8'])
  })
})

describe('limits of a tenant', () => {
  test('open connections: one more gets EMFILE, and a place that is given back can be taken', async () => {
    await using far = await listenTcp()
    await using world = await startWorld({ opened: LOOPBACK, limits: { connections: 2 } })
    const request = { kind: 'connect', host: '127.0.0.1', port: far.port }
    const open = [await world.ask(request), await world.ask(request)]
    const { reply } = await world.ask(request)
    assert.equal(reply.code, 'EMFILE')
    assert.match(reply.message, /2 connections are open/)
    for (const { socket } of open) socket.destroy()
    await sleep(50)
    const again = await world.ask(request)
    assert.equal(again.reply.ok, true)
    again.socket.destroy()
  })

  test('new connections in a second: one more gets EAGAIN', async () => {
    await using world = await startWorld({ limits: { perSecond: 3 } })
    const codes: string[] = []
    for (let i = 0; i < 4; i += 1) codes.push((await world.ask({ kind: 'connect', host: '10.0.0.1', port: 80 })).reply.code)
    assert.deepEqual(codes, ['EACCES', 'EACCES', 'EACCES', 'EAGAIN'])
  })
})

describe('who is served', () => {
  test('nobody before the sandbox is attached, and nobody after it is detached', async () => {
    await using world = await startWorld({ attached: false })
    await assert.rejects(world.ask({ kind: 'connect', host: '10.0.0.1', port: 1 }), { code: 'ENOENT' })
    await world.wayOut.attach(world, { sandbox: SANDBOX, tenant: 'acme', rules: [] })
    assert.equal((await world.ask({ kind: 'connect', host: '93.184.215.14', port: 1 })).reply.code, 'EACCES')
    world.wayOut.detach(world, SANDBOX)
    await sleep(20)
    await assert.rejects(world.ask({ kind: 'connect', host: '10.0.0.1', port: 1 }), { code: 'ENOENT' })
  })

  test('a sandbox stays while one of its gateways holds it, keeps its connections, and never gets a second tenant', async () => {
    await using far = await listenTcp()
    await using world = await startWorld({ opened: LOOPBACK })
    const other = {}
    const rules = [{ action: 'allow', to: '*', ports: [0, 65_535] }] as const
    await world.wayOut.attach(other, { sandbox: SANDBOX, tenant: 'acme', rules })
    await assert.rejects(world.wayOut.attach(other, { sandbox: SANDBOX, tenant: 'other', rules }), { code: 'forbidden' })
    const { socket } = await world.ask({ kind: 'connect', host: '127.0.0.1', port: far.port })
    socket.write(GO)
    world.wayOut.detach(world.relay, SANDBOX)
    socket.write('still there')
    const [said] = await once(socket.resume(), 'data')
    assert.equal(String(said), 'still there')
    world.wayOut.detach(other, SANDBOX)
    await once(
      socket.on('end', () => socket.destroy()),
      'close',
    )
    assert.equal(world.wayOut.served, 0)
  })

  test('a gateway that goes away has a while to come back', async () => {
    await using world = await startWorld({})
    world.wayOut.release(world.relay)
    await sleep(30)
    await world.wayOut.attach(world.relay, { sandbox: SANDBOX, tenant: 'acme', rules: [] })
    await sleep(120)
    assert.equal(world.wayOut.served, 1)
    world.wayOut.release(world.relay)
    await sleep(150)
    assert.equal(world.wayOut.served, 0)
  })

  test('a sandbox without a directory cannot be attached', async () => {
    await using world = await startWorld({})
    await assert.rejects(world.wayOut.attach(world, { sandbox: 'bbbbbbbbbbbb', tenant: 'acme', rules: [] }), { code: 'not_found' })
    assert.equal(world.wayOut.served, 1)
  })

  test('what is no request ends the connection, whatever it is', async () => {
    await using world = await startWorld({})
    const bad: (string | Buffer)[] = [
      'GET / HTTP/1.1\r\n\r\n',
      Buffer.from([0, 0, 0, 2, 0x7b, 0x7d]),
      Buffer.from([0xff, 0xff, 0xff, 0xff]),
      Buffer.from([0, 0, 0, 1, 0x21]),
    ]
    for (const bytes of bad) {
      const socket: Socket = connect(world.socketPath)
      socket.on('error', () => {})
      socket.write(bytes)
      await once(socket.resume(), 'close')
    }
    assert.deepEqual(world.events, [])
  })
})
