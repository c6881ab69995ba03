import { execFile, spawn } from 'node:child_process'
import { existsSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { createLog } from '../../src/log.ts'
import { connectRedis, waitForRedis } from '../../src/redis.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'
import { onlyColdRefused, pass, type Drill } from './case.ts'
import type { Failure } from './load.ts'

const DAEMON_PID = '/var/run/docker.pid'
const isCold = ({ kind, what }: Failure) => kind === 'cold' && /^50[03] \w+( retry-after)?$/.test(what)

async function sandboxesOf(id: string): Promise<number> {
  return (await containersOf(id, 'sandbox')).length
}

/** Records, seats and jobs are gone, as after a failover to an empty copy; what tenants stored stays, or nothing could be asked for. */
async function forgetSandboxes(redisUrl: string, id: string): Promise<void> {
  const redis = connectRedis(redisUrl, createLog('silent', 'drill'))
  try {
    await waitForRedis(redis, { signal: AbortSignal.timeout(5_000), waiting: () => {} })
    const kept = ['webtasks', 'code'].map((name) => `webtask:${id}:${name}:`)
    const keys = (await redis.keys(`webtask:${id}:*`)).filter((key) => !kept.some((prefix) => key.startsWith(prefix)))
    await redis.del(...keys)
  } finally {
    redis.disconnect()
  }
}

/** Services below that are away, hang or lie. */
export const OUTAGE_DRILLS: readonly Drill[] = [
  {
    name: 'Redis killed for 30 s',
    allows: isCold,
    most: 60,
    async fault({ roles }) {
      await roles.redis.kill()
      await pass(30_000)
      await roles.redis.start()
    },
  },
  {
    name: 'Redis answers 200 ms late for 10 s',
    allows: isCold,
    most: 5,
    async fault({ roles }) {
      await roles.redisWire.set({ latencyMs: 100, jitterMs: 50 })
      await pass(10_000)
      await roles.redisWire.heal()
    },
  },
  {
    name: 'Redis does not answer for 15 s',
    allows: isCold,
    most: 40,
    async fault({ roles }) {
      await roles.redisWire.set({ stalled: true })
      await pass(15_000)
      await roles.redisWire.heal()
    },
  },
  {
    name: 'all connections to Redis are reset, again and again',
    allows: isCold,
    most: 20,
    async fault({ roles }) {
      for (let i = 0; i < 10; i += 1) {
        roles.redisWire.reset()
        await pass(500)
      }
    },
  },
  {
    name: 'Redis forgets everything but names',
    allows: isCold,
    most: 10,
    async fault({ roles }) {
      const before = (await containersOf(roles.id, 'sandbox')).map(({ Id }) => Id)
      await forgetSandboxes(roles.redisUrl, roles.id)
      await pass(8_000)
      const after = new Set((await containersOf(roles.id, 'sandbox')).map(({ Id }) => Id))
      const kept = before.filter((id) => after.has(id)).length
      // The prewarmed one was nobody's.
      if (kept < before.length - 3) throw new Error(`Of ${before.length} sandboxes ${kept} were kept`)
    },
  },
  {
    name: 'the engine hangs for 20 s',
    allows: onlyColdRefused,
    most: 40,
    async fault({ engine }) {
      engine.fault = () => 'stall'
      await pass(20_000)
      engine.fault = undefined
    },
  },
  {
    name: 'the engine is away for 10 s',
    allows: onlyColdRefused,
    most: 40,
    async fault({ engine }) {
      engine.fault = () => 'away'
      await pass(10_000)
      engine.fault = undefined
    },
  },
  {
    name: 'answers to creates are lost',
    allows: onlyColdRefused,
    most: 20,
    async fault({ engine }) {
      engine.fault = (method, path) => (method === 'POST' && path.startsWith('/containers/create') ? 'lose' : undefined)
      await pass(5_000)
      engine.fault = undefined
    },
  },
  {
    name: 'answers to starts are lost',
    allows: onlyColdRefused,
    most: 20,
    async fault({ engine }) {
      engine.fault = (method, path) => (method === 'POST' && path.endsWith('/start') ? 'lose' : undefined)
      await pass(5_000)
      engine.fault = undefined
    },
  },
  {
    name: '"removal in progress" for 5 s',
    settings: { WEBTASK_SANDBOX_IDLE_SECONDS: '2', WEBTASK_SANDBOX_PAUSE_SECONDS: '2' },
    allows: onlyColdRefused,
    async fault({ engine }) {
      engine.fault = (method) => (method === 'DELETE' ? 'refuse' : undefined)
      await pass(5_000)
      engine.fault = undefined
    },
  },
  {
    name: 'the orchestrator dies between create and start',
    allows: onlyColdRefused,
    async fault({ engine, roles }) {
      const before = await sandboxesOf(roles.id)
      engine.fault = (method, path) => (method === 'POST' && path.endsWith('/start') ? 'stall' : undefined)
      await eventually('a created container', async () => (await sandboxesOf(roles.id)) > before, 10_000)
      await roles.orchestrator.stop('SIGKILL')
      engine.fault = undefined
      await roles.orchestrator.start()
    },
  },
  {
    name: 'dockerd killed for 5 s (live-restore)',
    allows: onlyColdRefused,
    async skip() {
      if (existsSync('/run/systemd/system') || !existsSync(DAEMON_PID)) return 'the engine here is not one that npm start started'
      const { LiveRestoreEnabled } = (await docker.info()) as { LiveRestoreEnabled?: boolean }
      return LiveRestoreEnabled === true ? undefined : 'the engine here does not restore running containers'
    },
    async fault() {
      const pid = Number(await readFile(DAEMON_PID, 'utf8'))
      const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').filter(Boolean)
      const environment = (await readFile(`/proc/${pid}/environ`, 'utf8'))
        .split('\0')
        .filter(Boolean)
        .map((line) => line.split(/=(.*)/s).slice(0, 2))
      process.kill(pid, 'SIGKILL')
      await pass(5_000)
      const log = openSync('/var/log/dockerd.log', 'a', 0o600)
      spawn(command[0]!, command.slice(1), { detached: true, cwd: '/', stdio: ['ignore', log, log], env: Object.fromEntries(environment) }).unref()
      await eventually(
        'the engine answers',
        () =>
          promisify(execFile)('docker', ['version']).then(
            () => true,
            () => false,
          ),
        60_000,
      )
    },
  },
]
