import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import net from 'node:net'
import path from 'node:path'
import { test, type TestContext } from 'node:test'
import { promisify } from 'node:util'
import type Docker from 'dockerode'
import { containersOf, docker, eventually } from '../support/docker.ts'

/**
 * `docker compose up`, as a person would type it, with a project, ports and image names of its own. A first build on a
 * machine without caches installs npm packages twice, hence the patience.
 */
const UP_MS = 240_000
const READY_MS = 60_000
const SECRET = `tenant-${randomBytes(8).toString('hex')}`

const ROOT = path.resolve(import.meta.dirname, '../..')
const run = promisify(execFile)
const id = `t${randomBytes(4).toString('hex')}`
const project = `webtask-${id}`
const server = `webtask-server:${id}`
const agent = `webtask-agent:${id}`

const client = await clientWithCompose()
const skip = client === undefined && 'Docker Compose v2 is not installed ("docker compose version" does not answer with 2 or later)'

test(
  'docker compose up serves from separate services, each with only the powers of its role; down -v leaves nothing',
  { skip, timeout: 300_000 },
  async (t) => {
    const [port, adminPort] = await freePorts()
    const settings = {
      WEBTASK_PORT: port,
      WEBTASK_ADMIN_PORT: adminPort,
      WEBTASK_DEPLOYMENT: id,
      WEBTASK_SERVER_IMAGE: server,
      WEBTASK_AGENT_IMAGE: agent,
    }
    const compose = async (...args: string[]) =>
      (
        await run(client!, ['compose', '--project-name', project, '--progress', 'plain', ...args], {
          cwd: ROOT,
          env: { ...environment(), ...settings },
          timeout: UP_MS,
          maxBuffer: 2 ** 26,
        })
      ).stdout
    try {
      await compose('up', '--detach')
      await eventually(
        '/readyz',
        () =>
          fetch(`http://127.0.0.1:${adminPort}/readyz`).then(
            (answer) => answer.ok,
            () => false,
          ),
        READY_MS,
      ).catch(async (error: Error) => {
        throw new Error(`${error.message}\n${await compose('logs', '--no-color', '--tail', '50')}`, { cause: error })
      })
      await inspectRunning(t, { url: `http://127.0.0.1:${port}`, compose })
    } finally {
      await compose('down', '--volumes')
      await t.test('down -v leaves no container, network or volume, sandboxes included', nothingIsLeft)
      await clearAway()
    }
  },
)

