/**
 * `npm run bench [-- --json] [--quick] [warm|prewarmed|cold|herd|egress|runtimes…]`: figures as ratios measured in one run on this machine, medians of several rounds.
 * Each line names its target; the exit code is 1 when one is missed.
 */
import { parseConfig } from '../../src/config.ts'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { containersOf, eventually } from '../support/docker.ts'
import { measureEgress } from './egress.ts'
import { startPlain } from './plain.ts'
import { compareRuntimes } from './runtimes.ts'
import { load, prepareTools, startNginx, type Load } from './tools.ts'

interface Row {
  readonly what: string
  readonly figure: string
  readonly target: string
  readonly met: boolean
  readonly detail: object
}

const json = process.argv.includes('--json')
const quick = process.argv.includes('--quick')
const only = process.argv.slice(2).filter((word) => !word.startsWith('--'))
const ROUNDS = quick ? 3 : 5
const COLD = quick ? 5 : 15
const HELLO = 'module.exports = cb => cb(null, "hello")'
const config = parseConfig({})
const sandboxClass = {
  image: process.env.WEBTASK_AGENT_IMAGE ?? 'webtask-agent',
  runtime: config.WEBTASK_RUNTIME,
  memoryMib: config.WEBTASK_SANDBOX_MEMORY_MIB,
  cpuMillis: config.WEBTASK_SANDBOX_CPU_MILLIS,
  pids: config.WEBTASK_SANDBOX_PIDS,
  tmpMib: config.WEBTASK_SANDBOX_TMP_MIB,
  workerHeapMib: config.WEBTASK_WORKER_HEAP_MIB,
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

const round = (value: number, digits = 2) => Number(value.toFixed(digits))
const progress = (text: string) => process.stderr.write(`${text}\n`)

async function firstAnswer(deployment: Deployment, tenant: string): Promise<number> {
  const began = performance.now()
  const answer = await deployment.run(tenant, HELLO)
  const ms = performance.now() - began
  if (answer.status !== 200) throw new Error(`The first request of ${tenant} failed: ${answer.text}`)
  return ms
}

/** Warm throughput beside nginx in front of a plain Node server in an equal container, in turn, so that drift hits both. */
async function warm(): Promise<Row[]> {
  const port = 18_999
  await using plain = await startPlain({ class: sandboxClass, runDir: '/tmp/wt-bench' })
  await using nginx = await startNginx({ port, socket: plain.socket })
  void nginx
  await using deployment = await startDeployment({ WEBTASK_LOG_LEVEL: 'info' })
  await deployment.issue({ ten: 'bench', jtn: 'hello', code: HELLO })
  const token = await deployment.issue({ ten: 'bench', code: HELLO })
  const target = { connections: 32, seconds: quick ? 2 : 4 }
  const runs: Record<'nginx' | 'named' | 'token', () => Promise<Load>> = {
    nginx: () => load(`http://127.0.0.1:${port}/`, target),
    named: () => load(`${deployment.url.replace('localhost', '127.0.0.1')}/api/run/bench/hello`, target),
    token: () =>
      load(`${deployment.url.replace('localhost', '127.0.0.1')}/api/run/bench`, { ...target, headers: { authorization: `Bearer ${token}` } }),
  }
  for (const run of Object.values(runs)) await run()
  const rounds: Record<'nginx' | 'named' | 'token', Load>[] = []
  for (let i = 0; i < ROUNDS; i += 1) {
    progress(`warm: round ${i + 1} of ${ROUNDS}`)
    rounds.push({ nginx: await runs.nginx(), named: await runs.named(), token: await runs.token() })
  }
  return (['named', 'token'] as const).map((kind) => {
    const ratio = median(rounds.map((one) => one[kind].perSecond / one.nginx.perSecond))
    const failed = rounds.reduce((sum, one) => sum + one[kind].failed, 0)
    return {
      what: `warm throughput, 32 connections, ${kind === 'named' ? 'by named URL' : 'by token'}, ÷ nginx → plain Node`,
      figure: `${round(ratio)} × (${failed} failed)`,
      target: '≥ 0.5 ×, 0 failed',
      met: ratio >= 0.5 && failed === 0,
      detail: { ratio, failed, rounds: rounds.map((one) => ({ ours: one[kind], nginx: one.nginx })) },
    }
  })
}

async function prewarmed(): Promise<Row> {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '2', WEBTASK_SANDBOXES_MAX: '200' })
  const times: number[] = []
  for (let i = 0; i < COLD; i += 1) {
    progress(`first request with prewarmed sandboxes: ${i + 1} of ${COLD}`)
    await eventually(
      'prewarmed sandboxes',
      async () => /webtask_sandboxes\{state="prewarmed"\} 2/.test(await (await fetch(`${deployment.adminUrl}/metrics`)).text()),
      30_000,
    )
    // Let the machine settle: starting the sandbox before this one is not what is measured.
    await new Promise((resolve) => setTimeout(resolve, 500))
    times.push(await firstAnswer(deployment, `tenant${i}`))
  }
  const ms = median(times)
  return {
    what: 'first request of a new tenant, prewarmed sandbox ready, median',
    figure: `${round(ms, 1)} ms`,
    target: '≤ 40 ms',
    met: ms <= 40,
    detail: { times },
  }
}

