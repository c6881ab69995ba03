import Docker from 'dockerode'
import { cgroupCpuNanos, killGroup } from './cgroup.ts'
import { EngineFailure, type Container, type ContainerDriver } from './driver.ts'

/** Longest a verb may take (ms). Peers learnt that a busy daemon takes tens of seconds for a start or a removal. */
const VERB_TIMEOUT_MS = { info: 5_000, list: 10_000, create: 20_000, start: 20_000, pause: 10_000, stats: 5_000, remove: 20_000 } as const
/** Pause before the event stream is opened again after it broke (ms). */
const REWATCH_MS = 500

function isStatus(error: unknown, ...statuses: number[]): boolean {
  return statuses.includes((error as { statusCode?: number }).statusCode ?? 0)
}

async function unlessGone<T>(asking: Promise<T>): Promise<T | undefined> {
  try {
    return await asking
  } catch (error) {
    if (isStatus(error, 404)) return undefined
    throw error
  }
}

/** What we read of the engine's answers; engines other than Docker leave parts out. */
interface DockerInfo {
  readonly ServerVersion: string
  readonly Architecture?: string
  readonly Runtimes?: object
  readonly SecurityOptions?: readonly string[]
  readonly MemoryLimit?: boolean
  readonly SwapLimit?: boolean
  readonly PidsLimit?: boolean
  readonly CpuCfsQuota?: boolean
  readonly CpuCfsPeriod?: boolean
  readonly Swarm?: { readonly LocalNodeState?: string }
}
interface DockerVersion {
  readonly Components?: readonly { readonly Name: string; readonly Version: string }[]
}

/** The container engine behind the driver's port: the only place that knows Docker's API. */
export function createDockerDriver(): ContainerDriver {
  // Reads DOCKER_HOST and its relatives as the docker client does.
  const docker = new Docker()

  async function within<T>(verb: keyof typeof VERB_TIMEOUT_MS, act: (signal: AbortSignal) => Promise<T>): Promise<T> {
    try {
      return await act(AbortSignal.timeout(VERB_TIMEOUT_MS[verb]))
    } catch (error) {
      if ((error as { statusCode?: number }).statusCode !== undefined) throw error
      throw new EngineFailure(`The engine did not answer "${verb}": ${(error as Error).message}`, { cause: error })
    }
  }

  /** Already so, or gone, is as good as done. */
  async function settled(act: Promise<unknown>): Promise<void> {
    await act.catch((error: Error) => {
      if (!isStatus(error, 304, 404, 409) && !/(already|not) paused|not running/.test(error.message)) throw error
    })
  }

  async function unpause(id: string): Promise<void> {
    await settled(within('pause', (abortSignal) => docker.getContainer(id).unpause({ abortSignal })))
  }

  async function remove(id: string): Promise<void> {
    const container = docker.getContainer(id)
    try {
      // A signal reaches nobody who is frozen: the engine would wait ten seconds for a paused one under gVisor.
      await unpause(id)
      await within('remove', (abortSignal) => container.remove({ force: true, v: true, abortSignal }))
    } catch (error) {
      // 409: somebody else's removal is in progress.
      if (isStatus(error, 404, 409)) return
      throw error
    }
  }

  return {
    async info() {
      // Their types know only the callback form of the one, and no abort signal for either.
      const ask = docker.info.bind(docker) as unknown as (options: { abortSignal: AbortSignal }) => Promise<DockerInfo>
      const askVersion = docker.version.bind(docker) as unknown as (options: { abortSignal: AbortSignal }) => Promise<DockerVersion>
      const [info, { Components }] = await within('info', (abortSignal) => Promise.all([ask({ abortSignal }), askVersion({ abortSignal })]))
      return {
        version: info.ServerVersion,
        runtimes: Object.keys(info.Runtimes ?? {}),
        architecture: info.Architecture ?? '',
        runcVersion: Components?.find(({ Name }) => Name === 'runc')?.Version,
        securityOptions: info.SecurityOptions ?? [],
        limits: {
          memory: info.MemoryLimit === true,
          swap: info.SwapLimit === true,
          pids: info.PidsLimit === true,
          cpu: info.CpuCfsQuota === true && info.CpuCfsPeriod === true,
        },
        swarm: info.Swarm?.LocalNodeState === 'active',
      }
    },
    async imageId(image) {
      return (await unlessGone(docker.getImage(image).inspect()))?.Id
    },
    async create(name, body) {
      const container = await within('create', (abortSignal) =>
        docker.createContainer({ ...body, name, abortSignal } as Docker.ContainerCreateOptions),
      )
      return container.id
    },
    async start(id) {
      await within('start', (abortSignal) => docker.getContainer(id).start({ abortSignal }))
    },
    async pause(id) {
      await settled(within('pause', (abortSignal) => docker.getContainer(id).pause({ abortSignal })))
    },
    unpause,
    async cpuNanos(id) {
      const kept = await cgroupCpuNanos(id)
      if (kept !== undefined) return kept
      const ask = { stream: false, 'one-shot': true } as const
      // Its types know no abort signal here.
      const stats = await unlessGone(within('stats', (abortSignal) => docker.getContainer(id).stats({ ...ask, abortSignal } as typeof ask)))
      return stats?.cpu_stats.cpu_usage.total_usage
    },
    kill: killGroup,
    remove,
    async list(label) {
      const filters = label === undefined ? {} : { label: [label] }
      const found = await within('list', (abortSignal) => docker.listContainers({ all: true, filters, abortSignal }))
      return found.map((info): Container => ({
        id: info.Id,
        labels: info.Labels,
        running: info.State === 'running' || info.State === 'paused',
        paused: info.State === 'paused',
      }))
    },
    async inspect(id) {
      return unlessGone(within('list', (abortSignal) => docker.getContainer(id).inspect({ abortSignal })))
    },
    async exitOf(id) {
      const found = await unlessGone(within('list', (abortSignal) => docker.getContainer(id).inspect({ abortSignal })))
      return found && { id, labels: found.Config.Labels, exitCode: found.State.ExitCode, oomKilled: found.State.OOMKilled }
    },
    watch(label, on) {
      const stop = new AbortController()
      async function follow(): Promise<void> {
        for (let first = true; !stop.signal.aborted; first = false) {
          try {
            const events = await docker.getEvents({ filters: { type: ['container'], event: ['die'], label: [label] }, abortSignal: stop.signal })
            if (!first) on.gap()
            let rest = ''
            for await (const chunk of events) {
              const lines = (rest + String(chunk)).split('\n')
              rest = lines.pop() ?? ''
              for (const line of lines) if (line.trim() !== '') on.died((JSON.parse(line) as { Actor: { ID: string } }).Actor.ID)
            }
            on.lost('the event stream ended')
          } catch (error) {
            if (stop.signal.aborted) return
            on.lost((error as Error).message)
          }
          await new Promise((resolve) => setTimeout(resolve, REWATCH_MS))
        }
      }
      const done = follow()
      return {
        async [Symbol.asyncDispose]() {
          stop.abort()
          await done
        },
      }
    },
  }
}
