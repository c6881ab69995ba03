import { chown, mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import type { ContainerDriver } from './driver.ts'
import { LABEL } from './spec.ts'

/** Root runs the managed Redis as this uid instead: the database needs no rights on the host but to its two directories. */
const REDIS_UID = 65_532

export interface RedisContainer extends AsyncDisposable {
  readonly url: string
}

/**
 * The deployment's own Redis: a container without a network, reached over a unix socket in the run directory, with its
 * data in the data directory. An acknowledged write survives a crash (AOF, fsync always), and nothing is evicted.
 * Takes the place of one that an earlier run left behind. Disposing removes the container and keeps the data.
 */
export async function startRedisContainer(options: {
  driver: ContainerDriver
  deployment: string
  image: string
  dataDir: string
  runDir: string
  uid: number
}): Promise<RedisContainer> {
  const { driver, deployment } = options
  const dataDir = path.join(path.resolve(options.dataDir), 'redis')
  const socketDir = path.join(options.runDir, 'redis')
  const uid = options.uid === 0 ? REDIS_UID : options.uid
  for (const left of await driver.list(`${LABEL.deployment}=${deployment}`)) if (left.labels[LABEL.part] === 'redis') await driver.remove(left.id)
  for (const directory of [dataDir, socketDir]) {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    if (options.uid === 0) await chown(directory, uid, uid)
  }
  await rm(path.join(socketDir, 'redis.sock'), { force: true })
  const id = await driver.create(`webtask-redis-${deployment}`, {
    Image: options.image,
    User: `${uid}:${uid}`,
    Entrypoint: ['redis-server'],
    Cmd: [
      '--port',
      '0',
      '--unixsocket',
      '/run/redis/redis.sock',
      '--unixsocketperm',
      '700',
      '--dir',
      '/data',
      '--appendonly',
      'yes',
      '--appendfsync',
      'always',
      '--save',
      '',
      '--maxmemory-policy',
      'noeviction',
      '--daemonize',
      'no',
    ],
    WorkingDir: '/data',
    Labels: { [LABEL.deployment]: deployment, [LABEL.part]: 'redis' },
    HostConfig: {
      NetworkMode: 'none',
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges:true'],
      ReadonlyRootfs: true,
      PidsLimit: 64,
      Init: true,
      RestartPolicy: { Name: 'on-failure' },
      LogConfig: { Type: 'none', Config: {} },
      Mounts: [
        { Type: 'bind', Source: dataDir, Target: '/data' },
        { Type: 'bind', Source: socketDir, Target: '/run/redis' },
      ],
    },
  })
  await driver.start(id)
  return {
    url: `unix://${path.join(socketDir, 'redis.sock')}`,
    async [Symbol.asyncDispose]() {
      await driver.remove(id)
      await rm(socketDir, { recursive: true, force: true })
    },
  }
}
