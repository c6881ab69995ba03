/**
 * Carries what the code prints to the supervisor. Everything printed ends in a write to one of two streams (`console`
 * is made of such writes), so the streams are where it is caught.
 */
import { createLineCutter, createLineLimiter, cutLine } from './output.ts'
import { currentRequest } from './request.ts'
import type { OutputLine } from './thread-messages.ts'

type Level = OutputLine['level']
type Post = (message: OutputLine | { kind: 'dropped'; lines: number }) => void
/** How long a flood waits before it is counted (milliseconds). */
const DROPPED_EVERY_MS = 1000

let emit: (level: Level, line: string) => void = () => {}

/** A line of ours about the running request, among its own lines. */
export function logLine(level: Level, line: string): void {
  emit(level, line)
}

export function captureOutput(post: Post, linesPerSecond: number): void {
  const limiter = createLineLimiter(linesPerSecond)
  let timer: NodeJS.Timeout | undefined
  emit = (level, line) => {
    // Dropped here, not only in the supervisor: a flood must not pile up in its queue.
    if (!limiter.admit(performance.now())) {
      timer ??= setTimeout(() => {
        timer = undefined
        post({ kind: 'dropped', lines: limiter.takeDropped() })
      }, DROPPED_EVERY_MS).unref()
      return
    }
    const request = currentRequest()
    post({ kind: 'output', gateway: request?.gateway ?? null, request: request?.id ?? null, level, line: cutLine(line) })
  }
  catchWrites(process.stdout, 'info')
  catchWrites(process.stderr, 'error')
  // Warnings would go to the thread's real standard error, where nobody reads them.
  process.removeAllListeners('warning')
  process.on('warning', (warning) => {
    if (!/stripTypeScriptTypes|VM Modules/.test(warning.message)) emit('error', `${warning.name}: ${warning.message}`)
  })
}

function catchWrites(stream: NodeJS.WriteStream, level: Level): void {
  const cut = createLineCutter((line) => emit(level, line))
  const write = (chunk: unknown, encodingOrDone?: unknown, done?: unknown): boolean => {
    cut(
      typeof chunk === 'string'
        ? chunk
        : chunk instanceof Uint8Array
          ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength).toString()
          : String(chunk),
    )
    const callback = typeof encodingOrDone === 'function' ? encodingOrDone : done
    if (typeof callback === 'function') process.nextTick(callback as () => void)
    return true
  }
  stream.write = write as typeof stream.write
}
