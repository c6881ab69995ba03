/**
 * A Docker engine to work with: the one that is there, or one that we install (Debian, root) and start.
 * Plain JavaScript for Node 20, because it runs before the pinned Node is installed.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { osRelease } from './apt-sources.mjs'
import { ask, run, SetupError } from './command.mjs'
import { installEngine } from './debian.mjs'

const SOCKET = '/var/run/docker.sock'
const DAEMON_JSON = '/etc/docker/daemon.json'
const DAEMON_LOG = '/var/log/dockerd.log'
const DAEMON_PID = '/var/run/docker.pid'
const DAEMON_PATHS = ['/usr/bin/dockerd', '/usr/local/bin/dockerd', '/usr/sbin/dockerd']
const DAEMON_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const START_TIMEOUT_MS = 60_000

/** What the engine is set up with when the machine had no settings of its own. Reasons are in SECURITY.md. */
const DAEMON_SETTINGS = {
  runtimes: {
    runsc: { path: '/usr/bin/runsc', runtimeArgs: ['--platform=systrap', '--network=none', '--host-uds=open'] },
  },
  'live-restore': true,
  'userland-proxy': false,
  'no-new-privileges': true,
  'log-driver': 'local',
  'default-ulimits': { core: { Name: 'core', Hard: 0, Soft: 0 } },
}

/**
 * Resolves with `{ host, version }` of an engine that answers; `host` is a DOCKER_HOST value. Installs and starts one where it may;
 * refuses with a SetupError that says what to do where it may not.
 */
export async function ensureEngine({ yes = false, progress }) {
  const running = await findEngine()
  if (running) return running
  if (process.env.DOCKER_HOST) {
    throw new SetupError(`No engine answers at DOCKER_HOST "${process.env.DOCKER_HOST}": start it or unset DOCKER_HOST, and start again`)
  }
  if (process.platform !== 'linux') throw new SetupError('No Docker engine answers: start Docker Desktop (or another engine), and start again')
  if (!existsDaemon()) {
    await permitInstall(yes)
    await installEngine(progress)
  }
  await startDaemon(progress)
  const engine = await findEngine()
  if (!engine) throw new SetupError(`The Docker engine started but does not answer at ${SOCKET}: look at ${DAEMON_LOG}`)
  return engine
}

/** The engine that answers now, or undefined: DOCKER_HOST, else the current docker context, else the usual socket. */
async function findEngine() {
  const host = process.env.DOCKER_HOST || (hasContext() && (await contextHost())) || `unix://${SOCKET}`
  const version = await engineVersion(host)
  return version && { host, version }
}

async function engineVersion(host) {
  if (host.startsWith('unix://')) return socketVersion(host.slice('unix://'.length))
  return (await ask('docker', ['version', '--format', '{{.Server.Version}}'], { env: { DOCKER_HOST: host }, timeout: 10_000 })) || undefined
}

function socketVersion(socketPath) {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path: '/version', timeout: 10_000 }, async (response) => {
      let text = ''
      for await (const chunk of response) text += chunk
      resolve(response.statusCode === 200 ? JSON.parse(text).Version : undefined)
    })
    asked.on('timeout', () => asked.destroy())
    asked.on('error', (error) => {
      if (error.code !== 'EACCES') return resolve(undefined)
      reject(
        new SetupError(`No permission for ${socketPath}: add yourself to its group (sudo usermod -aG docker $USER), log in again, and start again`),
      )
    })
    asked.end()
  })
}

function hasContext() {
  if (process.env.DOCKER_CONTEXT) return true
  const path = join(process.env.DOCKER_CONFIG || join(homedir(), '.docker'), 'config.json')
  return existsSync(path) && readFileSync(path, 'utf8').includes('"currentContext"')
}

async function contextHost() {
  return ask('docker', ['context', 'inspect', '--format', '{{.Endpoints.docker.Host}}'], { timeout: 10_000 })
}

function existsDaemon() {
  return DAEMON_PATHS.find((path) => existsSync(path))
}

async function permitInstall(yes) {
  const { ID, PRETTY_NAME = 'this system' } = osRelease()
  if (ID !== 'debian') {
    throw new SetupError(
      `No Docker engine answers, and only Debian can be set up automatically (this is ${PRETTY_NAME}).\n` +
        'Install Docker Engine 28 or newer (https://docs.docker.com/engine/install/), start it, check that "docker version" shows a server, and start again',
    )
  }
  if (process.getuid() !== 0) {
    throw new SetupError(
      'No Docker engine answers, and installing one needs root. Either\n' +
        '  run this command once as root: sudo npm start\n' +
        '  or have an administrator install Docker Engine 28 or newer (https://docs.docker.com/engine/install/debian/) and add you to the group "docker"',
    )
  }
  if (yes || !process.stdin.isTTY || !process.stdout.isTTY) return
  const prompt = createInterface({ input: process.stdin, output: process.stdout })
  const closed = new Promise((resolve) => prompt.once('close', () => resolve('no')))
  const question = prompt.question('No Docker engine is installed. Install Docker Engine and gVisor from Debian packages now? [Y/n] ')
  const answer = await Promise.race([question, closed])
  prompt.close()
  if (!/^(y|yes|)$/i.test(answer.trim())) {
    throw new SetupError('Nothing was installed. Install and start Docker Engine 28 or newer yourself, and start again')
  }
}

async function startDaemon({ step }) {
  const systemd = existsSync('/run/systemd/system')
  if (process.getuid() !== 0) {
    throw new SetupError(
      `The Docker engine is installed but not running. Start it (${systemd ? 'sudo systemctl start docker' : 'sudo dockerd'}), and start again`,
    )
  }
  const settings = writeSettings()
  await step('Starting Docker Engine', async () => {
    if (systemd) await run('systemctl', [settings ? 'restart' : 'start', 'docker'])
    const daemon = systemd ? undefined : spawnDaemon()
    for (const begun = Date.now(); Date.now() - begun < START_TIMEOUT_MS; await sleep(100)) {
      if (await socketVersion(SOCKET)) return
      if (daemon?.exitCode != null && !existsSync(DAEMON_PID)) break
    }
    throw new SetupError(`The Docker engine did not start: ${lastLines(DAEMON_LOG) || 'see "journalctl -u docker"'}`)
  })
}

/** Writes daemon.json when the machine has none; settings that someone made are theirs. */
function writeSettings() {
  if (existsSync(DAEMON_JSON)) return false
  mkdirSync('/etc/docker', { recursive: true })
  const { runtimes, ...rest } = DAEMON_SETTINGS
  const settings = existsSync(runtimes.runsc.path) ? DAEMON_SETTINGS : rest
  writeFileSync(DAEMON_JSON, `${JSON.stringify(settings, null, 2)}\n`)
  return true
}

/**
 * Without an init system nobody looks after daemons: dockerd gets its own session and a log file, and outlives us. It gets none of
 * our environment but the proxy; its PATH finds our runc first.
 */
function spawnDaemon() {
  const log = openSync(DAEMON_LOG, 'a', 0o600)
  const proxy = Object.entries(process.env).filter(([name]) => /^(https?|no)_proxy$/i.test(name))
  const env = { ...Object.fromEntries(proxy), PATH: DAEMON_PATH, HOME: '/root' }
  const daemon = spawn(existsDaemon(), [], { detached: true, cwd: '/', stdio: ['ignore', log, log], env })
  daemon.unref()
  return daemon
}

function lastLines(path) {
  return existsSync(path) ? `${path} ends with\n  ${readFileSync(path, 'utf8').trimEnd().split('\n').slice(-8).join('\n  ')}` : ''
}
