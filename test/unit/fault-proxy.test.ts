import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startFaultProxy, type FaultProxy, type Place } from '../support/fault-proxy.ts'

/** A server that says everything back, behind a proxy on a port and one on a unix socket. */
async function echo(): Promise<AsyncDisposable & { proxies: readonly FaultProxy[] }> {
  await using held = new AsyncDisposableStack()
  const directory = await mkdtemp(path.join(os.tmpdir(), 'wt-fault-'))
  held.defer(() => rm(directory, { recursive: true, force: true }))
  const server = net.createServer({ allowHalfOpen: true }, (socket) => void socket.on('error', () => {}).pipe(socket))
  const target = { path: path.join(directory, 'echo.sock') }
  await once(server.listen(target.path), 'listening')
  held.defer(() => void server.close())
  const onPort = held.use(await startFaultProxy({ target }))
  const onFile = held.use(await startFaultProxy({ target: onPort.place, listen: { path: path.join(directory, 'proxy.sock') } }))
  const all = held.move()
  return { proxies: [onPort, onFile], [Symbol.asyncDispose]: () => all.disposeAsync() }
}

function connect(place: Place): net.Socket {
  const socket = net.connect({ ...place, allowHalfOpen: true })
  return socket.on('error', () => {})
}

/** Resolves when it is closed, with an error or without. */
function closing(socket: net.Socket): Promise<unknown> {
  // A unix socket, and an orderly end, close only when this side has ended too.
  socket.resume().once('end', () => socket.destroy())
  return new Promise((resolve) => socket.once('close', resolve))
}

/** Everything until the far end closes; undefined when nothing more comes within `ms`. */
async function heard(socket: net.Socket, bytes: number, ms = 2_000): Promise<string | undefined> {
  let text = ''
  const enough = Promise.withResolvers<void>()
  const listen = (chunk: Buffer) => {
    text += String(chunk)
    if (text.length >= bytes) enough.resolve()
  }
  socket.on('data', listen)
  const came = await Promise.race([enough.promise.then(() => true), sleep(ms, false)])
  socket.off('data', listen)
  return came ? text : undefined
}

test('without faults bytes and ends pass both ways, over a port and over a unix socket', async () => {
  await using world = await echo()
  for (const { place } of world.proxies) {
    const socket = connect(place)
    const sent = 'x'.repeat(3_000_000)
    const received = heard(socket, sent.length)
    socket.end(sent)
    assert.equal((await received)?.length, sent.length)
    await once(socket, 'end')
    socket.destroy()
  }
})

test('latency delays each piece and keeps the order', async () => {
  await using world = await echo()
  const [proxy] = world.proxies
  await proxy!.set({ latencyMs: 60, jitterMs: 20 })
  const socket = connect(proxy!.place)
  const began = performance.now()
  const received = heard(socket, 200)
  for (let i = 0; i < 100; i += 1) socket.write(String(i).padStart(2, '0'))
  assert.equal(await received, Array.from({ length: 100 }, (_, i) => String(i).padStart(2, '0')).join(''))
  const ms = performance.now() - began
  assert.ok(ms >= 118 && ms < 1_000, `${ms} ms`)
  socket.destroy()
})

test('what is late still arrives after both ends have said all', async () => {
  await using world = await echo()
  for (const proxy of world.proxies) {
    await proxy.set({ latencyMs: 50 })
    const socket = connect(proxy.place)
    const received = heard(socket, 7)
    socket.end('goodbye')
    assert.equal(await received, 'goodbye')
    socket.destroy()
  }
})

test('while it is stalled no byte passes, and afterwards none is missing', async () => {
  await using world = await echo()
  const [proxy] = world.proxies
  await proxy!.set({ stalled: true })
  const socket = connect(proxy!.place)
  await once(socket, 'connect')
  socket.write('hello')
  assert.equal(await heard(socket, 5, 150), undefined)
  await proxy!.heal()
  assert.equal(await heard(socket, 5), 'hello')
  socket.destroy()
})

test('a reset breaks the connections that exist, and new ones work', async () => {
  await using world = await echo()
  for (const proxy of world.proxies) {
    const socket = connect(proxy.place)
    socket.write('hello')
    assert.equal(await heard(socket, 5), 'hello')
    assert.equal(proxy.connections, 1)
    const closed = closing(socket)
    proxy.reset()
    await closed
    assert.equal(proxy.connections, 0)
    const again = connect(proxy.place)
    again.write('again')
    assert.equal(await heard(again, 5), 'again')
    again.destroy()
  }
})

test('while it refuses nobody can connect, and what is connected stays', async () => {
  await using world = await echo()
  for (const proxy of world.proxies) {
    const before = connect(proxy.place)
    await once(before, 'connect')
    await proxy.set({ refusing: true })
    const [error] = (await once(net.connect({ ...proxy.place }), 'error')) as [NodeJS.ErrnoException]
    assert.equal(error.code, 'ECONNREFUSED')
    before.write('still')
    assert.equal(await heard(before, 5), 'still')
    before.destroy()
    await proxy.set({ refusing: false })
    const after = connect(proxy.place)
    after.write('after')
    assert.equal(await heard(after, 5), 'after')
    after.destroy()
  }
})

test('bandwidth is limited', async () => {
  await using world = await echo()
  const [proxy] = world.proxies
  await proxy!.set({ bytesPerSecond: 100_000 })
  const socket = connect(proxy!.place)
  const began = performance.now()
  const received = heard(socket, 30_000)
  socket.write('x'.repeat(30_000))
  assert.equal((await received)?.length, 30_000)
  const ms = performance.now() - began
  assert.ok(ms > 250 && ms < 1_500, `${ms} ms`)
  socket.destroy()
})

test('an answer is lost or cut off although the request has arrived', async () => {
  const asked: string[] = []
  await using held = new AsyncDisposableStack()
  const server = net.createServer((socket) =>
    socket
      .on('error', () => {})
      .on('data', (bytes) => {
        asked.push(String(bytes))
        socket.write('done')
      }),
  )
  await once(server.listen(0, '127.0.0.1'), 'listening')
  held.defer(() => void server.close())
  const proxy = held.use(await startFaultProxy({ target: { port: (server.address() as net.AddressInfo).port } }))
  await proxy.set({ answers: 'lost' })
  const lost = connect(proxy.place)
  lost.write('one')
  assert.equal(await heard(lost, 1, 150), undefined)
  assert.equal(lost.closed, false)
  lost.destroy()
  await proxy.set({ answers: 'cut' })
  const cut = connect(proxy.place)
  cut.write('two')
  await closing(cut)
  assert.deepEqual(asked, ['one', 'two'])
})

test('when the target is away a connection ends at once', async () => {
  await using proxy = await startFaultProxy({ target: { path: '/nowhere/at.all' } })
  const socket = connect(proxy.place)
  await closing(socket)
  assert.equal(proxy.connections, 0)
})
