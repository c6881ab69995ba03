import type net from 'node:net'
import { WebtaskError } from '../errors.ts'
import type { Log } from '../log.ts'
import { PROTOCOL_VERSION, type FromAgent, type ToAgent, type WebtaskSource, type WorkerLimits } from '../protocol/messages.ts'
import { createBudget } from './budget.ts'
import { openControl, type Control, type ControlEvents } from './control.ts'
import { createLoads, END_SLACK_MS, SandboxLost } from './loads.ts'
import { listenRendezvous } from './rendezvous.ts'
import type { EndCause } from './sandbox.ts'
import { createWorkerLink, type WorkerLink } from './worker-link.ts'

export type AgentCall = Extract<FromAgent, { kind: 'call' }>
export type AgentOutput = Extract<FromAgent, { kind: 'output' | 'dropped' }>

export interface AgentLinkOptions {
  readonly id: string
  readonly directory: string
  readonly gateway: string
  readonly workersMax: number
  readonly workerLimits: WorkerLimits
  readonly maxHeaderBytes: number
  /** How long code may take to load (ms). */
  readonly loadMs: number
  readonly now: () => number
  readonly log: Log
  readonly on: {
    output(output: AgentOutput): void
    /** Answers code that asks for a token while its request runs, by the token of that request; the result or error text goes back to it. */
    call(call: AgentCall, token: string | null): Promise<string>
    /** The agent did not end a worker in time: the container must go. */
    stuck(): void
    /** No worker can be started there any more, for want of processes or memory: the container must be replaced. */
    exhausted(): void
    /** It keeps breaking the protocol, which no agent of ours does: the container must go. */
    hostile(): void
  }
}

/** The gateway's end of one sandbox: its control connection and its workers. */
export interface AgentLink extends AsyncDisposable {
  readonly id: string
  readonly connected: boolean
  /** Resolves when the agent has dialled in; rejects when `signal` aborts or the sandbox ends first. */
  whenConnected(signal: AbortSignal): Promise<void>
  /** The worker that takes requests for this webtask, if it is loaded. */
  worker(key: string): WorkerLink | undefined
  /** Loads the webtask, once for all who ask at the same time. Throws WebtaskRefused when the code does not load. */
  load(key: string, source: WebtaskSource): Promise<WorkerLink>
  /** Ends a worker: no new requests, the running ones have `graceMs`. */
  endWorker(worker: WorkerLink, graceMs: number): void
  /** The sandbox ended; what still runs there learns the cause. */
  finish(cause: EndCause): void
  /** How the sandbox ended, once it has. */
  readonly ended: Promise<EndCause>
}

/** Breaches of the protocol in a second that end a sandbox; a worker that was ended may still dial all its connections. */
const BREACHES = 1_000
/** Requests beside the one that threw may finish: a second, like those beside one that timed out. */
const TAINTED_GRACE_MS = 1_000

