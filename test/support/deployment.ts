import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { openSync, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { containersOf, docker, eventually } from './docker.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  json(): any
}

/** A whole runtime of its own, started as a user would start it: real Docker, real Redis, free ports, an empty data directory. */
export interface Deployment extends AsyncDisposable {
  readonly url: string
  readonly adminUrl: string
  readonly dataDir: string
  readonly runDir: string
  readonly id: string
  readonly master: string
  readonly process: ChildProcess
  readonly output: () => string
  /** Asks the front door; `body` objects go as JSON, `token` as Bearer. */
  ask(
    pathname: string,
    options?: { method?: string; token?: string; body?: unknown; headers?: Record<string, string>; signal?: AbortSignal },
  ): Promise<Answer>
  /** Issues a token by the master token (or `by`) and fails the test when that is refused. */
  issue(claims: Record<string, unknown>, by?: string): Promise<string>
  /** Runs code in a container by the master token. */
  run(container: string, code: string, options?: { query?: string; headers?: Record<string, string> }): Promise<Answer>
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

/** The container runtime that this run of the tests is about: "npm test -- --runtime" sets it. */
export const RUNTIME = process.env.WEBTASK_RUNTIME === 'runsc' ? 'runsc' : 'runc'

/** `logFile`: its output goes there, as under a service manager, instead of through this process, which would take processor time for it. */
export async function startDeployment(
  settings: Record<string, string> = {},
  existing?: { dataDir: string },
  { logFile }: { logFile?: string } = {},
): Promise<Deployment> {
  const dataDir = existing?.dataDir ?? (await mkdtemp(path.join(os.tmpdir(), 'wt-')))
  const child = spawn(process.execPath, ['src/main.ts', 'all'], {
    cwd: ROOT,
    env: { ...process.env, WEBTASK_PORT: '0', WEBTASK_ADMIN_PORT: '0', WEBTASK_DATA_DIR: dataDir, WEBTASK_DRAIN_SECONDS: '5', ...settings },
    stdio: logFile === undefined ? ['ignore', 'pipe', 'pipe'] : ['ignore', openSync(logFile, 'w'), 'inherit'],
  })
  const output = logFile === undefined ? await untilReady(child) : await untilReadyIn(logFile)
  const [, url, adminUrl] = /Ready at (\S+) +\(health and metrics at (\S+)\)/.exec(output())!
  const master = (await readFile(path.join(dataDir, 'master.token'), 'utf8')).trim()
  const id = (await readFile(path.join(dataDir, 'deployment'), 'utf8')).trim()

  async function stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode
    const ended = once(child, 'exit')
    child.kill(signal)
    await ended
    return child.exitCode
  }

  const deployment: Deployment = {
    url: url!,
    adminUrl: adminUrl!,
    dataDir,
    runDir: path.join(process.getuid?.() === 0 ? '/run/webtask' : path.join(os.tmpdir(), `webtask-${process.getuid?.()}`), id),
    id,
    master,
    process: child,
    output,
    async ask(pathname, { method = 'GET', token, body, headers = {}, signal } = {}) {
      const isText = typeof body === 'string' || body instanceof Uint8Array
      const response = await fetch(url + pathname, {
        method,
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined || isText ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: isText ? (body as string) : JSON.stringify(body) }),
        redirect: 'manual',
        ...(signal === undefined ? {} : { signal }),
      })
      const text = await response.text()
      return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) }
    },
    async issue(claims, by = master) {
      const answer = await deployment.ask('/api/tokens/issue', { method: 'POST', token: by, body: claims })
      if (answer.status !== 200) throw new Error(`Issuing was refused with ${answer.status}: ${answer.text}`)
      return answer.text
    },
    run: (container, code, { query = '', headers = {} } = {}) =>
      deployment.ask(`/api/run/${container}${query}`, { method: 'POST', token: master, body: code, headers }),
    stop,
    async [Symbol.asyncDispose]() {
      await stop()
      if (existing !== undefined) return
      // One that crashed has cleared nothing away.
      for (const { Id } of await containersOf(id))
        await docker
          .getContainer(Id)
          .remove({ force: true, v: true })
          .catch(() => {})
      await rm(dataDir, { recursive: true, force: true })
    },
  }
  return deployment
}

/** A gateway process of its own, which serves the same deployment as another one. */
export interface GatewayBeside extends AsyncDisposable {
  readonly url: string
  readonly adminUrl: string
  readonly process: ChildProcess
  readonly output: () => string
}

/** Starts one with the data, run directory and Redis of `deployment`. */
export async function startGatewayBeside(deployment: Deployment, settings: Record<string, string> = {}): Promise<GatewayBeside> {
  const child = spawn(process.execPath, ['src/main.ts', 'gateway'], {
    cwd: ROOT,
    env: {
      ...process.env,
      WEBTASK_PORT: '0',
      WEBTASK_ADMIN_PORT: '0',
      WEBTASK_DATA_DIR: deployment.dataDir,
      WEBTASK_RUN_DIR: deployment.runDir,
      WEBTASK_DEPLOYMENT: deployment.id,
      REDIS_URL: `unix://${path.join(deployment.runDir, 'redis/redis.sock')}`,
      ...settings,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const output = await untilReady(child)
  const [, url, adminUrl] = /Ready at (\S+) +\(health and metrics at (\S+)\)/.exec(output())!
  return {
    url: url!,
    adminUrl: adminUrl!,
    process: child,
    output,
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      await ended
    },
  }
}

async function untilReadyIn(file: string): Promise<() => string> {
  const output = () => readFileSync(file, 'utf8')
  await eventually('the runtime is ready', () => output().includes('Try it'), 30_000)
  return output
}

/** What a runtime has printed, once it is ready. Rejects with it when the runtime ends before. */
async function untilReady(child: ChildProcess): Promise<() => string> {
  let output = ''
  const ready = Promise.withResolvers<void>()
  const heard = (chunk: unknown) => {
    output += String(chunk)
    if (output.includes('Ready at') && output.includes('Try it')) ready.resolve()
  }
  child.stdout!.on('data', heard)
  child.stderr!.on('data', heard)
  child.once('exit', (code) => ready.reject(new Error(`The runtime ended with ${code} before it was ready:\n${output}`)))
  await ready.promise
  return () => output
}
