import { randomBytes } from 'node:crypto'
import { access, chmod, constants, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { parseConfig, runDirectory, type Config } from './config.ts'
import { readAuthorities } from './egress/authorities.ts'
import { startRelayService } from './egress/relay-service.ts'
import { listenEgress } from './egress/server.ts'
import { startGateway, type Gateway } from './gateway/gateway.ts'
import { createLog, type Log } from './log.ts'
import { connectRedis, redisPlace, waitForRedis } from './redis.ts'
import { createDockerDriver } from './sandbox/docker.ts'
import type { ContainerDriver } from './sandbox/driver.ts'
import { checkEngine } from './sandbox/engine-check.ts'
import { openLifecycleQueue } from './sandbox/lifecycle.ts'
import { startOrchestrator } from './sandbox/orchestrator.ts'
import { startRedisContainer } from './sandbox/redis-container.ts'
import { createSandboxStore, type SandboxNews } from './sandbox/store.ts'

const ROLES = ['all', 'gateway', 'orchestrator', 'egress'] as const
type Role = (typeof ROLES)[number]

const HELP = `Usage: node src/main.ts [role]

Roles:
  all           gateway, orchestrator and egress in one process, with a Redis of its own (default)
  gateway       the front door and management API; no access to Docker, no way out
  orchestrator  makes and removes sandboxes; the only one with access to Docker
  egress        fetches code and lets webtasks connect; the only one with a way out

Settings come from the environment; README.md lists them.`

/** Signals closer together than this are one (ms). */
const SAME_SIGNAL_MS = 500

/** What drains may stream to its own limit, and a little longer (ms). */
const DRAIN_SLACK_MS = 60_000

/** How long the process may outlive what it was for (ms). */
const LINGER_MS = 1_000

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

/** The name of this deployment: given, or made on first start and kept with its data. */
async function deploymentOf(config: Config): Promise<string> {
  if (config.WEBTASK_DEPLOYMENT !== undefined) return config.WEBTASK_DEPLOYMENT
  const file = path.join(config.WEBTASK_DATA_DIR, 'deployment')
  try {
    return (await readFile(file, 'utf8')).trim()
  } catch {
    const made = randomBytes(4).toString('hex')
    await writeFile(file, `${made}\n`)
    return made
  }
}

/** Refuses a second `all` on the same data: whoever holds the socket lives, a stale one answers nobody. */
async function lockDeployment(runDir: string): Promise<AsyncDisposable> {
  const file = path.join(runDir, 'lock.sock')
  const taken = await new Promise<boolean>((resolve) => {
    const probe = net.connect(file)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
  if (taken)
    throw new Error('This data directory is in use by another running webtask runtime: stop that one, or set WEBTASK_DATA_DIR to another directory')
  await rm(file, { force: true })
  const server = net.createServer((socket) => socket.destroy())
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(file, resolve)
  })
  return { [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())) }
}

async function startOrchestratorRole(options: {
  config: Config
  driver: ContainerDriver
  /** Its id: a tag may come to stand for another image while we run. */
  agentImage: string
  /** The container runtimes that the engine has. */
  runtimes: readonly string[]
  log: Log
  redisUrl: string
  deployment: string
  runDir: string
  signal: AbortSignal
  removeOnStop: boolean
}): Promise<AsyncDisposable> {
  const { config, driver, log, redisUrl, deployment, runDir, signal } = options
  await using starting = new AsyncDisposableStack()
  const prefix = `webtask:${deployment}`
  const redis = connectRedis(redisUrl, log)
  starting.defer(() => redis.disconnect())
  await waitForRedis(redis, {
    signal,
    waiting: (seconds) => say(`Waiting for Redis at ${redisPlace(redisUrl)}, ${seconds} s: start it, or set REDIS_URL …`),
  })
  const subscriber = connectRedis(redisUrl, log)
  starting.defer(() => subscriber.disconnect())
  const queue = starting.use(openLifecycleQueue({ redisUrl, prefix }))
  const store = createSandboxStore(redis, prefix)
  const orchestrator = starting.use(
    await startOrchestrator({
      driver,
      store,
      queue,
      log,
      redisUrl,
      prefix,
      deployment,
      runDir,
      class: {
        image: options.agentImage,
        runtime: config.WEBTASK_RUNTIME,
        memoryMib: config.WEBTASK_SANDBOX_MEMORY_MIB,
        cpuMillis: config.WEBTASK_SANDBOX_CPU_MILLIS,
        pids: config.WEBTASK_SANDBOX_PIDS,
        tmpMib: config.WEBTASK_SANDBOX_TMP_MIB,
        workerHeapMib: config.WEBTASK_WORKER_HEAP_MIB,
      },
      runtimes: options.runtimes,
      prewarmed: { min: config.WEBTASK_PREWARMED, max: config.WEBTASK_PREWARMED_MAX ?? 4 * config.WEBTASK_PREWARMED },
      ageMs: config.WEBTASK_SANDBOX_AGE_SECONDS * 1000,
      memoryHighPercent: config.WEBTASK_SANDBOX_MEMORY_HIGH_PERCENT,
      frozenMs: Math.max(0, config.WEBTASK_SANDBOX_IDLE_SECONDS - config.WEBTASK_SANDBOX_PAUSE_SECONDS) * 1000,
      drainMs: config.WEBTASK_STREAM_MS + DRAIN_SLACK_MS,
      sandboxesMax: config.WEBTASK_SANDBOXES_MAX,
      removeOnStop: options.removeOnStop,
      now: Date.now,
    }),
  )
  await subscriber.subscribe(store.channel)
  subscriber.on('message', (_channel, message) => orchestrator.heard(JSON.parse(message) as SandboxNews))
  return starting.move()
}

