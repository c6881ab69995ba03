import { setTimeout as sleep } from 'node:timers/promises'
import { startDeployment } from '../support/deployment.ts'
import { createCaller, firstAnswer } from './caller.ts'
import { availableBytes, footprintOf, type Footprint } from './footprint.ts'
import { round } from './percentiles.ts'
import type { BenchOptions, Row } from './row.ts'
import { untilQuiet, untilStocked } from './stillness.ts'

const MB = 1e6

function row(footprint: Footprint, about: { what: string; most: number; before: number }): Row {
  const { containers, bytes, byProgram, available } = footprint
  const each = bytes / containers / MB
  const parts = Object.entries(byProgram)
    .toSorted(([, a], [, b]) => b - a)
    .map(([program, size]) => `${program} ${round(size / containers / MB, 1)}`)
  return {
    what: `memory of an idle sandbox, ${about.what}, of ${containers} (proportional set size, shims included)`,
    figure: `${round(each, 1)} MB (${parts.join(', ')}); with the runtime itself, free memory fell by ${round((about.before - available) / containers / MB, 1)} MB each`,
    target: `≤ ${about.most} MB`,
    met: each <= about.most,
    detail: { each, ...footprint, availableBefore: about.before },
  }
}

/** What many idle sandboxes take of the machine: prewarmed, and then each with one webtask of a tenant. */
export async function memory({ quick, progress }: BenchOptions): Promise<Row[]> {
  const count = quick ? 40 : 200
  await untilQuiet()
  const before = await availableBytes()
  progress(`memory: ${count} prewarmed sandboxes`)
  await using deployment = await startDeployment({ WEBTASK_PREWARMED: String(count), WEBTASK_SANDBOXES_MAX: String(count) })
  await untilStocked(deployment, count)
  await sleep(5_000)
  await untilQuiet()
  const prewarmed = await footprintOf(deployment.id)
  await using caller = createCaller(deployment)
  progress(`memory: a webtask in each of them`)
  for (let i = 0; i < count; i += 1) await firstAnswer(caller, `tenant${i}`)
  await sleep(5_000)
  await untilQuiet()
  const loaded = await footprintOf(deployment.id)
  return [row(prewarmed, { what: 'prewarmed', most: 20, before }), row(loaded, { what: 'with one webtask', most: 24, before })]
}
