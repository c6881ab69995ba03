import { once } from 'node:events'
import net from 'node:net'
import type { Deployment } from '../support/deployment.ts'
import { HELLO } from './row.ts'

/** What one of a crowd saw: whether its answer was 200, and when it came (ms). */
export interface Seen {
  readonly ok: boolean
  readonly ms: number
}

/** Callers whose requests are written down and whose connections stand before the clock starts: they take next to no processor time from what is measured. */
export interface Crowd extends Disposable {
  /** All run a small webtask of that tenant, at the same moment. */
  ask(tenant: string, size: number): Promise<Seen[]>
}

export async function gatherCrowd(deployment: Deployment, most: number): Promise<Crowd> {
  const port = Number(new URL(deployment.url).port)
  const sockets = Array.from({ length: most }, () => net.connect(port, '127.0.0.1'))
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  return {
    ask(tenant, size) {
      const head = `POST /api/run/${tenant} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${deployment.master}\r\ncontent-length: ${HELLO.length}\r\n\r\n`
      const request = Buffer.from(head + HELLO)
      const began = performance.now()
      return Promise.all(
        sockets.slice(0, size).map(async (socket): Promise<Seen> => {
          socket.write(request)
          // An answer this small comes in one piece.
          const [answer] = (await once(socket, 'data')) as [Buffer]
          return { ok: answer.toString('latin1').startsWith('HTTP/1.1 200 '), ms: performance.now() - began }
        }),
      )
    },
    [Symbol.dispose]() {
      for (const socket of sockets) socket.destroy()
    },
  }
}
