/**
 * The agent's main thread: obeys the gateways, starts and ends worker threads, carries their words. It is not on the
 * data path, so a request never waits for it.
 */
import type { FromAgent, ToAgent, WorkerEnd } from '../protocol/messages.ts'
import { killChildren } from './children.ts'
import { type Gateway, watchRendezvous } from './rendezvous.ts'
import type { FromThread } from './thread-messages.ts'
import { startThread, type Thread } from './thread.ts'

/** One life of one worker. A key has at most one current incarnation, beside older ones on their way out. */
interface Incarnation {
  readonly worker: string
  readonly run: number
  readonly thread: Thread
  /** Those who asked for it, hence those who are told what becomes of it. */
  readonly gateways: Set<Gateway>
  readonly startedAt: number
  state: 'loading' | 'ready' | 'refused' | 'ending'
  tainted: boolean
  loadMs: number
  terminator: NodeJS.Timeout | undefined
}

export interface SupervisorOptions {
  readonly rendezvousDir: string
  readonly packagesDir: string
  /** Heap of a thread kept booted for the first `load` (MiB); 0 keeps none. */
  readonly spareHeapMib: number
  /** The way out. */
  readonly egressPath: string
}

export function startSupervisor({ rendezvousDir, packagesDir, spareHeapMib, egressPath }: SupervisorOptions): void {
  const gateways = new Map<string, Gateway>()
  const incarnations = new Set<Incarnation>()
  const calls = new Map<number, { incarnation: Incarnation; gateway: Gateway; call: number }>()
  let runs = 0
  let callNumber = 0
  let spare: Thread | undefined

  // Before anything else: it boots on a processor of its own while the gateway hears of the sandbox.
  if (spareHeapMib > 0) spare = startThread({ heapMib: spareHeapMib, egressPath })
  watchRendezvous(rendezvousDir, {
    onOpen(gateway) {
      gateways.set(gateway.name, gateway)
    },
    onFrame(gateway, frame) {
      const message = frame as ToAgent
      if (message.kind === 'load') load(gateway, message)
      else if (message.kind === 'end') end(message)
      else if (message.kind === 'widen')
        find(message.worker, message.run)?.thread.post({ kind: 'widen', gateway: gateway.name, connections: message.connections })
      else if (message.kind === 'reply') reply(gateway, message)
    },
    onClose(gateway) {
      gateways.delete(gateway.name)
      for (const [number, call] of calls) {
        if (call.gateway !== gateway) continue
        calls.delete(number)
        call.incarnation.thread.post({ kind: 'reply', call: call.call, ok: false, text: 'The gateway is gone' })
      }
      for (const incarnation of incarnations) {
        incarnation.gateways.delete(gateway)
        incarnation.thread.post({ kind: 'hangup', gateway: gateway.name })
      }
    },
  })

  /** `run` 0 stands for whichever incarnation is current: a gateway has no number yet for one that never loads. */
  function find(worker: string, run: number): Incarnation | undefined {
    for (const incarnation of incarnations) {
      if (incarnation.worker !== worker) continue
      if (run === 0 ? isHealthy(incarnation) : incarnation.run === run) return incarnation
    }
    return undefined
  }

  function load(gateway: Gateway, { worker, source, limits }: Extract<ToAgent, { kind: 'load' }>): void {
    const healthy = find(worker, 0)
    let incarnation: Incarnation
    try {
      incarnation = healthy ?? start(worker, limits.heapMib)
    } catch (error) {
      // Out of threads or of memory for one more.
      return gateway.send({ kind: 'gone', worker, run: ++runs, end: 'unstarted', message: `Cannot start a worker: ${String(error)}` })
    }
    incarnation.gateways.add(gateway)
    if (!healthy) {
      const { run, thread } = incarnation
      thread.post({ kind: 'load', worker, run, source, limits, packagesDir })
      thread.attach({
        linesPerSecond: limits.logLinesPerSecond,
        onMessage: (message) => hear(incarnation, message),
        onExit: ({ code, error }) => bury(incarnation, { code, error }),
      })
    }
    incarnation.thread.post({ kind: 'dial', gateway: gateway.name, path: gateway.path })
  }

  function start(worker: string, heapMib: number): Incarnation {
    const thread = spare?.heapMib === heapMib ? spare : startThread({ heapMib, egressPath })
    if (thread === spare) spare = undefined
    const startedAt = performance.now()
    const incarnation: Incarnation = {
      worker,
      run: ++runs,
      thread,
      gateways: new Set(),
      startedAt,
      state: 'loading',
      tainted: false,
      loadMs: 0,
      terminator: undefined,
    }
    incarnations.add(incarnation)
    return incarnation
  }

  function end({ worker, run, graceMs }: Extract<ToAgent, { kind: 'end' }>): void {
    const incarnation = find(worker, run)
    if (!incarnation || incarnation.state === 'refused') return
    // A second `end` may shorten the grace.
    clearTimeout(incarnation.terminator)
    incarnation.state = 'ending'
    if (!(graceMs > 0)) return incarnation.thread.terminate()
    incarnation.terminator = setTimeout(incarnation.thread.terminate, graceMs)
    incarnation.thread.post({ kind: 'drain' })
  }

  function reply(gateway: Gateway, message: Extract<ToAgent, { kind: 'reply' }>): void {
    const call = calls.get(message.call)
    if (call?.gateway !== gateway) return
    calls.delete(message.call)
    call.incarnation.thread.post({ kind: 'reply', call: call.call, ok: message.ok, text: message.ok ? message.value : message.message })
  }

  function hear(incarnation: Incarnation, message: FromThread): void {
    const { worker, run } = incarnation
    if (message.kind === 'dialled') {
      const gateway = gateways.get(message.gateway)
      if (incarnation.state === 'loading') {
        incarnation.state = 'ready'
        incarnation.loadMs = Math.round(performance.now() - incarnation.startedAt)
      }
      if (gateway && incarnation.gateways.has(gateway) && incarnation.state === 'ready')
        gateway.send({ kind: 'loaded', worker, run, ms: incarnation.loadMs })
    } else if (message.kind === 'refused') {
      if (incarnation.state !== 'loading') return
      incarnation.state = 'refused'
      tell(incarnation, { kind: 'refused', worker, run, failure: message.failure })
      incarnation.thread.terminate()
    } else if (message.kind === 'tainted') {
      if (incarnation.tainted) return
      incarnation.tainted = true
      tell(incarnation, { kind: 'tainted', worker, run })
    } else if (message.kind === 'drained') {
      if (incarnation.state === 'ending') incarnation.thread.terminate()
    } else if (message.kind === 'output') {
      // Exactly one gateway logs a line: the one whose request printed it, or any.
      const { request, level, line } = message
      heard(message.gateway)?.offer({ kind: 'output', worker, request, level, line })
    } else if (message.kind === 'dropped') {
      heard(null)?.offer({ kind: 'dropped', worker, lines: message.lines })
    } else {
      const gateway = gateways.get(message.gateway)
      if (!gateway) return incarnation.thread.post({ kind: 'reply', call: message.call, ok: false, text: 'The gateway is gone' })
      calls.set(++callNumber, { incarnation, gateway, call: message.call })
      gateway.send({ kind: 'call', call: callNumber, worker, request: message.request, op: 'create_token', claims: message.claims })
    }
  }

  function heard(name: string | null): Gateway | undefined {
    return (name === null ? undefined : gateways.get(name)) ?? gateways.values().next().value
  }

  function bury(incarnation: Incarnation, exit: { code: number; error: unknown }): void {
    clearTimeout(incarnation.terminator)
    incarnations.delete(incarnation)
    for (const [number, call] of calls) if (call.incarnation === incarnation) calls.delete(number)
    killChildren(new Set([spare, ...[...incarnations].map(({ thread }) => thread)].map((thread) => thread?.task ?? 0)))
    if (incarnation.state === 'refused') return
    const { worker, run } = incarnation
    tell(incarnation, { kind: 'gone', worker, run, ...causeOfEnd(incarnation, exit) })
  }
}

const isHealthy = (incarnation: Incarnation): boolean => !incarnation.tainted && (incarnation.state === 'loading' || incarnation.state === 'ready')

function tell(incarnation: Incarnation, frame: FromAgent): void {
  for (const gateway of incarnation.gateways) gateway.send(frame)
}

function causeOfEnd({ state, thread }: Incarnation, { code, error }: { code: number; error: unknown }): { end: WorkerEnd; message: string } {
  if (state === 'ending') return { end: 'ended', message: '' }
  if (error === undefined) return { end: 'exit', message: `The code ended its process with exit code ${code}` }
  if ((error as { code?: unknown } | null)?.code === 'ERR_WORKER_OUT_OF_MEMORY') {
    return { end: 'memory', message: `The code ran over its memory limit of ${thread.heapMib} MiB` }
  }
  if ((error as { code?: unknown } | null)?.code === 'ERR_WORKER_INIT_FAILED')
    return { end: 'unstarted', message: `Cannot start a worker: ${String(error)}` }
  const message = error instanceof Error ? error.message : 'The code ended its thread with something that is not an error'
  return { end: 'error', message: message.slice(0, 1000) }
}