/** The egress role sees only `e` and `g` of it, and may be another user: it waits until the others have made `g` a place for its socket. */
async function prepareRunDir(runDir: string): Promise<void> {
  await mkdir(path.join(runDir, 'g'), { recursive: true })
  // Whoever made them: the engine makes the directories that it mounts.
  await chmod(runDir, 0o700)
  await chmod(path.join(runDir, 'g'), 0o777)
}

async function startEgressRole(options: { config: Config; log: Log; runDir: string; signal: AbortSignal }): Promise<AsyncDisposable> {
  const { config, log, runDir, signal } = options
  await using starting = new AsyncDisposableStack()
  const place = path.join(runDir, 'g')
  for (let waited = 0; !(await isWritable(place)); waited += 1) {
    signal.throwIfAborted()
    if (waited % 25 === 0) say(`Waiting for another role to prepare ${place} …`)
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  const directory = path.join(runDir, 'e')
  const relays =
    config.WEBTASK_EGRESS === 'off'
      ? undefined
      : starting.use(
          startRelayService({
            directory,
            opened: config.WEBTASK_EGRESS_ALLOW,
            servers: config.WEBTASK_EGRESS_DNS,
            authorities: await readAuthorities(config.WEBTASK_EGRESS_CA),
            limits: {
              connections: config.WEBTASK_EGRESS_CONNECTIONS,
              perSecond: config.WEBTASK_EGRESS_PER_SECOND,
              bytesPerHour: config.WEBTASK_EGRESS_MIB_PER_HOUR * 1024 * 1024,
            },
            log,
          }),
        )
  starting.use(await listenEgress({ socketPath: path.join(place, 'egress.sock'), rules: { allow: config.WEBTASK_CODE_HOSTS }, relays, log }))
  return starting.move()
}

const isWritable = (directory: string): Promise<boolean> =>
  access(directory, constants.W_OK | constants.X_OK).then(
    () => true,
    () => false,
  )

function greet(gateway: Gateway, role: Role): void {
  const file = gateway.masterTokenFile
  const [hint, print] =
    role === 'all' ? ['; "npm run --silent token" prints it', `cat ${file}`] : [' in this container', `docker compose exec -T gateway cat ${file}`]
  say(`
Ready at ${gateway.url}   (health and metrics at ${gateway.adminUrl})
The master token is in ${file}${hint}.

Try it:
  curl -s ${gateway.url}/api/run/hello -H "Authorization: Bearer $(${print})" --data-binary 'module.exports = cb => cb(null, "Hello from " + process.version)'
`)
}

/** Starts the parts of a role, in order; what was started is given back in reverse, also when a later part fails. */
async function start(role: Role, signal: AbortSignal): Promise<AsyncDisposable> {
  const config = parseConfig(process.env)
  await using parts = new AsyncDisposableStack()
  const dataDir = path.resolve(config.WEBTASK_DATA_DIR)
  if (role === 'all' || role === 'gateway') {
    await mkdir(dataDir, { recursive: true, mode: 0o700 })
    await chmod(dataDir, 0o700)
  }
  const deployment = await deploymentOf(config)
  const runDir = runDirectory(config, deployment)
  if (role !== 'egress') await prepareRunDir(runDir)
  const log = createLog(config.WEBTASK_LOG_LEVEL, role)

  let driver: ContainerDriver | undefined
  let engine = { agentImage: '', runtimes: [] as readonly string[] }
  let redisUrl = config.REDIS_URL
  if (role === 'all') {
    const lock = await lockDeployment(runDir)
    // Given back in reverse: the directory goes last, and only if it was ours.
    parts.defer(() => rm(runDir, { recursive: true, force: true }))
    parts.use(lock)
  }
  if (role === 'all' || role === 'orchestrator') {
    driver = createDockerDriver()
    engine = await checkEngine(driver, {
      runtime: config.WEBTASK_RUNTIME,
      image: config.WEBTASK_AGENT_IMAGE,
      allowed: config.WEBTASK_ALLOW_UNSAFE_ENGINE,
      log,
      signal,
      waiting: (reason) => say(`Waiting for the container engine (${reason}): start it, or set DOCKER_HOST …`),
    })
  }
  if (redisUrl === undefined) {
    if (role !== 'all' && role !== 'egress') throw new Error('REDIS_URL is needed when the roles run apart')
    if (driver !== undefined) {
      if (!(await driver.imageId(config.WEBTASK_REDIS_IMAGE)))
        throw new Error(
          `The Redis image "${config.WEBTASK_REDIS_IMAGE}" is not there: "npm start" builds it; or set REDIS_URL to a Redis of your own`,
        )
      const redis = parts.use(
        await startRedisContainer({ driver, deployment, image: config.WEBTASK_REDIS_IMAGE, dataDir, runDir, uid: os.userInfo().uid }),
      )
      redisUrl = redis.url
    }
  }
  if (role === 'all' || role === 'egress') parts.use(await startEgressRole({ config, log, runDir, signal }))
  if (driver !== undefined && redisUrl !== undefined) {
    const removeOnStop = (config.WEBTASK_ON_STOP ?? (role === 'all' ? 'remove' : 'keep')) === 'remove'
    parts.use(await startOrchestratorRole({ config, driver, ...engine, log, redisUrl, deployment, runDir, signal, removeOnStop }))
  }
  if ((role === 'all' || role === 'gateway') && redisUrl !== undefined) {
    const gateway = parts.use(
      await startGateway({ config: { ...config, WEBTASK_DATA_DIR: dataDir }, log, redisUrl, deployment, runDir, signal, say }),
    )
    parts.defer(() => gateway.drain())
    // A service reads its keys anew; at a terminal the signal means that the terminal is gone.
    process.on('SIGHUP', () => (process.stdin.isTTY ? void process.emit('SIGTERM') : void gateway.reloadKeys()))
    greet(gateway, role)
  } else say(`The ${role} is ready`)
  return parts.move()
}

async function main(): Promise<void> {
  const [asked = 'all'] = process.argv.slice(2)
  if (asked === '--help' || asked === '-h') return say(HELP)
  const role = ROLES.find((name) => name === asked)
  if (role === undefined) {
    process.stderr.write(`No such role: "${asked}"\n\n${HELP}\n`)
    process.exitCode = 2
    return
  }
  const stop = new AbortController()
  const stopped = new Promise<void>((resolve) => stop.signal.addEventListener('abort', () => resolve(), { once: true }))
  let stoppedAt = -Infinity
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      // One key press may arrive twice: from the terminal, and passed on by npm.
      if (performance.now() - stoppedAt < SAME_SIGNAL_MS) return
      stoppedAt = performance.now()
      // The second one is immediate; the next start clears away what this one leaves.
      if (stop.signal.aborted) {
        say(`Stopping at once (${name})`)
        process.exit(130)
      }
      say('\nStopping: running requests may finish; press Ctrl-C again to stop at once')
      stop.abort(new Error('Stopped'))
    })
  }
  try {
    await using parts = await start(role, stop.signal)
    void parts
    await stopped
  } catch (error) {
    if (stop.signal.aborted) return
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  }
}

await main()
// Everything is given back by now, but a library's retry timers may know no end once Redis is gone.
setTimeout(() => process.exit(), LINGER_MS).unref()
