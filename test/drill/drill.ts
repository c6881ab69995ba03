/**
 * `npm run drill [-- --json] [--only words…]`: breaks one thing after another under load and prints what the load noticed, how long it took to recover,
 * and what was left behind. The exit code is 1 when a drill fails.
 */
import { parseArgs } from 'node:util'
import { startEngineProxy } from '../support/engine-proxy.ts'
import { startRoles } from '../support/roles.ts'
import { isClean, lookAround, type Aftermath } from './aftermath.ts'
import type { Drill } from './case.ts'
import { COUNTER, startLoad, STREAM, type Failure, type Loaded } from './load.ts'
import { OUTAGE_DRILLS } from './outages.ts'
import { PROCESS_DRILLS } from './processes.ts'
import { UPGRADE_DRILLS } from './upgrades.ts'

const HELP = `Usage: npm run drill -- [--only WORD…] [--json] [--list]

Kills, hangs and restarts parts of a deployment of its own under load, one drill after another, on this machine's engine.
The drill "dockerd killed" restarts the engine itself, where that is one that npm start started.

  --only WORD  only drills whose name has one of these words
  --list       their names
  --json       for programs`

interface Row {
  readonly fault: string
  readonly requests: number
  readonly failed: number
  /** From the fault's end to the last failure (ms); 0 when none came after it. */
  readonly recoveryMs: number
  /** Until records, engine and directories agreed (ms). */
  readonly cleanMs: number | undefined
  readonly p99Ms: number
  readonly wrong: readonly string[]
  readonly skipped?: string
}

const TENANTS = Array.from({ length: 8 }, (_, index) => `tenant${index}`)
/** Afterwards records and engine agree within this time (ms). */
const CLEAN_MS = 15_000
const QUIET_MS = 2_000
const LONGEST_S = 240
const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { only: { type: 'boolean' }, list: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean' } },
})
const all = [...PROCESS_DRILLS, ...OUTAGE_DRILLS, ...UPGRADE_DRILLS]
if (values.help) console.log(HELP)
else if (values.list) for (const { name } of all) console.log(name)
else {
  const wanted = all.filter(({ name }) => positionals.length === 0 || positionals.some((word) => name.includes(word)))
  if (wanted.length === 0) console.error(`No drill has "${positionals.join('" or "')}" in its name; --list shows all`)
  process.exitCode = wanted.length === 0 ? 2 : await main(wanted)
}

