/** PostgreSQL, MariaDB and Redis in one container, each on a loopback port of its own. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { promisify } from 'node:util'
import { CERTIFICATE } from './certificate.ts'
import { docker, eventually } from './docker.ts'

const run = promisify(execFile)
const IMAGE = 'webtask-test-servers'

export interface Servers extends AsyncDisposable {
  readonly postgres: number
  readonly mariadb: number
  readonly redis: number
}

/** The user and the password of each is "webtask"; PostgreSQL also speaks TLS, with the tests' certificate. */
export async function startServers(): Promise<Servers> {
  const base = process.env.NODE_IMAGE
  const folder = path.join(import.meta.dirname, '../e2e/servers')
  await run('docker', ['build', '-q', '-t', IMAGE, ...(base === undefined ? [] : ['--build-arg', `BASE=${base}`]), folder], { maxBuffer: 1 << 26 })
  const ports = ['5432/tcp', '3306/tcp', '6379/tcp'] as const
  const container = await docker.createContainer({
    Image: IMAGE,
    name: `webtask-test-servers-${randomBytes(4).toString('hex')}`,
    Env: [`CERT=${CERTIFICATE.cert}`, `KEY=${CERTIFICATE.key}`],
    ExposedPorts: Object.fromEntries(ports.map((port) => [port, {}])),
    HostConfig: { PortBindings: Object.fromEntries(ports.map((port) => [port, [{ HostIp: '127.0.0.1' }]])), Init: true },
  })
  const stop = () => container.remove({ force: true, v: true }).then(() => {})
  try {
    await container.start()
    await eventually(
      'the databases',
      async () => {
        const log = String(await container.logs({ stdout: true, stderr: true }))
        return /ready to accept connections/.test(log) && /mariadbd: ready for connections/.test(log) && /Ready to accept connections/.test(log)
      },
      60_000,
    )
    const { Ports } = (await container.inspect()).NetworkSettings
    const [postgres, mariadb, redis] = ports.map((port) => Number(Ports[port]?.[0]?.HostPort))
    return { postgres: postgres!, mariadb: mariadb!, redis: redis!, [Symbol.asyncDispose]: stop }
  } catch (error) {
    await stop()
    throw error
  }
}
