import type Docker from 'dockerode'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { containersOf, docker } from '../support/docker.ts'
import { median, round } from './percentiles.ts'
import { HELLO, type BenchOptions, type Row } from './row.ts'
import { load, prepareTools, type Load } from './tools.ts'

interface RuntimeFigures {
  /** First requests of new tenants without a sandbox ready (ms). */
  readonly cold: number[]
  /** Equal loads on one warm webtask. */
  readonly warm: Load[]
  /** What an idle sandbox with one loaded webtask takes of the machine's memory (MiB). */
  readonly memory: number[]
}

const RUNTIMES = ['runc', 'runsc'] as const
const MIB = 1024 * 1024

/** The same under runc and under gVisor, in turn, so that drift of the machine hits both. Undefined where the engine lacks gVisor. */
async function compareRuntimes(options: {
  cold: number
  rounds: number
  seconds: number
  progress: (text: string) => void
}): Promise<Record<(typeof RUNTIMES)[number], RuntimeFigures> | undefined> {
  const { Runtimes } = (await docker.info()) as { Runtimes: object }
  if (!('runsc' in Runtimes)) return undefined
  await prepareTools()
  const settings = { WEBTASK_PREWARMED: '0', WEBTASK_SANDBOXES_MAX: '200' }
  await using runc = await startDeployment({ ...settings, WEBTASK_RUNTIME: 'runc' })
  await using runsc = await startDeployment({ ...settings, WEBTASK_RUNTIME: 'runsc' })
  const deployments = { runc, runsc }
  const figures = { runc: { cold: [], warm: [], memory: [] }, runsc: { cold: [], warm: [], memory: [] } } as Record<
    (typeof RUNTIMES)[number],
    RuntimeFigures
  >
  for (let i = 0; i < options.cold; i += 1) {
    options.progress(`runtimes: first request ${i + 1} of ${options.cold}`)
    for (const name of RUNTIMES) figures[name].cold.push(await first(deployments[name], `tenant${i}`))
  }
  await new Promise((resolve) => setTimeout(resolve, 3000))
  for (const name of RUNTIMES) figures[name].memory.push(...(await idleMib(deployments[name])))
  const warm = (name: (typeof RUNTIMES)[number]) =>
    load(`${deployments[name].url.replace('localhost', '127.0.0.1')}/api/run/bench/hello`, { connections: 32, seconds: options.seconds })
  for (const name of RUNTIMES) {
    await deployments[name].issue({ ten: 'bench', jtn: 'hello', code: HELLO })
    await warm(name)
  }
  for (let i = 0; i < options.rounds; i += 1) {
    options.progress(`runtimes: round ${i + 1} of ${options.rounds}`)
    for (const name of RUNTIMES) figures[name].warm.push(await warm(name))
  }
  return figures
}

async function first(deployment: Deployment, tenant: string): Promise<number> {
  const began = performance.now()
  const answer = await deployment.run(tenant, HELLO)
  if (answer.status !== 200) throw new Error(`The first request of ${tenant} failed: ${answer.text}`)
  return performance.now() - began
}

/** What the kernel counts for each sandbox, without what it would give back at once. */
async function idleMib(deployment: Deployment): Promise<number[]> {
  const found: number[] = []
  for (const { Id } of await containersOf(deployment.id, 'sandbox')) {
    const { memory_stats } = (await docker.getContainer(Id).stats({ stream: false, 'one-shot': true })) as Docker.ContainerStats
    // cgroup v1 and v2 name it differently.
    const { total_inactive_file, inactive_file } = memory_stats.stats as unknown as Record<string, number | undefined>
    found.push((memory_stats.usage - (total_inactive_file ?? inactive_file ?? 0)) / MIB)
  }
  return found
}

/** The price of gVisor: what the same costs there, as a multiple of what it costs under runc. It has no target. */
export async function runtimes({ quick, progress }: BenchOptions): Promise<Row[]> {
  const figures = await compareRuntimes({ cold: quick ? 5 : 15, rounds: quick ? 3 : 5, seconds: quick ? 2 : 4, progress })
  if (figures === undefined) return []
  const { runc, runsc } = figures
  const row = (what: string, unit: string, [theirs, ours]: readonly [readonly number[], readonly number[]]): Row => ({
    what: `${what}, gVisor ÷ runc`,
    figure: `${round(median(theirs) / median(ours))} × (${round(median(theirs), 1)} ${unit} ÷ ${round(median(ours), 1)} ${unit})`,
    target: 'none',
    met: true,
    detail: { runsc: theirs, runc: ours },
  })
  const warm = (of: (one: Load) => number) => [runsc.warm.map(of), runc.warm.map(of)] as const
  return [
    row('first request of a new tenant, no sandbox ready', 'ms', [runsc.cold, runc.cold]),
    row(
      'warm, 32 connections, p50',
      'ms',
      warm((one) => one.p50Ms),
    ),
    row(
      'warm, 32 connections, requests a second',
      '/s',
      warm((one) => one.perSecond),
    ),
    row('memory of an idle sandbox with one webtask', 'MiB', [runsc.memory, runc.memory]),
  ]
}
