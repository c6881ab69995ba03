import type net from 'node:net'
import { createFrameReader, encodeFrame, MAX_FRAME_TO_GATEWAY } from '../protocol/frame.ts'
import { parseFromAgent, type FromAgent, type ToAgent } from '../protocol/messages.ts'
import { createBudget } from './budget.ts'

type Call = Extract<FromAgent, { kind: 'call' }>
type Output = Extract<FromAgent, { kind: 'output' | 'dropped' }>
type Other = Exclude<FromAgent, Call | Output | { kind: 'hello' }>

/**
 * What one sandbox may say in a second. Its agent shares the process with tenant code, so all of it is the tenant's word, and
 * hearing it costs time that belongs to everybody.
 */
const WORDS_BYTES = 4 * 1024 * 1024
/** After so many bytes others have their turn first: hearing them takes a millisecond at most. */
const TURN_BYTES = 16_384
const CALLS = 100
/** What an agent may leave unread (bytes): more than the largest code with its secrets. */
const UNREAD_BYTES = 64 * 1024 * 1024
const SECOND_MS = 1_000

/** The gateway's end of an agent's control connection: what comes is bounded and parsed, what goes must be read. */
export interface Control extends Disposable {
  send(message: ToAgent): void
}

export interface ControlEvents {
  heard(message: Other): void
  output(output: Output): void
  /** Answers a question of tenant code; the result or error text goes back to it. */
  call(call: Call): Promise<{ ok: true; value: string } | { ok: false; message: string }>
  /** It said what no agent says. */
  misbehaved(reason: string): void
  closed(): void
}

/** Takes over a connection whose hello was read. `linesPerSecond` of output pass; the rest is counted and told as dropped. */
export function openControl(socket: net.Socket, options: { linesPerSecond: number; on: ControlEvents }): Control {
  const { on } = options
  const reader = createFrameReader(MAX_FRAME_TO_GATEWAY)
  const words = createBudget(WORDS_BYTES)
  const lines = createBudget(options.linesPerSecond)
  const calls = createBudget(CALLS)
  let dropped = 0

  const tally = setInterval(() => {
    if (dropped > 0) on.output({ kind: 'dropped', worker: '', lines: dropped })
    dropped = 0
  }, SECOND_MS).unref()

  function send(message: ToAgent): void {
    if (socket.writableLength > UNREAD_BYTES) {
      on.misbehaved('It does not read')
      socket.destroy()
    } else socket.write(encodeFrame(message))
  }

  function take(message: FromAgent | undefined): void {
    if (message === undefined) return on.misbehaved('An unknown message')
    switch (message.kind) {
      case 'hello':
        return on.misbehaved('A second hello')
      case 'dropped':
        dropped += message.lines
        return
      case 'output':
        if (lines.take(1, performance.now())) on.output(message)
        else dropped += 1
        return
      case 'call': {
        const { call } = message
        if (!calls.take(1, performance.now())) return send({ kind: 'reply', call, ok: false, message: `More than ${CALLS} questions a second` })
        void on.call(message).then((answer) => send({ kind: 'reply', call, ...answer }))
        return
      }
      default:
        return on.heard(message)
    }
  }

  socket.on('data', (chunk: Buffer) => {
    if (!words.take(chunk.length, performance.now())) {
      // This chunk is still heard; the next waits in the sandbox.
      socket.pause()
      setTimeout(() => socket.resume(), words.wait(performance.now())).unref()
    } else if (chunk.length >= TURN_BYTES) {
      socket.pause()
      setImmediate(() => socket.resume())
    }
    try {
      for (const value of reader.push(chunk)) take(parseFromAgent(value))
    } catch (error) {
      on.misbehaved((error as Error).message)
      socket.destroy()
    }
  })
  socket.on('error', () => {
    // 'close' follows.
  })
  socket.once('close', () => {
    clearInterval(tally)
    on.closed()
  })
  return { send, [Symbol.dispose]: () => void socket.destroy() }
}
