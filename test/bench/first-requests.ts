import { startDeployment } from '../support/deployment.ts'
import { containersOf } from '../support/docker.ts'
import { createCaller, firstAnswer } from './caller.ts'
import { gatherCrowd } from './crowd.ts'
import { median, percentile, round } from './percentiles.ts'
import { startPlain } from './plain.ts'
import type { BenchOptions, Row } from './row.ts'
import { untilQuiet, untilStocked } from './stillness.ts'

const STOCK = 2

/** From a prewarmed sandbox to the first answer of a new tenant, nothing else going on. */
export async function specialise({ quick, progress }: BenchOptions): Promise<Row[]> {
  const samples = quick ? 10 : 40
  await using deployment = await startDeployment({
    WEBTASK_PREWARMED: String(STOCK),
    WEBTASK_PREWARMED_MAX: String(STOCK),
    WEBTASK_SANDBOXES_MAX: '200',
  })
  await using caller = createCaller(deployment)
  const times: number[] = []
  for (let i = 0; i < samples; i += 1) {
    progress(`specialise: ${i + 1} of ${samples}`)
    await untilStocked(deployment, STOCK)
    await untilQuiet()
    times.push(await firstAnswer(caller, `tenant${i}`))
  }
  const [p50, p95] = [percentile(times, 0.5), percentile(times, 0.95)]
  return [
    {
      what: 'first request of a new tenant, prewarmed sandbox ready',
      figure: `p50 ${round(p50, 1)} ms, p95 ${round(p95, 1)} ms (${samples} samples)`,
      target: 'p50 ≤ 15 ms, p95 ≤ 30 ms',
      met: p50 <= 15 && p95 <= 30,
      detail: { p50, p95, times },
    },
  ]
}

export async function cold({ quick, progress }: BenchOptions): Promise<Row[]> {
  const samples = quick ? 5 : 15
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOXES_MAX: '200' })
  await using caller = createCaller(deployment)
  const ours: number[] = []
  const bare: number[] = []
  for (let i = 0; i < samples; i += 1) {
    progress(`cold: ${i + 1} of ${samples}`)
    {
      await using plain = await startPlain()
      bare.push(plain.ms)
    }
    ours.push(await firstAnswer(caller, `tenant${i}`))
  }
  const ratio = median(ours) / median(bare)
  return [
    {
      what: 'first request of a new tenant, no sandbox ready, ÷ bare create + start + answer',
      figure: `${round(ratio)} × (${round(median(ours), 0)} ms ÷ ${round(median(bare), 0)} ms)`,
      target: '≤ 1.3 ×',
      met: ratio <= 1.3,
      detail: { ours, bare },
    },
  ]
}

/** Many first calls of one tenant at once share one start, beside a single first call of the same run. */
export async function herd({ quick, progress }: BenchOptions): Promise<Row[]> {
  const rounds = quick ? 2 : 5
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: '0', WEBTASK_SANDBOXES_MAX: '200' })
  await using caller = createCaller(deployment)
  const sizes = [100, 500] as const
  using crowd = await gatherCrowd(deployment, Math.max(...sizes))
  await firstAnswer(caller, 'first')
  // A front door that has served before, as it has wherever a crowd comes.
  progress('herd: a front door that has served')
  for (let i = 0; i < 10; i += 1) await crowd.ask('first', 500)
  const seen = sizes.map((size) => ({ size, containers: [] as number[], failed: 0, p99: [] as number[], single: [] as number[] }))
  for (let i = 0; i < rounds; i += 1) {
    for (const one of seen) {
      progress(`herd: ${one.size} at once, round ${i + 1} of ${rounds}`)
      await untilQuiet()
      one.single.push((await crowd.ask(`single${one.size}n${i}`, 1))[0]!.ms)
      await untilQuiet()
      const before = (await containersOf(deployment.id, 'sandbox')).length
      const replies = await crowd.ask(`herd${one.size}n${i}`, one.size)
      one.failed += replies.filter(({ ok }) => !ok).length
      one.containers.push((await containersOf(deployment.id, 'sandbox')).length - before)
      one.p99.push(
        percentile(
          replies.map(({ ms }) => ms),
          0.99,
        ),
      )
    }
  }
  return seen.map((one) => {
    const ratio = median(one.p99) / median(one.single)
    const containers = Math.max(...one.containers)
    return {
      what: `${one.size} simultaneous first requests of one tenant, p99 ÷ a single one`,
      figure: `${containers} container, ${one.failed} failed, ${round(ratio)} × (${round(median(one.p99), 0)} ms ÷ ${round(median(one.single), 0)} ms)`,
      target: '1 container, 0 failed, ≤ 1.5 ×',
      met: containers === 1 && one.failed === 0 && ratio <= 1.5,
      detail: { containers: one.containers, failed: one.failed, p99: one.p99, single: one.single },
    }
  })
}
