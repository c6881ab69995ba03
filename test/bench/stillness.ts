import os from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Deployment } from '../support/deployment.ts'

/** Prewarmed sandboxes that are connected. */
export async function prewarmedOf(deployment: Deployment): Promise<number> {
  const text = await (await fetch(`${deployment.adminUrl}/metrics`)).text()
  return Number(/webtask_sandboxes\{state="prewarmed"\} (\d+)/.exec(text)?.[1] ?? 0)
}

/** Waits until `least` sandboxes are prewarmed and no more have come for a while; gives how many there are. Throws after two minutes. */
export async function untilStocked(deployment: Deployment, least: number): Promise<number> {
  const end = performance.now() + 120_000
  for (let before = -1; performance.now() < end;) {
    const count = await prewarmedOf(deployment)
    if (count >= least && count === before) return count
    before = count
    await sleep(least > 2 ? 1500 : 150)
  }
  throw new Error(`Waited in vain for ${least} prewarmed sandboxes`)
}

function processorTime(): { idle: number; all: number } {
  const times = os.cpus().map((cpu) => cpu.times)
  const sum = (of: (one: (typeof times)[number]) => number) => times.reduce((total, one) => total + of(one), 0)
  return { idle: sum(({ idle }) => idle), all: sum(({ user, nice, sys, irq, idle }) => user + nice + sys + irq + idle) }
}

/** Waits until the machine has had little to do for half a second; not for ever, since it may be somebody else's work. */
export async function untilQuiet(mostMs = 10_000): Promise<void> {
  const end = performance.now() + mostMs
  do {
    const before = processorTime()
    await sleep(500)
    const after = processorTime()
    if (after.idle - before.idle >= 0.85 * (after.all - before.all)) return
  } while (performance.now() < end)
}