async function inspectRunning(t: TestContext, { url, compose }: { url: string; compose: (...args: string[]) => Promise<string> }): Promise<void> {
  const master = (await compose('exec', '-T', 'gateway', 'cat', '/data/master.token')).trim()

  await t.test("the master token in the gateway's volume issues a token, and its named webtask answers", async () => {
    const issued = await fetch(`${url}/api/tokens/issue`, {
      method: 'POST',
      headers: { authorization: `Bearer ${master}`, 'content-type': 'application/json' },
      body: JSON.stringify({
        ten: 'acme',
        jtn: 'hello',
        ectx: { name: SECRET },
        code: 'module.exports = (ctx, cb) => cb(null, `hello ${ctx.secrets.name} ${ctx.query.q}`)',
      }),
    })
    assert.equal(issued.status, 200, await issued.clone().text())
    const answer = await fetch(`${url}/api/run/acme/hello?q=1`)
    assert.deepEqual([answer.status, await answer.text()], [200, `"hello ${SECRET} 1"`])
  })

  await t.test('a webtask goes out by way of the egress service, which refuses what is not public', async () => {
    const code = "module.exports = cb => require('net').connect(80, '169.254.169.254').on('error', e => cb(null, e.code))"
    const headers = { authorization: `Bearer ${master}` }
    const answer = await fetch(`${url}/api/run/acme`, { method: 'POST', headers, body: code })
    assert.deepEqual([answer.status, await answer.text()], [200, '"EACCES"'])
    await eventually('the line in the log', async () => /egress\.closed/.test(await compose('logs', '--no-color', 'egress')))
  })

  const services = await inspectServices()
  const sandboxes = await Promise.all((await containersOf(id, 'sandbox')).map(({ Id }) => docker.getContainer(Id).inspect()))
  const everybody = [...Object.entries(services), ...sandboxes.map((sandbox) => ['sandbox', sandbox] as const)]

  await t.test('the services are four, and sandboxes run beside them', () => {
    assert.deepEqual(Object.keys(services).toSorted(), ['egress', 'gateway', 'orchestrator', 'redis'])
    assert.ok(sandboxes.length >= 1)
  })

  await t.test('only the orchestrator reaches the engine', () => {
    const holders = everybody.filter(([, { Mounts }]) => Mounts.some(({ Source, Destination }) => [Source, Destination].some(leadsToEngine)))
    assert.deepEqual(
      holders.map(([name]) => name),
      ['orchestrator'],
    )
  })

  await t.test('nobody has a capability or can gain one, or writes to its own image', async () => {
    for (const [name, { Id, State, HostConfig }] of everybody) {
      const { Privileged, CapAdd, SecurityOpt, ReadonlyRootfs, PidMode } = HostConfig
      assert.deepEqual(
        { Privileged, CapAdd: CapAdd ?? [], ReadonlyRootfs, PidMode },
        { Privileged: false, CapAdd: [], ReadonlyRootfs: true, PidMode: '' },
        name,
      )
      assert.ok(
        SecurityOpt?.some((option: string) => /^no-new-privileges(:true)?$/.test(option)),
        name,
      )
      // What the kernel says, not what was asked for. Nothing is ever executed in a sandbox, which may be paused besides.
      const program = name === 'redis' ? ['cat', '/proc/1/status'] : ['node', '-p', 'require("fs").readFileSync("/proc/1/status", "utf8")']
      const status = name === 'sandbox' ? await readFile(`/proc/${State.Pid}/status`, 'utf8') : await inside(Id, program)
      assert.deepEqual(status.match(/^Cap\w+:\s+\S*[^0\s]\S*$/gm), null, `${name}:\n${status}`)
      assert.match(status, /^NoNewPrivs:\s+1$/m, name)
    }
  })

  await t.test(
    'the egress service sees the ways out alone, not the sockets to which agents connect, and cannot replace a directory that is mounted',
    async () => {
      const tried = `for (const name of ["x", fs.readdirSync("/run/webtask/${id}/e")[0]]) try { name === "x" ? fs.mkdirSync("/run/webtask/${id}/e/x") : fs.renameSync("/run/webtask/${id}/e/" + name, "/run/webtask/${id}/e/y"); console.log("done") } catch (e) { console.log(e.code) }`
      assert.equal(await inside(services['egress']!.Id, ['node', '-e', tried]), 'EACCES\nEACCES\n')
      assert.deepEqual(services['egress']!.Mounts.map(({ Destination }) => Destination).toSorted(), [`/run/webtask/${id}/e`, `/run/webtask/${id}/g`])
    },
  )

  await t.test('the keys are mounted for the gateway alone', () => {
    const holders = everybody.filter(([, { Mounts }]) => Mounts.some((mount) => mount.Name === `${project}_keys`))
    assert.deepEqual(
      holders.map(([name]) => name),
      ['gateway'],
    )
    const volumes = everybody.flatMap(([name, { Mounts }]) => Mounts.filter(({ Type }) => Type === 'volume').map((mount) => `${name} ${mount.Name}`))
    assert.deepEqual(volumes.toSorted(), [`gateway ${project}_keys`, `redis ${project}_redis`])
  })

  await t.test('no secret is in an environment or a command line', async () => {
    const ring = await compose('exec', '-T', 'gateway', 'cat', '/data/keys/ring.json')
    const secrets = [master, SECRET, ...stringsOf(JSON.parse(ring)).filter((text) => text.length >= 32)]
    assert.ok(secrets.length >= 4, 'the keys were found')
    for (const [name, { Config, Args }] of everybody) {
      const shown = JSON.stringify([Config.Env, Config.Cmd, Config.Labels, Args])
      assert.equal(secrets.filter((secret) => shown.includes(secret)).length, 0, name)
      // A Redis image names the checksum of its source so; nothing else may sound like a secret.
      assert.deepEqual(
        (Config.Env ?? []).filter((entry) => /^[^=]*(TOKEN|SECRET|PASSWORD|_KEY)/i.test(entry)),
        [],
        name,
      )
    }
  })

  await t.test("the way out is the egress service's alone, and only the gateway is published", async () => {
    const networks = Object.fromEntries(
      Object.entries(services).map(([name, { NetworkSettings }]) => [name, Object.keys(NetworkSettings.Networks).toSorted()]),
    )
    const [inner, front, outside] = ['inside', 'front', 'outside'].map((name) => `${project}_${name}`)
    assert.deepEqual(networks, { gateway: [front, inner], orchestrator: [inner], redis: [inner], egress: [outside] })
    assert.equal(((await docker.getNetwork(inner!).inspect()) as Docker.NetworkInspectInfo).Internal, true)
    assert.deepEqual(
      sandboxes.map(({ HostConfig }) => HostConfig.NetworkMode),
      sandboxes.map(() => 'none'),
    )
    const published = Object.entries(services).filter(
      ([, { HostConfig }]) => Object.keys((HostConfig.PortBindings as object | null) ?? {}).length > 0,
    )
    assert.deepEqual(
      published.map(([name]) => name),
      ['gateway'],
    )
    const bound = Object.values(services['gateway']!.HostConfig.PortBindings as Record<string, { HostIp: string }[]>).flat()
    assert.deepEqual(
      bound.map(({ HostIp }) => HostIp),
      ['127.0.0.1', '127.0.0.1'],
    )
  })
}

