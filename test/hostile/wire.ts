import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { readAnswers, type Read } from './answers.ts'

/** What is written to a connection: bytes at once, or whatever a function does with the socket. */
export type Sent = string | Uint8Array | ((socket: Socket) => void | Promise<void>)

export interface WireResult extends Read {
  /** The other side closed the connection. */
  readonly closed: boolean
  /** Neither the awaited answers nor the end came in time. */
  readonly late: boolean
  readonly ms: number
}

export interface WireOptions {
  readonly port: number
  /** Longest time for all (ms). */
  readonly ms: number
  /** Stop listening when this many answers are there; more than these are looked for during `lingerMs`. */
  readonly answers?: number
  readonly lingerMs?: number
  readonly bodiless?: boolean
}

/** An answer that keeps growing is not read to its end (bytes). */
const MOST_BYTES = 32 * 2 ** 20

/** Says something to the front door on a connection of its own, and hears what comes back. Never rejects: a connection that breaks is an answer too. */
export async function say(sent: Sent, options: WireOptions): Promise<WireResult> {
  const { port, ms, answers: awaited = 1, lingerMs = 20, bodiless = false } = options
  const began = performance.now()
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
  const chunks: Buffer[] = []
  let bytes = 0
  let closed = false
  const over = Promise.withResolvers<'late' | 'enough' | 'closed'>()
  const deadline = setTimeout(over.resolve, ms, 'late')
  let linger: NodeJS.Timeout | undefined
  const text = () => Buffer.concat(chunks).toString('latin1')
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > MOST_BYTES) return over.resolve('enough')
    chunks.push(chunk)
    // Long answers are looked through once, at their end.
    if (linger === undefined && bytes < 2 ** 20 && readAnswers(text(), { ended: false, bodiless }).answers.length >= awaited)
      linger = setTimeout(over.resolve, lingerMs, 'enough')
  })
  for (const end of ['end', 'close', 'error'])
    socket.on(end, () => {
      closed = true
      over.resolve('closed')
    })
  try {
    if (typeof sent === 'function') {
      // Whatever cannot be written any more was refused in time.
      await Promise.race([once(socket, 'connect'), over.promise]).catch(() => {})
      void Promise.resolve(sent(socket)).catch(() => {})
    } else socket.write(sent)
    const how = await over.promise
    return { ...readAnswers(text(), { ended: closed, bodiless }), closed, late: how === 'late', ms: performance.now() - began }
  } finally {
    clearTimeout(deadline)
    clearTimeout(linger)
    socket.destroy()
  }
}