export async function openAgentLink(options: AgentLinkOptions): Promise<AgentLink> {
  const { on, now, log } = options
  const workers = new Map<string, WorkerLink>()
  /** Every incarnation whose end has not been seen: late words find the right one. */
  const incarnations = new Map<string, WorkerLink>()
  const arrivals = new Set<() => void>()
  const ended = Promise.withResolvers<EndCause>()
  let finished: EndCause | undefined
  let control: Control | undefined

  const loads = createLoads({
    loadMs: options.loadMs,
    heapMib: options.workerLimits.heapMib,
    loaded(key, run) {
      const worker = workerLink(key, run)
      workers.set(key, worker)
      return worker
    },
    // Run 0 is whichever is loading: it has not told its number.
    overdue: (key) => send({ kind: 'end', worker: key, run: 0, graceMs: 0 }),
    stuck: () => on.stuck(),
  })

  const incarnation = (key: string, run: number) => `${key}#${run}`

  const breaches = createBudget(BREACHES)

  function send(message: ToAgent): void {
    control?.send(message)
  }

  function workerLink(key: string, run: number): WorkerLink {
    const name = incarnation(key, run)
    let link = incarnations.get(name)
    if (link === undefined) {
      link = createWorkerLink({
        key,
        run,
        maxHeaderBytes: options.maxHeaderBytes,
        now,
        widen: (connections) => send({ kind: 'widen', worker: key, run, connections }),
      })
      incarnations.set(name, link)
    }
    return link
  }

  function misbehaved(reason: string): void {
    if (finished !== undefined) return
    if (!breaches.take(1, performance.now())) return on.hostile()
    log.debug({ sandbox: options.id, reason }, 'sandbox.misbehaved')
  }

  function received(message: Parameters<ControlEvents['heard']>[0]): void {
    switch (message.kind) {
      case 'loaded': {
        if (!loads.loaded(message.worker, message.run)) return misbehaved('Loaded what nobody asked for')
        log.debug({ sandbox: options.id, worker: message.worker, ms: message.ms }, 'worker.loaded')
        return
      }
      case 'refused':
        return loads.refused(message.worker, message.failure)
      case 'tainted': {
        const worker = workers.get(message.worker)
        if (worker?.run === message.run) endWorker(worker, TAINTED_GRACE_MS)
        return
      }
      case 'gone': {
        loads.gone(message.worker, message.run, message.end)
        const worker = incarnations.get(incarnation(message.worker, message.run))
        incarnations.delete(incarnation(message.worker, message.run))
        if (workers.get(message.worker) === worker) workers.delete(message.worker)
        if (message.end === 'unstarted') return on.exhausted()
        worker?.finish(message.end)
        return
      }
    }
  }

  function controlArrived(socket: net.Socket): void {
    // The agent was first, before there was any tenant code: whoever else says that it is the agent is not.
    if (control !== undefined) {
      misbehaved('A second agent')
      return void socket.destroy()
    }
    control = openControl(socket, {
      // Somewhat more than an agent of ours lets through.
      linesPerSecond: 2 * options.workerLimits.logLinesPerSecond,
      on: {
        heard: received,
        output: on.output,
        call: (call) =>
          answer(call).then(
            (value) => ({ ok: true, value }),
            (error: Error) => ({ ok: false, message: error instanceof WebtaskError ? error.message : 'The platform could not answer' }),
          ),
        misbehaved,
        closed() {
          control = undefined
          // Its workers' connections close with it; requests running there learn the cause from the sandbox's end.
          loads.lost('The sandbox lost its connection while loading the code')
          forgetWorkers()
        },
      },
    })
    log.debug({ sandbox: options.id }, 'sandbox.connected')
    for (const arrived of arrivals) arrived()
  }

  async function answer(call: AgentCall): Promise<string> {
    for (const worker of incarnations.values()) {
      const running = worker.key === call.worker ? worker.running(call.request) : undefined
      if (running !== undefined) return on.call(call, running.token)
    }
    throw new WebtaskError('forbidden', 'A token can be created only while the request that asks for it runs')
  }

  function makeRoom(): void {
    if (workers.size < options.workersMax) return
    const idle = [...workers.values()].filter((worker) => worker.busy === 0).sort((a, b) => a.usedAt - b.usedAt)[0]
    if (idle !== undefined) return endWorker(idle, 0)
    if (workers.size >= 2 * options.workersMax)
      throw new WebtaskError('quota_exceeded', `The tenant has ${workers.size} webtasks running at once; wait for one to finish`, {
        retryAfterSeconds: 1,
      })
  }

  function load(key: string, source: WebtaskSource): Promise<WorkerLink> {
    const underway = loads.underway(key)
    if (underway !== undefined) return underway
    if (control === undefined) return Promise.reject(new SandboxLost('The sandbox is not connected'))
    makeRoom()
    send({ kind: 'load', worker: key, source, limits: options.workerLimits })
    return loads.expect(key)
  }

  /** They hung up with the agent. One that lives on is loaded anew, and found running. */
  function forgetWorkers(): void {
    for (const worker of incarnations.values()) worker.finish(undefined)
    incarnations.clear()
    workers.clear()
  }

  function endWorker(worker: WorkerLink, graceMs: number): void {
    worker.close()
    if (workers.get(worker.key) === worker) workers.delete(worker.key)
    send({ kind: 'end', worker: worker.key, run: worker.run, graceMs })
    const timer = setTimeout(() => on.stuck(), graceMs + END_SLACK_MS)
    void Promise.race([worker.gone, ended.promise]).then(() => clearTimeout(timer))
  }

  function finish(cause: EndCause): void {
    if (finished !== undefined) return
    finished = cause
    ended.resolve(cause)
    control?.[Symbol.dispose]()
    loads.lost('The sandbox ended while loading the code')
    forgetWorkers()
    for (const arrived of arrivals) arrived()
  }

  const rendezvous = await listenRendezvous({
    directory: options.directory,
    gateway: options.gateway,
    on: {
      misbehaved,
      arrived(hello, socket) {
        if (hello.role === 'worker') {
          // Only what we asked for: otherwise tenant code could fill our memory with invented workers.
          if (loads.underway(hello.worker) !== undefined || incarnations.has(incarnation(hello.worker, hello.run)))
            return workerLink(hello.worker, hello.run).arrived(socket)
          misbehaved('A worker that nobody asked for')
          return void socket.destroy()
        }
        if (hello.version === PROTOCOL_VERSION) return controlArrived(socket)
        misbehaved(`Protocol version ${hello.version} instead of ${PROTOCOL_VERSION}`)
        socket.destroy()
      },
    },
  })

  return {
    id: options.id,
    get connected() {
      return control !== undefined
    },
    ended: ended.promise,
    whenConnected(signal) {
      return new Promise((resolve, reject) => {
        const settle = () => {
          if (control === undefined && finished === undefined && !signal.aborted) return
          arrivals.delete(settle)
          signal.removeEventListener('abort', settle)
          if (control !== undefined) resolve()
          else
            reject(
              signal.aborted
                ? (signal.reason as Error)
                : new WebtaskError('unavailable', 'The sandbox ended before it was ready', { retryAfterSeconds: 1 }),
            )
        }
        arrivals.add(settle)
        signal.addEventListener('abort', settle)
        settle()
      })
    },
    worker(key) {
      const worker = workers.get(key)
      return worker?.closed ? undefined : worker
    },
    load,
    endWorker,
    finish,
    async [Symbol.asyncDispose]() {
      finish('platform')
      await rendezvous[Symbol.asyncDispose]()
    },
  }
}