/** The running services by name; the one that only makes an image has ended. */
async function inspectServices(): Promise<Record<string, Docker.ContainerInspectInfo>> {
  const running = await docker.listContainers({ filters: { label: [`com.docker.compose.project=${project}`, 'com.docker.compose.config-hash'] } })
  return Object.fromEntries(
    await Promise.all(
      running.map(async ({ Id, Labels }) => [Labels['com.docker.compose.service']!, await docker.getContainer(Id).inspect()] as const),
    ),
  )
}

/** The socket itself, or a directory that holds it. */
function leadsToEngine(file: string): boolean {
  return file.endsWith('docker.sock') || ['/', '/run', '/var', '/var/run'].includes(file.replace(/(?<=.)\/$/, ''))
}

async function inside(container: string, command: string[]): Promise<string> {
  return (await run(client!, ['exec', container, ...command])).stdout
}

async function nothingIsLeft(): Promise<void> {
  const ours = { label: [`com.docker.compose.project=${project}`] }
  assert.deepEqual(await docker.listContainers({ all: true, filters: ours }), [], 'containers')
  assert.deepEqual(await containersOf(id), [], 'sandboxes')
  assert.deepEqual(await docker.listNetworks({ filters: ours }), [], 'networks')
  assert.deepEqual((await docker.listVolumes({ filters: ours })).Volumes ?? [], [], 'volumes')
}

/** Our images, and the sockets' directory, which the engine made for root; also sandboxes that a failure left. */
async function clearAway(): Promise<void> {
  for (const { Id } of await containersOf(id)) await docker.getContainer(Id).remove({ force: true })
  const images = (await docker.listImages({ filters: { reference: [server, agent] } })).flatMap(({ RepoTags }) => RepoTags ?? [])
  const remove = `fs.rmSync("/run/webtask/${id}", { recursive: true, force: true })`
  if (images.includes(server))
    await run(client!, ['run', '--rm', '--network', 'none', '--volume', '/run/webtask:/run/webtask', '--entrypoint', 'node', server, '-e', remove])
  if (images.length > 0) await run(client!, ['image', 'rm', ...images])
}

/** Nothing of ours but the base images and the machine's certificates: what a person's shell would have. */
function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(WEBTASK_|COMPOSE_|REDIS_URL$)/.test(name)))
}

/** An old client may come first on the path, as in images/docker.mjs. */
async function clientWithCompose(): Promise<string | undefined> {
  for (const candidate of ['docker', '/usr/bin/docker', '/usr/local/bin/docker']) {
    const { stdout } = await run(candidate, ['compose', 'version', '--short'], { timeout: 10_000 }).catch(() => ({ stdout: '' }))
    if (Number.parseInt(stdout.replace(/^v/, ''), 10) >= 2) return candidate
  }
  return undefined
}

async function freePorts(): Promise<[string, string]> {
  const servers = [net.createServer(), net.createServer()]
  for (const listening of servers) await once(listening.listen(0, '127.0.0.1'), 'listening')
  const ports = servers.map((listening) => String((listening.address() as net.AddressInfo).port))
  for (const listening of servers) await new Promise((resolve) => listening.close(resolve))
  return ports as [string, string]
}

function stringsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value]
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(stringsOf) : []
}