async function main(drills: readonly Drill[]): Promise<number> {
  const rows: Row[] = []
  for (const drill of drills) {
    process.stderr.write(`${drill.name} …\n`)
    rows.push(await perform(drill))
    if (!values.json) console.log(line(rows.at(-1)!))
  }
  if (values.json) console.log(JSON.stringify(rows, null, 2))
  const failed = rows.filter(({ wrong }) => wrong.length > 0).length
  const skipped = rows.filter((row) => row.skipped !== undefined).length
  console.log(`\n${rows.length - failed - skipped} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
  return failed === 0 && rows.length > skipped ? 0 : 1
}

async function perform(drill: Drill): Promise<Row> {
  const skipped = await drill.skip?.()
  const nothing = { fault: drill.name, requests: 0, failed: 0, recoveryMs: 0, cleanMs: undefined, p99Ms: 0, wrong: [] }
  if (skipped !== undefined) return { ...nothing, skipped }
  try {
    return await underLoad(drill)
  } catch (error) {
    return { ...nothing, wrong: [(error as Error).stack ?? String(error)] }
  }
}

async function underLoad(drill: Drill): Promise<Row> {
  await using engine = await startEngineProxy()
  await using roles = await startRoles({
    gateways: drill.gateways ?? 1,
    settings: { DOCKER_HOST: engine.host, WEBTASK_PREWARMED: '1', WEBTASK_LOG_LEVEL: 'info', ...drill.settings },
  })
  for (const ten of TENANTS) await roles.issue({ ten, jtn: 'count', code: COUNTER })
  await roles.issue({ ten: 'streams', jtn: 'stream', code: STREAM })
  const { port, master } = roles
  for (const tenant of TENANTS) await warmUp(`http://127.0.0.1:${port}/api/run/${tenant}/count?n=first`)
  await warmUp(`http://127.0.0.1:${port}/api/run/streams/stream`)
  const load = startLoad({ port, master, tenants: TENANTS, perSecond: drill.perSecond ?? 100, seconds: LONGEST_S, cold: true, stream: 'streams' })
  const scene = { roles, engine, load, tenants: TENANTS }
  // Warm first: what comes before the fault is no failure of it.
  await pass(QUIET_MS + 1_000)
  const before = load.soFar.failures.length
  await drill.fault(scene)
  const over = Date.now()
  await pass(QUIET_MS)
  const loaded = await load.stop()
  const cleaned = await untilClean(roles, over)
  const wrong = [
    ...(before > 0 ? [`${before} requests failed before the fault: ${summary(loaded.failures.slice(0, before))}`] : []),
    ...notAllowed(drill, loaded),
    ...(cleaned.ms === undefined ? [`After ${CLEAN_MS} ms there was left: ${JSON.stringify(cleaned.aftermath)}`] : []),
  ]
  const problem = await drill.check?.(scene)
  if (problem !== undefined) wrong.push(problem)
  const last = Math.max(0, ...loaded.failures.map(({ at }) => at - over))
  const { warm, cold, stream } = loaded.asked
  const waits = loaded.waits.toSorted((a, b) => a - b)
  return {
    fault: drill.name,
    requests: warm + cold + stream,
    failed: loaded.failures.length,
    recoveryMs: last,
    cleanMs: cleaned.ms,
    p99Ms: Math.round(waits[Math.floor(waits.length * 0.99)] ?? 0),
    wrong,
  }
}

async function warmUp(url: string): Promise<void> {
  const answer = await fetch(url)
  if (answer.status !== 200) throw new Error(`${url} answered with ${answer.status}: ${await answer.text()}`)
  await answer.arrayBuffer()
}

async function untilClean(roles: Parameters<typeof lookAround>[0], since: number): Promise<{ ms: number | undefined; aftermath: Aftermath }> {
  for (;;) {
    const aftermath = await lookAround(roles)
    const ms = Date.now() - since
    if (isClean(aftermath)) return { ms, aftermath }
    if (ms > CLEAN_MS) return { ms: undefined, aftermath }
    await pass(200)
  }
}

function notAllowed({ allows = () => false, most = Infinity }: Drill, { failures }: Loaded): string[] {
  const strange = failures.filter((failure) => !allows(failure))
  return [
    ...(strange.length > 0 ? [`${strange.length} requests failed that should not have noticed: ${summary(strange)}`] : []),
    ...(failures.length > most ? [`${failures.length} requests failed, at most ${most} may: ${summary(failures)}`] : []),
  ]
}

function summary(failures: readonly Failure[]): string {
  const groups = Map.groupBy(failures, ({ kind, what }) => `${kind} ${what}`)
  return [...groups].map(([what, list]) => `${list.length} × ${what}`).join(', ')
}

function line(row: Row): string {
  if (row.skipped !== undefined) return `SKIP  ${row.fault}: ${row.skipped}`
  const cells = [
    row.fault.padEnd(52),
    `${row.requests} requests`.padStart(15),
    `${row.failed} failed`.padStart(12),
    `recovered in ${(row.recoveryMs / 1000).toFixed(1)} s`,
    `clean in ${row.cleanMs === undefined ? '–' : (row.cleanMs / 1000).toFixed(1)} s`,
    `p99 ${row.p99Ms} ms`,
  ]
  return [`${row.wrong.length === 0 ? 'pass' : 'FAIL'}  ${cells.join('  ')}`, ...row.wrong.map((text) => `      ${text}`)].join('\n')
}
