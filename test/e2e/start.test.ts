import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, copyFile, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { startDeployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'
import { engineSocket, startEngineProxy } from '../support/engine-proxy.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const HELLO = 'module.exports = cb => cb(null, "hello")'
/** The promise is 5 s on a machine of its own; this one may be busy. */
const LATER_START_MS = 10_000
const run = promisify(execFile)

/** A program under test in a process group of its own, as a terminal would start it. Disposing ends the group. */
interface Running extends AsyncDisposable {
  readonly pid: number
  output(): string
  /** Resolves when the output matches; rejects when the program ends first or `ms` pass. */
  says(pattern: RegExp, ms?: number): Promise<RegExpMatchArray>
  /** The exit code (null after a signal); rejects after `ms`. */
  ends(ms?: number): Promise<number | null>
  readonly running: boolean
  /** Types at its terminal. */
  press(keys: string): void
}

function start(command: string, args: readonly string[], options: { cwd: string; env: NodeJS.ProcessEnv }): Running {
  const child = spawn(command, args, { ...options, detached: true, stdio: ['pipe', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  child.stderr.on('data', (chunk) => (output += chunk))
  child.stdin.on('error', () => {})
  const closed = once(child, 'close')
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null
  return {
    pid: child.pid!,
    output: () => output,
    get running() {
      return !hasEnded()
    },
    press: (keys) => void child.stdin.write(keys),
    says: (pattern, ms = 30_000) =>
      eventually(
        `${pattern} from "${args.join(' ')}"`,
        () => {
          const match = output.match(pattern)
          assert.ok(match || !hasEnded(), `It ended with ${child.exitCode} and never said ${pattern}:\n${output}`)
          return match ?? undefined
        },
        ms,
      ).catch((error: Error) => {
        throw new Error(`${error.message}\nIt said:\n${output}`, { cause: error })
      }),
    async ends(ms = 20_000) {
      await eventually(`the end of "${args.join(' ')}", which said:\n${output}`, hasEnded, ms)
      await closed
      return child.exitCode
    },
    async [Symbol.asyncDispose]() {
      for (const [signal, ms] of [
        ['SIGTERM', 10_000],
        ['SIGKILL', 5_000],
      ] as const) {
        if (!signalGroup(child.pid!, signal)) break
        await eventually('the end of the group', () => !signalGroup(child.pid!, 0), ms).catch(() => {})
      }
    },
  }
}

/** False when nobody is left in the group. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-pid, signal)
  } catch {
    return false
  }
}

async function freePorts(): Promise<[string, string]> {
  const servers = [net.createServer(), net.createServer()]
  for (const server of servers) await once(server.listen(0, '127.0.0.1'), 'listening')
  const ports = servers.map((server) => String((server.address() as net.AddressInfo).port))
  for (const server of servers) await new Promise((resolve) => server.close(resolve))
  return ports as [string, string]
}

/** A data directory of the test's own; afterwards also the containers of its deployment, should a failure have left any. */
async function emptyDataDir(): Promise<AsyncDisposable & { readonly dir: string; id(): Promise<string> }> {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'wt-start-'))
  const id = async () => (await readFile(path.join(dir, 'deployment'), 'utf8')).trim()
  return {
    dir,
    id,
    async [Symbol.asyncDispose]() {
      const deployment = await id().catch(() => undefined)
      if (deployment !== undefined) for (const { Id } of await containersOf(deployment)) await docker.getContainer(Id).remove({ force: true })
      await rm(dir, { recursive: true, force: true })
    },
  }
}

const exists = (file: string) =>
  access(file).then(
    () => true,
    () => false,
  )

function runDirOf(id: string): string {
  const uid = process.getuid!()
  return path.join(uid === 0 ? '/run/webtask' : path.join(os.tmpdir(), `webtask-${uid}`), id)
}

/** `main.ts` alone, with the images that the tests were given. */
function startMain(settings: Record<string, string>, role = 'all'): Running {
  return start(process.execPath, ['src/main.ts', role], {
    cwd: ROOT,
    env: { ...process.env, WEBTASK_PORT: '0', WEBTASK_ADMIN_PORT: '0', WEBTASK_DRAIN_SECONDS: '5', ...settings },
  })
}

describe('npm start in a fresh copy of the tree', () => {
  let copy: string
  let environment: NodeJS.ProcessEnv

  before(async () => {
    copy = await mkdtemp(path.join(os.tmpdir(), 'wt-copy-'))
    const { stdout } = await run('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: ROOT })
    for (const name of stdout.split('\0').filter((name) => name !== '')) {
      if (!(await exists(path.join(ROOT, name)))) continue
      await mkdir(path.dirname(path.join(copy, name)), { recursive: true })
      await copyFile(path.join(ROOT, name), path.join(copy, name))
    }
    // What `npm ci` would put there; the rest of the start is the user's own.
    await symlink(path.join(ROOT, 'node_modules'), path.join(copy, 'node_modules'))
    // Nothing of ours: no settings, no images chosen, no npm around us, and the machine's own Node first on the path.
    const ours = /^(WEBTASK_|REDIS_URL$|NODE_IMAGE$|REDIS_IMAGE$|npm_|INIT_CWD$|NODE_TEST_CONTEXT$|TESTCONTAINERS_)/
    environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !ours.test(name)))
    environment['PATH'] = process.env['PATH']!.split(':')
      .filter((entry) => !entry.endsWith('node_modules/.bin'))
      .join(':')
  })

  after(() => rm(copy, { recursive: true, force: true }))

  async function npmStart(settings: Record<string, string>, options: { terminal?: boolean } = {}): Promise<Running> {
    const env = { ...environment, ...settings }
    // `exec`: a shell that stays between the terminal and npm would die of Ctrl-C itself, and its end is not ours to judge.
    if (options.terminal === true) return start('script', ['--quiet', '--return', '--command', 'exec npm start', '/dev/null'], { cwd: copy, env })
    return start('npm', ['start'], { cwd: copy, env })
  }

  /** Processes that work in the copy, found by their directory. */
  async function processesThere(): Promise<string[]> {
    const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
    const directories = await Promise.all(pids.map((pid) => readlink(`/proc/${pid}/cwd`).catch(() => '')))
    return pids.filter((_, index) => directories[index] === copy)
  }

  async function nothingIsLeft(id: string): Promise<void> {
    assert.deepEqual(await containersOf(id), [], 'containers')
    assert.equal(await exists(runDirOf(id)), false, 'the run directory')
    assert.deepEqual(await processesThere(), [], 'processes')
  }

  test(
    'prints the URL, where the master token is and a curl line that works when pasted; Ctrl-C leaves only the data; a later start is quick',
    { timeout: 240_000 },
    async () => {
      await using data = await emptyDataDir()
      const [port, adminPort] = await freePorts()
      const settings = { WEBTASK_PORT: port, WEBTASK_ADMIN_PORT: adminPort, WEBTASK_DATA_DIR: data.dir }
      {
        await using first = await npmStart(settings)
        await first.says(/Try it:\n +curl .*\n/, 200_000)
        assert.match(first.output(), new RegExp(`Ready at http://localhost:${port} `))
        assert.match(first.output(), new RegExp(`master token is in ${path.join(data.dir, 'master.token')}`))

        const line = /Try it:\n +(curl .*)\n/.exec(first.output())![1]!
        const pasted = await run('sh', ['-c', `${line} -w '\\n%{http_code}'`], { cwd: os.tmpdir(), timeout: 30_000 })
        assert.match(pasted.stdout, /^"Hello from v\d+\.\d+\.\d+"\n200$/)

        const token = await run('npm', ['run', '--silent', 'token'], { cwd: copy, env: { ...environment, ...settings }, timeout: 30_000 })
        assert.equal(token.stdout, await readFile(path.join(data.dir, 'master.token'), 'utf8'))
        assert.match(token.stdout, /^[\w-]+\.[\w-]+\.[\w-]+\n$/)
        assert.equal(token.stderr, '')

        const ready = await fetch(`http://127.0.0.1:${adminPort}/readyz`)
        assert.equal(ready.status, 200)

        // A terminal sends Ctrl-C to everybody in the foreground.
        signalGroup(first.pid, 'SIGINT')
        assert.equal(await first.ends(), 0, first.output())
        await nothingIsLeft(await data.id())
      }
      const began = performance.now()
      await using second = await npmStart(settings)
      await second.says(/Ready at/, 60_000)
      const took = Math.round(performance.now() - began)
      console.log(`A later "npm start" was ready after ${took} ms`)
      assert.ok(took < LATER_START_MS, `A later start took ${took} ms`)
      // Only npm hears this one, as from a service manager.
      process.kill(second.pid, 'SIGTERM')
      await second.ends()
      await eventually('no process is left', async () => (await processesThere()).length === 0, 10_000)
      await nothingIsLeft(await data.id())
    },
  )

  test('Ctrl-C at a real terminal lets the running request finish and ends with 0', { timeout: 120_000 }, async () => {
    await using data = await emptyDataDir()
    const [port, adminPort] = await freePorts()
    await using runtime = await npmStart({ WEBTASK_PORT: port, WEBTASK_ADMIN_PORT: adminPort, WEBTASK_DATA_DIR: data.dir }, { terminal: true })
    await runtime.says(/Ready at/, 60_000)
    const token = (await readFile(path.join(data.dir, 'master.token'), 'utf8')).trim()
    const slow = fetch(`http://127.0.0.1:${port}/api/run/acme`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}` },
      body: 'module.exports = cb => setTimeout(() => cb(null, "finished"), 1500)',
    }).then((answer) => answer.text())
    await eventually('the request runs', async () =>
      (await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text()).includes('webtask_invocations_running 1'),
    )
    runtime.press('\u0003')
    assert.equal(await slow, '"finished"')
    assert.equal(await runtime.ends(), 0, runtime.output())
    assert.match(runtime.output(), /Stopping: running requests may finish/)
    await nothingIsLeft(await data.id())
  })

  test('unknown and bad settings stop it with one message that lists every problem', { timeout: 60_000 }, async () => {
    await using data = await emptyDataDir()
    await using refused = await npmStart({
      WEBTASK_DATA_DIR: data.dir,
      WEBTASK_PORT: 'eighty',
      WEBTASK_WOMBAT: '1',
      WEBTASK_RUNTIME: 'nonexistent',
      WEBTASK_SANDBOX_PIDS: '1',
      REDIS_URL: 'http://127.0.0.1',
    })
    const code = await refused.ends(60_000)
    assert.ok(code !== 0 && code !== null, `It ended with ${code}`)
    const output = refused.output()
    assert.equal(output.match(/Cannot start/g)?.length, 1, output)
    for (const problem of [
      /^ +WEBTASK_WOMBAT: no such setting$/m,
      /^ +WEBTASK_PORT: must be a whole number \(got "eighty"\)$/m,
      /^ +WEBTASK_RUNTIME: .*"runc"\|"runsc".*\(got "nonexistent"\)$/m,
      /^ +WEBTASK_SANDBOX_PIDS: must be between 32 and 4096 \(got "1"\)$/m,
      /^ +REDIS_URL: must start with redis:\/\/.*\(got "http:\/\/127\.0\.0\.1"\)$/m,
    ])
      assert.match(output, problem)
    assert.match(output, /the settings have 5 problem/)
    assert.equal(await exists(path.join(data.dir, 'deployment')), false, 'nothing was made')
  })
})

describe('a start that cannot succeed says what to do and leaves nothing', () => {
  async function refused(settings: Record<string, string>, message: RegExp): Promise<void> {
    await using data = await emptyDataDir()
    await using runtime = startMain({ WEBTASK_DATA_DIR: data.dir, ...settings })
    assert.equal(await runtime.ends(30_000), 1, runtime.output())
    assert.match(runtime.output(), message)
    assert.doesNotMatch(runtime.output(), /^ +at .*:\d+:\d+/m, 'a stack is for nobody here')
    const id = await data.id()
    assert.deepEqual(await containersOf(id), [])
    assert.equal(await exists(runDirOf(id)), false)
  }

  test('the port is taken', { timeout: 60_000 }, async () => {
    const taken = net.createServer()
    await once(taken.listen(0, '127.0.0.1'), 'listening')
    const port = String((taken.address() as net.AddressInfo).port)
    try {
      await refused({ WEBTASK_PORT: port }, new RegExp(`${port}.*WEBTASK_PORT|WEBTASK_PORT.*${port}`))
      await refused({ WEBTASK_ADMIN_PORT: port }, new RegExp(`${port}.*WEBTASK_ADMIN_PORT|WEBTASK_ADMIN_PORT.*${port}`))
    } finally {
      taken.close()
    }
  })

  test('the sandbox image is missing', { timeout: 60_000 }, () =>
    refused({ WEBTASK_AGENT_IMAGE: 'webtask-agent:nonexistent' }, /image "webtask-agent:nonexistent" is not there.*npm start/),
  )

  test('the engine has not the runtime that was chosen', { timeout: 60_000 }, async () => {
    await using engine = await startEngineProxy({ info: (info) => delete info.Runtimes.runsc })
    await refused(
      { DOCKER_HOST: engine.host, WEBTASK_RUNTIME: 'runsc' },
      /has no runtime "runsc" \(it has: .*\)\. Install it, or set WEBTASK_RUNTIME/,
    )
  })

  test('the engine cannot hold tenants safely: everything that is wrong, in one message', { timeout: 60_000 }, async () => {
    await using engine = await startEngineProxy({
      info: (info) => Object.assign(info, { SecurityOptions: [], SwapLimit: false }),
      version: (version) => (version.Components.find((part: { Name: string }) => part.Name === 'runc').Version = '1.1.5+ds1'),
    })
    const settings = { DOCKER_HOST: engine.host, WEBTASK_RUNTIME: 'runc' }
    await refused(settings, /runc 1\.1\.5.*\n.*without seccomp\n.*cannot limit swap.*\n.*WEBTASK_ALLOW_UNSAFE_ENGINE=runc,seccomp,swap/)
    // Overridden in part it is still refused, for the rest.
    await refused({ ...settings, WEBTASK_ALLOW_UNSAFE_ENGINE: 'runc,swap' }, /safely:\n +The engine cannot filter system calls.*\n.*ENGINE=seccomp\n/)
  })

  test('an old runc that the operator insists on starts, and each start says so in the log', { timeout: 60_000 }, async () => {
    await using engine = await startEngineProxy({
      version: (version) => (version.Components.find((part: { Name: string }) => part.Name === 'runc').Version = '1.1.5+ds1'),
    })
    await using deployment = await startDeployment({
      DOCKER_HOST: engine.host,
      WEBTASK_RUNTIME: 'runc',
      WEBTASK_ALLOW_UNSAFE_ENGINE: 'runc',
      WEBTASK_PREWARMED: '0',
    })
    assert.equal((await deployment.run('acme', HELLO)).text, '"hello"')
    const warned = deployment.output().match(/^.*"engine\.unsafe".*$/gm)
    assert.equal(warned?.length, 1)
    assert.match(warned![0], /"level":"warn".*"check":"runc","reason":"runc 1\.1\.5/)
  })

  test('the Redis image is missing', { timeout: 60_000 }, () =>
    refused({ WEBTASK_REDIS_IMAGE: 'webtask-redis:nonexistent' }, /image "webtask-redis:nonexistent" is not there.*npm start/),
  )
})

describe('a part that is not there yet', () => {
  test('the engine: says so and how to name it, waits without looping, goes on when it appears', { timeout: 90_000 }, async () => {
    await using data = await emptyDataDir()
    const socket = path.join(data.dir, 'engine.sock')
    await using runtime = startMain({ WEBTASK_DATA_DIR: data.dir, DOCKER_HOST: `unix://${socket}` })
    await runtime.says(/Waiting for the container engine .*DOCKER_HOST/)
    const until = performance.now() + 3_000
    await eventually('three seconds of patience', () => performance.now() > until)
    assert.ok(runtime.running, runtime.output())
    assert.equal(runtime.output().match(/Waiting/g)!.length, 1, `Said too often:\n${runtime.output()}`)
    await symlink(await engineSocket(), socket)
    await runtime.says(/Ready at/)
    signalGroup(runtime.pid, 'SIGINT')
    assert.equal(await runtime.ends(), 0, runtime.output())
  })

  test('the engine: SIGTERM ends the wait promptly', { timeout: 60_000 }, async () => {
    await using data = await emptyDataDir()
    await using runtime = startMain({ WEBTASK_DATA_DIR: data.dir, DOCKER_HOST: 'unix:///tmp/nonexistent.sock' })
    await runtime.says(/Waiting for the container engine .*DOCKER_HOST/)
    process.kill(runtime.pid, 'SIGTERM')
    const code = await runtime.ends(5_000)
    assert.ok(code === 0 || code === 1, `It ended with ${code}:\n${runtime.output()}`)
    assert.equal(await exists(runDirOf(await data.id())), false)
  })

  test('Redis: says so, waits without looping, goes on when it appears; SIGTERM ends the wait promptly', { timeout: 120_000 }, async () => {
    await using redis = await createRedis()
    {
      await using data = await emptyDataDir()
      await using impatient = startMain({ WEBTASK_DATA_DIR: data.dir, REDIS_URL: redis.url })
      await impatient.says(/Waiting for Redis/)
      process.kill(impatient.pid, 'SIGTERM')
      const code = await impatient.ends(5_000)
      assert.ok(code === 0 || code === 1, `It ended with ${code}:\n${impatient.output()}`)
      assert.deepEqual(await containersOf(await data.id()), [])
    }
    await using data = await emptyDataDir()
    await using runtime = startMain({ WEBTASK_DATA_DIR: data.dir, REDIS_URL: redis.url })
    await runtime.says(/Waiting for Redis/)
    assert.match(runtime.output(), /Waiting for Redis.*(REDIS_URL|127\.0\.0\.1)/, 'says which Redis it waits for')
    assert.ok(runtime.running)
    await redis.container.start()
    await runtime.says(/Ready at/)
    assert.deepEqual(await containersOf(await data.id(), 'redis'), [], 'no Redis of its own beside the one that was named')
    signalGroup(runtime.pid, 'SIGINT')
    assert.equal(await runtime.ends(), 0, runtime.output())
    assert.deepEqual(await containersOf(await data.id()), [])
  })
})

test(
  'Redis lost while running: what is warm keeps answering, /readyz says 503 and why, and all recovers when Redis is back',
  { timeout: 180_000 },
  async () => {
    await using redis = await createRedis()
    await redis.container.start()
    await using runtime = await startDeployment({ REDIS_URL: redis.url, WEBTASK_SANDBOX_WAIT_MS: '5000' })
    await runtime.issue({ ten: 'warm', jtn: 'hello', code: HELLO })
    assert.equal((await runtime.ask('/api/run/warm/hello')).text, '"hello"')
    const readiness = async () => {
      const answer = await fetch(`${runtime.adminUrl}/readyz`, { signal: AbortSignal.timeout(5_000) })
      return { status: answer.status, body: (await answer.json()) as { missing?: string[] } }
    }
    assert.equal((await readiness()).status, 200)

    await redis.container.stop({ t: 2 })
    const lost = await eventually('/readyz notices', async () => {
      const now = await readiness()
      return now.status === 503 && now
    })
    assert.deepEqual(lost.body.missing, ['redis'])
    const until = performance.now() + 5_000
    for (let asked = 0; performance.now() < until; asked += 1) {
      const answer = await runtime.ask('/api/run/warm/hello')
      assert.deepEqual([answer.status, answer.text], [200, '"hello"'], `request ${asked} without Redis`)
    }
    const began = performance.now()
    const cold = await runtime.run('cold', HELLO)
    assert.equal(cold.status, 503, cold.text)
    assert.equal(cold.json().fault, 'platform')
    assert.ok(Number(cold.headers.get('retry-after')) >= 1, 'says when to try again')
    assert.ok(performance.now() - began < 10_000, 'does not hang')
    const unknown = await runtime.ask('/api/run/warm/not-in-memory')
    assert.deepEqual([unknown.status, unknown.json().error], [503, 'unavailable'], unknown.text)
    assert.ok(Number(unknown.headers.get('retry-after')) >= 1)
    assert.equal((await fetch(`${runtime.adminUrl}/healthz`)).status, 200, 'it is alive all the same')

    await redis.container.start()
    await eventually('/readyz recovers', async () => (await readiness()).status === 200, 15_000)
    assert.equal((await runtime.ask('/api/run/warm/hello')).text, '"hello"')
    // Each part has a connection of its own that may take its second to come back.
    await eventually('a tenant without a sandbox gets one', async () => (await runtime.run('later', HELLO)).status === 200, 30_000)
    await runtime.issue({ ten: 'later', jtn: 'named', code: HELLO })
    assert.equal((await runtime.ask('/api/run/later/named')).text, '"hello"')
    assert.equal(await runtime.stop('SIGINT'), 0)
    assert.deepEqual(await containersOf(runtime.id), [])
  },
)

for (const [what, comesBack] of [
  ['is away', false],
  ['has just come back', true],
] as const)
  test(`Ctrl-C while Redis ${what} ends in time and leaves nothing`, { timeout: 90_000 }, async () => {
    await using runtime = await startDeployment()
    assert.equal((await runtime.run('acme', HELLO)).status, 200)
    const [own] = await containersOf(runtime.id, 'redis')
    const redis = docker.getContainer(own!.Id)
    await redis.stop({ t: 2 })
    const readiness = async () => (await fetch(`${runtime.adminUrl}/readyz`)).status
    await eventually('/readyz notices', async () => (await readiness()) === 503)
    if (comesBack) await redis.start()
    const began = performance.now()
    await runtime.stop('SIGINT')
    assert.ok(performance.now() - began < 25_000, `It took ${Math.round(performance.now() - began)} ms`)
    assert.deepEqual(await containersOf(runtime.id), [])
    assert.equal(await exists(runDirOf(runtime.id)), false)
    assert.doesNotMatch(runtime.output(), /Unhandled error event/)
  })

/** A Redis that is nobody's yet: made, not started, with a loopback port of its own and data that outlives a stop. */
async function createRedis(): Promise<AsyncDisposable & { readonly url: string; readonly container: ReturnType<typeof docker.getContainer> }> {
  const image = process.env['WEBTASK_REDIS_IMAGE']
  assert.ok(image, 'WEBTASK_REDIS_IMAGE must name a Redis image; "npm test" does that')
  const [port] = await freePorts()
  const container = await docker.createContainer({
    Image: image,
    Entrypoint: ['redis-server'],
    Cmd: ['--protected-mode', 'no', '--appendonly', 'yes', '--dir', '/tmp'],
    Labels: { 'webtask.test': 'start' },
    ExposedPorts: { '6379/tcp': {} },
    HostConfig: { PortBindings: { '6379/tcp': [{ HostIp: '127.0.0.1', HostPort: port }] } },
  })
  return {
    url: `redis://127.0.0.1:${port}`,
    container,
    async [Symbol.asyncDispose]() {
      await container.remove({ force: true, v: true })
    },
  }
}
