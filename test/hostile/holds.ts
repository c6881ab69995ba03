import { connect } from 'node:net'
import type { Heard } from './arena.ts'

/** Ways to hold a connection of the front door without ever finishing a request. */
const WAYS: Readonly<Record<string, { readonly begin: string; readonly drip: string }>> = {
  'saying nothing': { begin: '', drip: '' },
  'a header that stops': { begin: 'GET / HTTP/1.1\r\nHost: x\r\nX: ', drip: '' },
  'a header that drips': { begin: 'GET / HTTP/1.1\r\nHost: x\r\nX: ', drip: 'y' },
  'a request line that drips': { begin: 'GET /', drip: 'a' },
  'a body that nobody reads and that stops': { begin: 'POST $ECHO HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n', drip: '' },
  'a body that nobody reads and that drips': { begin: 'POST $ECHO HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n', drip: 'y' },
  'chunks that drip': { begin: 'POST $ECHO HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n', drip: '1\r\ny\r\n' },
}
const EACH = 20
const DRIP_MS = 1_000
/** The front door must have closed all of them after so long (ms): its limit for headers and the pause between two looks at it. */
const HELD_MS = 30_000

/** Holds many connections of each kind while other things happen; the result tells which of them the front door still keeps. */
export function holdConnections(port: number, fill: (text: string) => string): () => Promise<Heard> {
  const began = performance.now()
  const held = Object.entries(WAYS).flatMap(([way, { begin, drip }]) =>
    Array.from({ length: EACH }, () => {
      const socket = connect(port, '127.0.0.1')
      const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
      socket.on('error', () => {}).resume()
      socket.write(fill(begin))
      const timer = setInterval(() => drip !== '' && socket.writable && socket.write(drip), DRIP_MS)
      void closed.then(() => clearInterval(timer))
      return { way, socket, closed }
    }),
  )
  return async () => {
    const deadline = new AbortController()
    const left = Math.max(0, HELD_MS - (performance.now() - began))
    const timer = setTimeout(() => deadline.abort(), left)
    const late = new Promise<void>((resolve) => deadline.signal.addEventListener('abort', () => resolve()))
    if (left > 0) await Promise.race([Promise.all(held.map(({ closed }) => closed)), late])
    clearTimeout(timer)
    const kept = held.filter(({ socket }) => !socket.closed)
    for (const { socket } of kept) socket.destroy()
    const ways = new Set(kept.map(({ way }) => way))
    return {
      heard: `${held.length - kept.length} of ${held.length} closed`,
      problems: [...ways].map((way) => `still open after ${HELD_MS / 1000} s: ${kept.filter((one) => one.way === way).length} with ${way}`),
    }
  }
}
