import path from 'node:path'
import { defaultPlan, leastMemoryMib, type Config } from '../config.ts'
import { parseOutboundRules, type OutboundRules } from '../egress/outbound-rules.ts'
import type { Redis } from '../redis.ts'
import type { EngineFacts } from '../sandbox/store.ts'
import type { Plan } from '../tenant/plan.ts'
import { openPlanFile } from '../tenant/plan-file.ts'
import { createPlans, type Plans } from '../tenant/plans.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import { isInWindow, windowProblem } from '../tenant/warm-window.ts'

/** The plans of a deployment, with what this gateway makes of them. */
export interface PlanBook {
  readonly plans: Plans
  /** Where the tenant's webtasks may connect to. */
  rulesOf(tenant: TenantId): OutboundRules
  /** Tenants whose sandboxes are kept running at this time. */
  keptNow(): { tenant: TenantId; plan: Plan }[]
}

export function createPlanBook(options: {
  redis: Redis
  prefix: string
  config: Config
  engine: () => Promise<EngineFacts | undefined>
  changed: () => void
}): PlanBook {
  const { redis, prefix, config } = options
  const parsedRules = new Map<string, OutboundRules>()

  function rulesIn(text: string): OutboundRules {
    let rules = parsedRules.get(text)
    if (rules === undefined) parsedRules.set(text, (rules = parseOutboundRules(text)))
    return rules
  }

  async function problem(plan: Plan): Promise<string | undefined> {
    const least = leastMemoryMib(config.WEBTASK_WORKERS_MAX)
    if (plan.memoryMib < least) return `"memoryMib" must be at least ${least} for ${config.WEBTASK_WORKERS_MAX} loaded webtasks`
    const runtimes = (await options.engine())?.runtimes
    if (runtimes !== undefined && !runtimes.includes(plan.runtime))
      return `the engine has no runtime "${plan.runtime}" (it has: ${runtimes.join(', ')})`
    try {
      if (plan.egress !== null) rulesIn(plan.egress)
    } catch (error) {
      return `"egress": ${(error as Error).message}`
    }
    return windowProblem(plan.warmWindow, plan.timezone)
  }

  const plans = createPlans({
    redis,
    prefix,
    file: openPlanFile(path.join(config.WEBTASK_DATA_DIR, 'plans.json')),
    fallback: defaultPlan(config),
    problem,
    changed: options.changed,
  })
  return {
    plans,
    rulesOf(tenant) {
      const { egress } = plans.of(tenant)
      return egress === null ? config.WEBTASK_EGRESS_RULES : rulesIn(egress)
    },
    keptNow: () => plans.kept().filter(({ plan }) => isInWindow(plan.warmWindow, { timezone: plan.timezone, now: Date.now() })),
  }
}
