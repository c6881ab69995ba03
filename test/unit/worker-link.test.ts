import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { createWorkerLink } from '../../src/sandbox/worker-link.ts'

/** Both ends of a connection as a worker dials it. */
async function socketPairs(): Promise<AsyncDisposable & { pair(): Promise<{ ours: net.Socket; worker: net.Socket }> }> {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'wt-link-'))
  const server = net.createServer().listen(path.join(dir, 's.sock'))
  await once(server, 'listening')
  const opened: net.Socket[] = []
  return {
    async pair() {
      const arriving = once(server, 'connection') as Promise<[net.Socket]>
      const worker = net.connect(path.join(dir, 's.sock'))
      const [ours] = await arriving
      opened.push(ours, worker)
      return { ours, worker }
    },
    async [Symbol.asyncDispose]() {
      for (const socket of opened) socket.destroy()
      server.close()
      await rm(dir, { recursive: true, force: true })
    },
  }
}

const never = () => new AbortController().signal

test('after connections went away the worker is asked for them again', async () => {
  await using sockets = await socketPairs()
  const asked: number[] = []
  const link = createWorkerLink({ key: 'w', run: 1, maxHeaderBytes: 16_384, now: Date.now, widen: (connections) => asked.push(connections) })
  const first = link.connect(never)
  const second = link.connect(never)
  assert.deepEqual(asked, [1, 2])
  const [one, two] = [await sockets.pair(), await sockets.pair()]
  link.arrived(one.ours)
  link.arrived(two.ours)
  ;(await first).release()
  ;(await second).release()

  // The burst is over, and the worker gives one of them up.
  const gone = once(two.ours, 'close')
  two.ours.resume()
  two.worker.destroy()
  await gone
  const third = await link.connect(never)
  const fourth = link.connect(never)
  assert.deepEqual(asked, [1, 2, 2], 'the next burst needs two once more')
  link.arrived((await sockets.pair()).ours)
  ;(await fourth).destroy()
  third.destroy()
})