async function cold(): Promise<Row> {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOXES_MAX: '200' })
  const ours: number[] = []
  const bare: number[] = []
  for (let i = 0; i < COLD; i += 1) {
    progress(`first request without: ${i + 1} of ${COLD}`)
    {
      await using plain = await startPlain({ class: sandboxClass, runDir: '/tmp/wt-bench' })
      bare.push(plain.ms)
    }
    ours.push(await firstAnswer(deployment, `tenant${i}`))
  }
  const ratio = median(ours) / median(bare)
  return {
    what: 'first request of a new tenant, no sandbox ready, ÷ bare create + start + answer',
    figure: `${round(ratio)} × (${round(median(ours), 0)} ms ÷ ${round(median(bare), 0)} ms)`,
    target: '≤ 1.3 ×',
    met: ratio <= 1.3,
    detail: { ours, bare },
  }
}

async function herd(): Promise<Row> {
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0' })
  const answers = await Promise.all(Array.from({ length: 100 }, () => deployment.run('herd', HELLO)))
  const failed = answers.filter((answer) => answer.status !== 200).length
  const containers = (await containersOf(deployment.id, 'sandbox')).length
  return {
    what: '100 simultaneous first requests of one tenant',
    figure: `${containers} container, ${failed} failed`,
    target: '1 container, 0 failed',
    met: containers === 1 && failed === 0,
    detail: { containers, failed },
  }
}

/** The price of gVisor: what the same costs there, as a multiple of what it costs under runc. It has no target. */
async function runtimes(): Promise<Row[]> {
  const figures = await compareRuntimes({ cold: COLD, rounds: ROUNDS, seconds: quick ? 2 : 4, progress })
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

async function egress(): Promise<Row[]> {
  const { through, direct, download, upload } = await measureEgress({ rounds: ROUNDS, trips: 2000, bytes: quick ? 250e6 : 500e6, progress })
  const ratio = median(through.map((one, index) => one / direct[index]!))
  const rate = median(download)
  return [
    {
      what: 'round trip of a webtask through egress ÷ direct on loopback',
      figure: `${round(ratio)} × (${round(median(through), 0)} µs ÷ ${round(median(direct), 0)} µs)`,
      target: '≤ 3 ×',
      met: ratio <= 3,
      detail: { through, direct },
    },
    {
      what: 'bytes through one connection of a webtask',
      figure: `${round(rate, 0)} MB/s in, ${round(median(upload), 0)} MB/s out`,
      target: '≥ 150 MB/s in',
      met: rate >= 150,
      detail: { download, upload },
    },
  ]
}

progress('Building the tools image (nginx, wrk)')
await prepareTools()
const benches = {
  warm,
  prewarmed: async () => [await prewarmed()],
  cold: async () => [await cold()],
  herd: async () => [await herd()],
  egress,
  runtimes,
}
const rows: Row[] = []
for (const [name, bench] of Object.entries(benches)) if (only.length === 0 || only.includes(name)) rows.push(...(await bench()))
if (json) process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`)
else {
  const width = Math.max(...rows.map((row) => row.what.length))
  for (const row of rows)
    process.stdout.write(`${row.met ? 'met   ' : 'MISSED'}  ${row.what.padEnd(width)}  ${row.figure}   (target ${row.target})\n`)
}
process.exitCode = rows.every((row) => row.met) ? 0 : 1
