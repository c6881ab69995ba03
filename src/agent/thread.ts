/** The supervisor's hold on one worker thread. */
import { createLineCutter, createLineLimiter, cutLine } from './output.ts'
import { type FromThread, parseFromThread, type ToThread } from './thread-messages.ts'

const { MessageChannel, receiveMessageOnPort, Worker } = process.getBuiltinModule('node:worker_threads')

export interface Thread {
  readonly heapMib: number
  /** The kernel's number of it; 0 before it runs. */
  readonly task: number
  post(message: ToThread): void
  /** Ends the thread at once, whatever its code is doing. */
  terminate(): void
  /** Names the one who hears this thread from now on; what it said earlier is delivered then. */
  attach(listener: ThreadListener): void
}

export interface ThreadListener {
  /** Most output lines a second that are passed on. */
  readonly linesPerSecond: number
  onMessage(message: FromThread): void
  onExit(exit: { code: number; error: unknown }): void
}

export function startThread({ heapMib, egressPath }: { heapMib: number; egressPath: string }): Thread {
  const { port1: port, port2: theirs } = new MessageChannel()
  const thread = new Worker(new URL('./worker.ts', import.meta.url), {
    // Only the port: what the code may see of a worker's data must not be its own source and secrets.
    workerData: { port: theirs, egressPath },
    transferList: [theirs],
    resourceLimits: { maxOldGenerationSizeMb: heapMib, maxYoungGenerationSizeMb: Math.min(24, Math.max(6, Math.round(heapMib / 8))) },
    env: { NODE_ENV: 'production', HOME: '/tmp', TZ: 'UTC' },
    argv: [],
    // For checking the syntax of ES modules before they run.
    execArgv: ['--experimental-vm-modules'],
    stdin: false,
    stdout: true,
    stderr: true,
  })
  let error: unknown
  let task = 0
  // Said before any tenant code is there.
  port.once('message', (message: { task: number }) => (task = message.task))
  let exited: { code: number; error: unknown } | undefined
  let listener: ThreadListener | undefined
  let hear: ((value: unknown) => void) | undefined

  thread.on('error', (cause) => {
    error = cause
  })
  thread.on('exit', (code) => {
    // The last words of code that ended its process are still in the port.
    let last
    while ((last = receiveMessageOnPort(port))) hear?.(last.message)
    port.close()
    exited = { code, error }
    listener?.onExit(exited)
  })

  return {
    heapMib,
    get task() {
      return task
    },
    post(message) {
      if (!exited) port.postMessage(message)
    },
    terminate: () => void thread.terminate(),
    attach(next) {
      listener = next
      const relay = createRelay(next)
      hear = (value) => {
        const message = parseFromThread(value)
        if (message) relay(message)
      }
      port.on('message', hear)
      // Code that goes around the worker's own capture still ends up here.
      for (const level of ['info', 'error'] as const) {
        const cut = createLineCutter((line) => relay({ kind: 'output', gateway: null, request: null, level, line }))
        thread[level === 'info' ? 'stdout' : 'stderr'].on('data', (chunk) => cut(String(chunk)))
      }
      if (exited) next.onExit(exited)
    },
  }
}

/** Bounds output a second time: the worker's own limiter is within reach of the code that it limits. */
function createRelay(listener: ThreadListener): (message: FromThread) => void {
  const limiter = createLineLimiter(listener.linesPerSecond * 2)
  let timer: NodeJS.Timeout | undefined
  return (message) => {
    if (message.kind !== 'output') return listener.onMessage(message)
    if (limiter.admit(Date.now())) return listener.onMessage({ ...message, line: cutLine(message.line) })
    timer ??= setTimeout(() => {
      timer = undefined
      listener.onMessage({ kind: 'dropped', lines: limiter.takeDropped() })
    }, 1000).unref()
  }
}
