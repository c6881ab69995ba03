/**
 * The gateway's side of the rendezvous, for tests of the agent: listens on `<dir>/<name>.sock`, speaks frames on control
 * connections, and HTTP/1.1 as the client on the worker connections that the agent dials.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client, type Dispatcher } from 'undici'
import { createFrameReader, encodeFrame, MAX_FRAME_TO_GATEWAY } from '../../src/protocol/frame.ts'
import { type Circumstances, encodeInvocation, INVOCATION_HEADER } from '../../src/protocol/invocation.ts'
import { type FromAgent, parseFromAgent, type ToAgent, type WebtaskSource, type WorkerLimits } from '../../src/protocol/messages.ts'

export interface WorkerLine {
  readonly worker: string
  readonly run: number
  readonly socket: Socket
  readonly client: Client
  busy: boolean
}

export interface Call extends Partial<Circumstances> {
  readonly method?: string
  readonly path?: string
  readonly id?: string
  readonly headers?: Record<string, string>
  readonly body?: Dispatcher.DispatchOptions['body']
  readonly signal?: AbortSignal
}

export type Answer = Dispatcher.ResponseData
export interface Read {
  readonly status: number
  readonly headers: Answer['headers']
  readonly text: string
  // oxlint-disable-next-line typescript/no-explicit-any
  readonly json: any
}

const LIMITS: WorkerLimits = { heapMib: 64, connections: 64, parsedBodyBytes: 1024 * 1024, logLinesPerSecond: 500 }

export function sourceOf(code: string, more: Partial<WebtaskSource> = {}): WebtaskSource {
  return {
    container: 'acme',
    name: 'hello',
    code,
    url: null,
    secrets: {},
    params: {},
    meta: {},
    parseBody: 2,
    mergeBody: false,
    token: null,
    ...more,
  }
}

/** A rendezvous directory that goes away with the test. */
export function makeRendezvous(): { readonly dir: string } & Disposable {
  const dir = mkdtempSync(join(tmpdir(), 'wt-rendezvous-'))
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) }
}

export class FakeGateway implements AsyncDisposable {
  readonly frames: FromAgent[] = []
  readonly lines: WorkerLine[] = []
  control: Socket | undefined
  #server: Server
  #sockets = new Set<Socket>()
  #wakers = new Set<() => void>()

  private constructor(server: Server) {
    this.#server = server
  }

