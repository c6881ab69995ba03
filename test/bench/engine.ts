import { setTimeout as sleep } from 'node:timers/promises'
import { startDeployment } from '../support/deployment.ts'
import { containersOf, eventually } from '../support/docker.ts'
import { createCaller, firstAnswer, type Caller } from './caller.ts'
import { percentile, round } from './percentiles.ts'
import { startPlain, type PlainContainer } from './plain.ts'
import type { BenchOptions, Row } from './row.ts'
import { untilQuiet } from './stillness.ts'

/** What the pool asks of the engine at once. */
const AT_ONCE = 4

/** A request to a frozen sandbox, others being frozen beside it. */
export async function resume({ quick, progress }: BenchOptions): Promise<Row[]> {
  const tenants = 10
  const rounds = quick ? 1 : 4
  await using deployment = await startDeployment({ WEBTASK_SANDBOX_PAUSE_SECONDS: '1', WEBTASK_PREWARMED: '0' })
  await using caller = createCaller(deployment)
  for (let tenant = 0; tenant < tenants; tenant += 1) await firstAnswer(caller, `tenant${tenant}`)
  const times: number[] = []
  for (let i = 0; i < rounds; i += 1) {
    progress(`resume: round ${i + 1} of ${rounds}`)
    for (let tenant = 0; tenant < tenants; tenant += 1) {
      await eventually(
        'all sandboxes are frozen',
        async () => (await containersOf(deployment.id, 'sandbox')).every(({ State }) => (State as string) === 'paused'),
        30_000,
      )
      await untilQuiet(3_000)
      times.push(await firstAnswer(caller, `tenant${tenant}`))
    }
  }
  const [p50, p95] = [percentile(times, 0.5), percentile(times, 0.95)]
  return [
    {
      what: 'request to a frozen sandbox',
      figure: `p50 ${round(p50, 1)} ms, p95 ${round(p95, 1)} ms (${times.length} samples)`,
      target: 'p95 ≤ 30 ms',
      met: p95 <= 30,
      detail: { p50, p95, times },
    },
  ]
}

/** Acts again and again, `lanes` at once, for that time; gives how often in a second. */
async function perSecond({ seconds, lanes }: { seconds: number; lanes: number }, act: (index: number) => Promise<void>): Promise<number> {
  const began = performance.now()
  const end = began + seconds * 1000
  let next = 0
  let done = 0
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      while (performance.now() < end) {
        await act(next++)
        if (performance.now() < end) done += 1
      }
    }),
  )
  return done / seconds
}

/** Containers made as we make them, without us; with `keep` the oldest goes when there are more. */
async function bareRate(seconds: number, keep: number): Promise<number> {
  const made: PlainContainer[] = []
  try {
    return await perSecond({ seconds, lanes: AT_ONCE }, async () => {
      made.push(await startPlain({ until: 'started' }))
      if (made.length > keep) await made.shift()![Symbol.asyncDispose]()
    })
  } finally {
    for (const one of made) await one[Symbol.asyncDispose]()
  }
}

async function ourRate(caller: Caller, { seconds, name }: { seconds: number; name: string }): Promise<number> {
  return perSecond({ seconds, lanes: 2 * AT_ONCE }, async (index) => {
    for (let i = 0; (await caller.hello(`${name}n${index}`)).status !== 200; i += 1) {
      if (i > 20) throw new Error(`Tenant ${name}n${index} is refused again and again`)
      await sleep(100)
    }
  })
}

/** How many sandboxes a second come into being, beside what the engine can do: while there is room, and while each takes another's place. */
export async function creates({ quick, progress }: BenchOptions): Promise<Row[]> {
  const seconds = quick ? 8 : 20
  const rows: Row[] = []
  for (const { keep, what } of [
    { keep: 1000, what: 'sandboxes made a second, ÷ bare create + start, 4 at a time' },
    { keep: 20, what: 'the same with 20 at most, each in the place of another, ÷ bare create + start + remove' },
  ]) {
    await untilQuiet()
    progress(`creates: bare, ${keep} at most`)
    const bare = await bareRate(seconds, keep)
    await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOXES_MAX: String(keep) })
    await using caller = createCaller(deployment)
    await untilQuiet()
    progress(`creates: ours, ${keep} at most`)
    const ours = await ourRate(caller, { seconds, name: 'create' })
    rows.push({
      what,
      figure: `${round(ours / bare)} × (${round(ours, 1)} ÷ ${round(bare, 1)} a second)`,
      target: 'none; ≥ 0.7 × is good',
      met: true,
      detail: { ours, bare, seconds },
    })
  }
  return rows
}
