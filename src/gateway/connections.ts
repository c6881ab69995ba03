import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** A connection must have been quiet for so long before it is closed under a caller (ms). */
const QUIET_MS = 1_000
const SWEEP_MS = 50

/** The connections of callers, and which of them can be closed without a request lost. */
export interface Connections {
  opened(socket: Socket): void
  answering(socket: Socket, outgoing: ServerResponse): void
  /** From now on every answer says that its connection closes, and quiet ones are closed. Disposing ends the sweep. */
  close(): Disposable
}

export function createConnections(): Connections {
  /** How many requests each has, the last of them, and since when none. */
  const connections = new Map<Socket, { busy: number; last: ServerResponse | undefined; quietSince: number }>()
  let isClosing = false

  return {
    opened(socket) {
      connections.set(socket, { busy: 0, last: undefined, quietSince: performance.now() })
      socket.once('close', () => connections.delete(socket))
    },
    answering(socket, outgoing) {
      if (isClosing) outgoing.shouldKeepAlive = false
      const connection = connections.get(socket)
      if (connection === undefined) return
      connection.busy += 1
      connection.last = outgoing
      outgoing.once('close', () => {
        connection.busy -= 1
        if (connection.last === outgoing) connection.last = undefined
        connection.quietSince = performance.now()
      })
    },
    close() {
      isClosing = true
      const began = performance.now()
      // One whose header is sent already is closed when it is quiet.
      for (const { last } of connections.values()) if (last !== undefined) last.shouldKeepAlive = false
      const sweep = setInterval(() => {
        const now = performance.now()
        for (const [socket, { busy, quietSince }] of connections) if (busy === 0 && now - Math.max(quietSince, began) >= QUIET_MS) socket.destroy()
      }, SWEEP_MS)
      return { [Symbol.dispose]: () => clearInterval(sweep) }
    },
  }
}
