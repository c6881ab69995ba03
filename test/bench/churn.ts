import { setTimeout as sleep } from 'node:timers/promises'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { belongingsOf, type Belongings } from './belongings.ts'
import { createCaller, outcomesOf, type Caller, type Reply } from './caller.ts'
import { percentile, round } from './percentiles.ts'
import type { BenchOptions, Row } from './row.ts'

/** Callers at once, each of which waits for its answer. */
const CALLERS = 8
/** So much of the time passes before memory is first looked at. */
const WARM_UP = 0.3
/** More descriptors, keys and jobs than after the warm-up may be a coincidence of the moment; a leak is one for each sandbox. */
const TOLERANCE = 24

/** Tenants in turn, over and over, until that time has passed. */
async function goRound(caller: Caller, { tenants, seconds, from }: { tenants: number; seconds: number; from: number }): Promise<Reply[]> {
  const replies: Reply[] = []
  const end = performance.now() + seconds * 1000
  let next = from
  await Promise.all(
    Array.from({ length: CALLERS }, async () => {
      while (performance.now() < end) {
        const reply = await caller.hello(`tenant${next++ % tenants}`)
        replies.push(reply)
        // A refused caller comes again later, as it was told, though sooner.
        if (reply.status !== 200) await sleep(200)
      }
    }),
  )
  return replies
}

/** What is left once nothing is under way: two looks in a row that are the same. */
async function whenSettled(deployment: Deployment): Promise<Belongings> {
  let before = await belongingsOf(deployment)
  for (let i = 0; i < 10; i += 1) {
    await sleep(3_000)
    const now = await belongingsOf(deployment)
    const isSame = (['containers', 'directories', 'records', 'jobs', 'descriptors'] as const).every((name) => now[name] === before[name])
    if (isSame) return now
    before = now
  }
  return before
}

function leaksIn({ before, now, most }: { before: Belongings; now: Belongings; most: number }): string[] {
  const leaks: string[] = []
  const check = (isRight: boolean, what: string) => void (isRight || leaks.push(what))
  check(now.containers <= most, `${now.containers} containers of ${most}`)
  for (const name of ['directories', 'egressDirectories', 'records'] as const)
    check(now[name] === now.containers, `${now[name]} ${name} of ${now.containers} containers`)
  check(now.seats <= now.containers, `${now.seats} seats of ${now.containers} containers`)
  for (const name of ['descriptors', 'redisKeys', 'jobs'] as const)
    check(now[name] <= before[name] + TOLERANCE, `${now[name]} ${name}, ${before[name]} before`)
  return leaks
}

/** Tenants in turn over fewer sandboxes than there are tenants, so that each request makes one and another goes. */
export async function churn({ quick, minutes, progress }: BenchOptions): Promise<Row[]> {
  const seconds = minutes === undefined ? (quick ? 20 : 60) : minutes * 60
  const { tenants, sandboxes } = minutes === undefined ? { tenants: 300, sandboxes: 20 } : { tenants: 5000, sandboxes: 60 }
  await using deployment = await startDeployment({ WEBTASK_SANDBOXES_MAX: String(sandboxes) })
  await using caller = createCaller(deployment)
  progress(`churn: warming up for ${round(seconds * WARM_UP, 0)} s`)
  const early = await goRound(caller, { tenants, seconds: seconds * WARM_UP, from: 0 })
  const before = await whenSettled(deployment)
  progress(`churn: ${round(seconds * (1 - WARM_UP), 0)} s more`)
  const late = await goRound(caller, { tenants, seconds: seconds * (1 - WARM_UP), from: early.length })
  const now = await whenSettled(deployment)
  const replies = [...early, ...late]
  const outcomes = outcomesOf(replies)
  const leaks = leaksIn({ before, now, most: sandboxes })
  const served = replies.filter(({ status }) => status === 200).map(({ ms }) => ms)
  return [
    {
      what: `${tenants} tenants in turn over ${sandboxes} sandboxes for ${round(seconds / 60, 1)} min`,
      figure: `${outcomes.served} served (p50 ${round(percentile(served, 0.5), 0)} ms, p99 ${round(percentile(served, 0.99), 0)} ms), ${outcomes.told} told, ${outcomes.other} failed`,
      target: '0 failed',
      met: outcomes.other === 0,
      detail: outcomes,
    },
    {
      what: 'what the runtime holds afterwards, beside what it held after a warm-up',
      figure: `RSS ${now.rssMb} ÷ ${before.rssMb} MB, ${now.containers} containers, ${now.directories} directories, ${now.descriptors} ÷ ${before.descriptors} descriptors, ${now.redisKeys} ÷ ${before.redisKeys} Redis keys${leaks.length === 0 ? '' : `; leaks: ${leaks.join(', ')}`}`,
      target: 'no leak, RSS ≤ 1.2 ×',
      met: leaks.length === 0 && now.rssMb <= before.rssMb * 1.2,
      detail: { before, now, leaks },
    },
  ]
}
