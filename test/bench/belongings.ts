import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { Redis } from 'ioredis'
import type { Deployment } from '../support/deployment.ts'
import { containersOf } from '../support/docker.ts'

/** What a running deployment holds, by all that could be forgotten to be given back. */
export interface Belongings {
  readonly containers: number
  /** Rendezvous directories, and those of ways out. */
  readonly directories: number
  readonly egressDirectories: number
  /** Of the runtime's process. */
  readonly descriptors: number
  readonly rssMb: number
  readonly redisKeys: number
  readonly records: number
  readonly seats: number
  /** Entries of all queues and lists of jobs. */
  readonly jobs: number
}

const sizes = {
  list: (redis: Redis, key: string) => redis.llen(key),
  zset: (redis: Redis, key: string) => redis.zcard(key),
  set: (redis: Redis, key: string) => redis.scard(key),
} as const

async function inRedis(deployment: Deployment): Promise<Pick<Belongings, 'redisKeys' | 'records' | 'seats' | 'jobs'>> {
  const redis = new Redis(path.join(deployment.runDir, 'redis/redis.sock'))
  try {
    const keys = await redis.keys('*')
    const one = async (end: string) => {
      const key = keys.find((name) => name.endsWith(end))
      return key === undefined ? 0 : redis.hlen(key)
    }
    let jobs = 0
    for (const key of keys.filter((name) => name.includes(':bull'))) {
      const type = (await redis.type(key)) as keyof typeof sizes
      if (type in sizes) jobs += await sizes[type](redis, key)
    }
    return { redisKeys: keys.length, records: await one(':sandboxes'), seats: await one(':seats'), jobs }
  } finally {
    redis.disconnect()
  }
}

export async function belongingsOf(deployment: Deployment): Promise<Belongings> {
  const proc = `/proc/${deployment.process.pid}`
  const count = async (directory: string) => (await readdir(directory)).length
  return {
    containers: (await containersOf(deployment.id, 'sandbox')).length,
    directories: await count(path.join(deployment.runDir, 's')),
    egressDirectories: await count(path.join(deployment.runDir, 'e')),
    descriptors: await count(`${proc}/fd`),
    rssMb: Math.round((Number(/^VmRSS:\s+(\d+) kB/m.exec(await readFile(`${proc}/status`, 'utf8'))![1]) * 1024) / 1e6),
    ...(await inRedis(deployment)),
  }
}