  static async listen(dir: string, name = 'gateway'): Promise<FakeGateway> {
    const server = createServer()
    const gateway = new FakeGateway(server)
    server.on('connection', (socket) => gateway.#accept(socket))
    await new Promise<void>((resolve) => server.listen(join(dir, `${name}.sock`), resolve))
    return gateway
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#sockets.delete(socket)
      if (this.control === socket) this.control = undefined
      const index = this.lines.findIndex((line) => line.socket === socket)
      if (index >= 0) this.lines.splice(index, 1)
      this.#wake()
    })
    const reader = createFrameReader(MAX_FRAME_TO_GATEWAY)
    const onData = (chunk: string | Buffer) => {
      for (const value of reader.push(chunk as Buffer)) {
        const frame = parseFromAgent(value)
        if (!frame) throw new Error(`Not a frame: ${JSON.stringify(value)}`)
        if (frame.kind === 'hello' && frame.role === 'worker') {
          socket.off('data', onData)
          // Until its first request nothing may come on it but its end.
          const onUnasked = () => void socket.destroy()
          socket.on('data', onUnasked)
          const client = new Client('http://worker', {
            connect(_options, done) {
              // The client gets this connection and never another.
              if (socket.destroyed) return void setImmediate(done, new Error('The connection to the worker is gone'), null)
              socket.off('data', onUnasked)
              socket.pause()
              setImmediate(done, null, socket)
            },
            pipelining: 1,
            keepAliveTimeout: 1e8,
            keepAliveMaxTimeout: 1e9,
            bodyTimeout: 0,
            headersTimeout: 0,
          })
          this.lines.push({ worker: frame.worker, run: frame.run, socket, client, busy: false })
        } else {
          if (frame.kind === 'hello') this.control = socket
          this.frames.push(frame)
        }
        this.#wake()
      }
    }
    socket.on('data', onData)
  }

  #wake(): void {
    for (const waker of this.#wakers) waker()
  }

  /** Resolves with the first truthy value of `probe`, asked again whenever something arrives. */
  async until<T>(probe: () => T | undefined | false, ms = 5000): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    const timer = setTimeout(() => reject(new Error(`Nothing after ${ms} ms; frames: ${JSON.stringify(this.frames.slice(-10))}`)), ms)
    const waker = () => {
      const value = probe()
      if (value === undefined || value === false) return
      this.#wakers.delete(waker)
      resolve(value)
    }
    this.#wakers.add(waker)
    waker()
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#wakers.delete(waker)
    }
  }

  frame<K extends FromAgent['kind']>(
    kind: K,
    match: (frame: Extract<FromAgent, { kind: K }>) => boolean = () => true,
    ms?: number,
  ): Promise<Extract<FromAgent, { kind: K }>> {
    return this.until(() => this.frames.find((frame): frame is Extract<FromAgent, { kind: K }> => frame.kind === kind && match(frame as never)), ms)
  }

  send(message: ToAgent): void {
    this.control!.write(encodeFrame(message))
  }

  /** Loads code and resolves with the agent's verdict. */
  async load(
    worker: string,
    code: string | WebtaskSource,
    limits: Partial<WorkerLimits> = {},
  ): Promise<Extract<FromAgent, { kind: 'loaded' | 'refused' }>> {
    await this.until(() => this.control)
    const seen = this.frames.length
    this.send({ kind: 'load', worker, source: typeof code === 'string' ? sourceOf(code) : code, limits: { ...LIMITS, ...limits } })
    return this.until(() =>
      this.frames
        .slice(seen)
        .find(
          (frame): frame is Extract<FromAgent, { kind: 'loaded' | 'refused' }> =>
            (frame.kind === 'loaded' || frame.kind === 'refused') && frame.worker === worker,
        ),
    )
  }

  /** Sends one request on an idle connection of the worker, most recently used first. */
  async request(
    worker: string,
    { method = 'GET', path = '/api/run/acme/hello', id = 'req-1', headers = {}, body = null, signal, ...more }: Call = {},
  ): Promise<Answer> {
    const line = await this.until(() => this.#take(worker))
    const circumstances: Circumstances = { base: '/api/run/acme/hello', format: 1, ...more }
    try {
      const answer = await line.client.request({
        method: method as Dispatcher.HttpMethod,
        path,
        headers: { [INVOCATION_HEADER]: encodeInvocation(id, circumstances), ...headers },
        body,
        ...(signal ? { signal } : {}),
      })
      answer.body.on('close', () => {
        line.busy = false
        this.#wake()
      })
      return answer
    } catch (error) {
      line.busy = false
      throw error
    }
  }

  /** Taken in the same breath as it is found: many may be waiting for one. */
  #take(worker: string): WorkerLine | undefined {
    const line = this.lines.findLast((candidate) => candidate.worker === worker && !candidate.busy && !candidate.socket.destroyed)
    if (line) line.busy = true
    return line
  }

  async call(worker: string, call: Call = {}): Promise<Read> {
    const answer = await this.request(worker, call)
    const text = await answer.body.text()
    let json: unknown
    try {
      json = JSON.parse(text)
    } catch {
      json = undefined
    }
    return { status: answer.statusCode, headers: answer.headers, text, json }
  }

  /** Output lines so far. */
  output(): string[] {
    return this.frames.flatMap((frame) => (frame.kind === 'output' ? [frame.line] : []))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
    await sleep(0)
  }
}
