/** Entry point of a worker thread: one webtask, loaded once, serving its own connections until it is ended. */
import './guard.ts'
import type { MessagePort } from 'node:worker_threads'
import { answerFailure } from './answer.ts'
import { backgroundWork, whenBackgroundEnds } from './background.ts'
import { currentTask } from './children.ts'
import { captureOutput, logLine } from './capture.ts'
import { type Connections, openConnections } from './connections.ts'
import { describe } from './describe.ts'
import { installBound } from './egress/bound.ts'
import { installEgress } from './egress/install.ts'
import { hideInterfaces } from './interfaces.ts'
import { loadWebtask } from './load.ts'
import { NativePromise } from './natives.ts'
import { rehearseLater } from './rehearsal.ts'
import { currentRequest } from './request.ts'
import { type Program, runWebtask } from './run.ts'
import { createService, type Service } from './serve.ts'
import type { FromThread, Load, ToThread } from './thread-messages.ts'
import { connectTokenCalls, settleTokenCall } from './tokens.ts'

const { workerData } = process.getBuiltinModule('node:worker_threads')

// Out of the code's reach before there is any code.
const { port, egressPath } = workerData as { port: MessagePort; egressPath: string }
for (const name of Object.keys(workerData as object)) delete (workerData as Record<string, unknown>)[name]
installEgress(egressPath)
port.postMessage({ task: currentTask() })
const post = (message: FromThread): void => port.postMessage(message)

hideInterfaces()

let program: Program | undefined
let identity: Load | undefined
let retired = false
let tainted = false
const dials = new Map<string, string>()
const connections = new Map<string, Connections>()
const service: Service = createService({
  run: (request) => runWebtask(program!, request),
  onQuiet: reportDrained,
})

connectTokenCalls(post)
whenBackgroundEnds(reportDrained)
process.on('uncaughtException', (error) => {
  if (!tainted) post({ kind: 'tainted' })
  tainted = true
  const request = currentRequest()
  if (request) return answerFailure(request, 'threwLater', error)
  const { stack, message } = describe(error)
  logLine('error', `Outside any request: ${stack ?? message}`)
})

const rehearsal = rehearseLater()
port.on('message', (message: ToThread) => {
  if (message.kind === 'load') void load(message)
  else if (message.kind === 'dial') {
    dials.set(message.gateway, message.path)
    if (program) void dial(message.gateway, message.path)
  } else if (message.kind === 'hangup') {
    dials.delete(message.gateway)
    void connections.get(message.gateway)?.close()
    connections.delete(message.gateway)
  } else if (message.kind === 'widen') {
    connections.get(message.gateway)?.widen(message.connections)
  } else if (message.kind === 'drain') void drain()
  else settleTokenCall(message)
})

async function load(message: Load): Promise<void> {
  await rehearsal.stop()
  identity = message
  const { source, limits, packagesDir } = message
  captureOutput(post, limits.logLinesPerSecond)
  if (source.bound !== undefined) installBound(source.bound)
  const loaded = await loadWebtask({ source, packagesDir })
  if ('status' in loaded) return post({ kind: 'refused', failure: loaded })
  program = { webtask: loaded, source, parsedBodyBytes: limits.parsedBodyBytes }
  for (const [gateway, path] of dials) void dial(gateway, path)
}

async function dial(gateway: string, path: string): Promise<void> {
  if (connections.has(gateway)) return post({ kind: 'dialled', gateway })
  const { worker, run, limits } = identity!
  const opened = openConnections({ gateway, path, worker, run, limit: limits.connections, server: service.server })
  connections.set(gateway, opened)
  await opened.ready
  post({ kind: 'dialled', gateway })
}

async function drain(): Promise<void> {
  dials.clear()
  // What the gateways sent before they knew is in the sockets by now: a turn of the loop reads it, the next one runs it.
  await new NativePromise<void>((resolve) => setImmediate(() => setImmediate(resolve)))
  await NativePromise.all([...connections.values()].map((each) => each.retire()))
  retired = true
  reportDrained()
}

function reportDrained(): void {
  if (retired && service.running.size === 0 && backgroundWork() === 0) post({ kind: 'drained' })
}
