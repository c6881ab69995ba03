import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { connectRedis, waitForRedis } from '../../src/redis.ts'
import { createLog } from '../../src/log.ts'
import { createSandboxStore } from '../../src/sandbox/store.ts'
import { containersOf } from '../support/docker.ts'
import type { Roles } from '../support/roles.ts'

/** What does not fit together after a drill; all empty when records, engine and directories agree. */
export interface Aftermath {
  /** Containers that no record knows. */
  readonly orphans: readonly string[]
  /** Records without a running container. */
  readonly ghosts: readonly string[]
  /** Rendezvous directories of neither. */
  readonly directories: readonly string[]
  /** Tenants with two sandboxes. */
  readonly twins: readonly string[]
  /** Jobs that are still there though nothing is to be done. */
  readonly jobs: number
}

const SILENT = createLog('silent', 'drill')

export async function lookAround(roles: Roles): Promise<Aftermath> {
  const redis = connectRedis(roles.redisUrl, SILENT)
  try {
    await waitForRedis(redis, { signal: AbortSignal.timeout(5_000), waiting: () => {} })
    const prefix = `webtask:${roles.id}`
    const records = await createSandboxStore(redis, prefix).list()
    const containers = (await containersOf(roles.id, 'sandbox')).map(({ Labels, State }) => ({ id: Labels['webtask.sandbox']!, State }))
    const living = new Set(records.map(({ id }) => id))
    const running = new Set(containers.filter(({ State }) => State === 'running' || State === 'paused').map(({ id }) => id))
    const seats = records.flatMap((record) => ('seat' in record && record.seat !== null ? [record.seat] : []))
    const directories = await readdir(path.join(roles.runDir, 's'))
    const failed = await redis.llen(`${prefix}:bull:lifecycle:active`)
    return {
      orphans: containers.filter(({ id }) => !living.has(id)).map(({ id }) => id),
      ghosts: records.filter(({ id, state }) => state !== 'starting' && !running.has(id)).map(({ id }) => id),
      directories: directories.filter((name) => !living.has(name)),
      twins: seats.filter((seat, index) => seats.indexOf(seat) !== index),
      jobs: failed,
    }
  } finally {
    redis.disconnect()
  }
}

export const isClean = ({ orphans, ghosts, directories, twins, jobs }: Aftermath): boolean =>
  orphans.length + ghosts.length + directories.length + twins.length + jobs === 0
