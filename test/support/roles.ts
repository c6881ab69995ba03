import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chown, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { containersOf, docker, eventually } from './docker.ts'
import { startFaultProxy, type FaultProxy } from './fault-proxy.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
/** Redis runs as this user, who owns its two directories. */
const REDIS_UID = 65_532

/** One process of a deployment: it can be killed and started again as often as a test likes. */
export interface Part {
  readonly name: string
  readonly pid: number
  readonly isRunning: boolean
  output(): string
  start(settings?: Record<string, string>): Promise<void>
  /** Resolves with the exit code once it has ended. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

/** A deployment whose roles run apart, as under Compose, with a Redis of its own. */
export interface Roles extends AsyncDisposable {
  readonly id: string
  readonly dataDir: string
  readonly runDir: string
  readonly redisUrl: string
  readonly gateways: readonly Part[]
  readonly orchestrator: Part
  readonly egress: Part
  readonly redis: { start(): Promise<void>; kill(): Promise<void> }
  /** Between Redis and all roles. */
  readonly redisWire: FaultProxy
  /** The port that all gateways share. */
  readonly port: number
  /** Of the first gateway. */
  readonly adminPorts: readonly number[]
  readonly master: string
  issue(claims: Record<string, unknown>): Promise<string>
}

async function freePort(): Promise<number> {
  const server = net.createServer()
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as net.AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

function createPart(options: { name: string; role: string; env: () => Record<string, string>; ready: RegExp }): Part {
  let child: ChildProcess | undefined
  let output = ''
  const hasEnded = () => child === undefined || child.exitCode !== null || child.signalCode !== null
  return {
    name: options.name,
    get pid() {
      return child!.pid!
    },
    get isRunning() {
      return !hasEnded()
    },
    output: () => output,
    async start(settings = {}) {
      output = ''
      child = spawn(process.execPath, ['src/main.ts', options.role], {
        cwd: ROOT,
        env: { ...process.env, ...options.env(), ...settings },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      child.stdout!.on('data', (chunk) => (output += chunk))
      child.stderr!.on('data', (chunk) => (output += chunk))
      await eventually(
        `${options.name} is ready`,
        () => {
          if (hasEnded()) throw new Error(`${options.name} ended before it was ready:\n${output}`)
          return options.ready.test(output)
        },
        30_000,
      )
    },
    async stop(signal = 'SIGTERM') {
      if (hasEnded()) return child?.exitCode ?? null
      const ended = once(child!, 'exit')
      child!.kill(signal)
      await ended
      return child!.exitCode
    },
  }
}

export async function startRoles(options: { gateways?: number; settings?: Record<string, string> } = {}): Promise<Roles> {
  await using starting = new AsyncDisposableStack()
  const id = randomBytes(4).toString('hex')
  const dataDir = await mkdtemp(path.join(os.tmpdir(), 'wt-roles-'))
  starting.defer(() => rm(dataDir, { recursive: true, force: true }))
  const runDir = path.join('/run/webtask', id)
  await mkdir(runDir, { recursive: true })
  starting.defer(() => rm(runDir, { recursive: true, force: true }))
  const redis = await createRedis({ id, dataDir, runDir })
  starting.use(redis)
  await redis.start()
  const wire = path.join(runDir, 'wire.sock')
  const redisWire = starting.use(await startFaultProxy({ target: { path: redis.socket }, listen: { path: wire } }))
  const port = await freePort()
  const adminPorts = await Promise.all(Array.from({ length: options.gateways ?? 1 }, freePort))
  const common = {
    REDIS_URL: `unix://${wire}`,
    WEBTASK_DEPLOYMENT: id,
    WEBTASK_RUN_DIR: runDir,
    WEBTASK_DATA_DIR: path.join(dataDir, 'data'),
    WEBTASK_ON_STOP: 'keep',
    ...options.settings,
  }
  const part = (name: string, role: string, ready: RegExp, own: Record<string, string> = {}) =>
    createPart({ name, role, ready, env: () => ({ ...common, ...own }) })
  const egress = part('egress', 'egress', /The egress is ready/)
  const orchestrator = part('orchestrator', 'orchestrator', /The orchestrator is ready/)
  const gateways = adminPorts.map((adminPort, index) =>
    part(`gateway ${index + 1}`, 'gateway', /Ready at/, {
      WEBTASK_PORT: String(port),
      WEBTASK_ADMIN_PORT: String(adminPort),
      WEBTASK_REUSE_PORT: 'on',
    }),
  )
  starting.defer(async () => {
    for (const one of [...gateways, egress, orchestrator]) await one.stop('SIGKILL')
    for (const { Id } of await containersOf(id))
      await docker
        .getContainer(Id)
        .remove({ force: true })
        .catch(() => {})
  })
  await orchestrator.start()
  await egress.start()
  for (const gateway of gateways) await gateway.start()
  const master = (await readFile(path.join(dataDir, 'data/master.token'), 'utf8')).trim()
  const parts = starting.move()
  return {
    id,
    dataDir,
    runDir,
    redisUrl: `unix://${redis.socket}`,
    gateways,
    orchestrator,
    egress,
    redis,
    redisWire,
    port,
    adminPorts,
    master,
    async issue(claims) {
      const answer = await fetch(`http://127.0.0.1:${port}/api/tokens/issue`, {
        method: 'POST',
        headers: { authorization: `Bearer ${master}`, 'content-type': 'application/json' },
        body: JSON.stringify(claims),
      })
      if (answer.status !== 200) throw new Error(`Issuing was refused with ${answer.status}: ${await answer.text()}`)
      return answer.text()
    },
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  }
}

/** A Redis of the deployment's own on a unix socket, whose acknowledged writes survive a kill. */
async function createRedis({ id, dataDir, runDir }: { id: string; dataDir: string; runDir: string }) {
  const [data, sockets] = [path.join(dataDir, 'redis'), path.join(runDir, 'redis')]
  for (const directory of [data, sockets]) {
    await mkdir(directory, { recursive: true })
    await chown(directory, REDIS_UID, REDIS_UID)
  }
  const words = '--port 0 --unixsocket /run/redis/redis.sock --unixsocketperm 777 --dir /data --appendonly yes --appendfsync always --save'
  const container = await docker.createContainer({
    Image: process.env['WEBTASK_REDIS_IMAGE'] ?? 'redis:8-bookworm',
    name: `webtask-test-redis-${id}`,
    User: `${REDIS_UID}:${REDIS_UID}`,
    Entrypoint: ['redis-server'],
    Cmd: [...words.split(' '), ''],
    Labels: { 'webtask.test': 'roles' },
    HostConfig: { NetworkMode: 'none', Binds: [`${data}:/data`, `${sockets}:/run/redis`] },
  })
  return {
    socket: path.join(sockets, 'redis.sock'),
    async start() {
      // The engine may still be telling of its death.
      await eventually(
        'Redis starts',
        () =>
          container.start().then(
            () => true,
            (error: { statusCode?: number }) => error.statusCode === 304,
          ),
        10_000,
      )
    },
    async kill() {
      await container.kill()
    },
    async [Symbol.asyncDispose]() {
      await container.remove({ force: true, v: true })
    },
  }
}
