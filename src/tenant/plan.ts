import { z } from 'zod'

/** A tenant's class of limits and isolation. */
export interface Plan {
  /** Container runtime of its sandboxes. */
  readonly runtime: 'runc' | 'runsc'
  /** `webtask`: each of its webtasks has sandboxes of its own. */
  readonly isolation: 'tenant' | 'webtask'
  readonly memoryMib: number
  readonly cpuMillis: number
  /** Most sandboxes that the tenant may have at once. */
  readonly sandboxes: number
  /** With more requests at once in each of its sandboxes, another is added. */
  readonly sandboxRequests: number
  /** Requests of the tenant that run at once. */
  readonly concurrency: number
  /** Requests that run at once by one token. */
  readonly tokenConcurrency: number
  /** Requests of the tenant that may wait for their turn. */
  readonly queue: number
  /** Its share of the turns when tenants wait: one of weight 2 gets twice as many as one of weight 1. */
  readonly weight: number
  /** Sandboxes that are kept running though nobody asks. */
  readonly minWarm: number
  /** A cron expression: `minWarm` holds in the minutes that it matches. Null: always. */
  readonly warmWindow: string | null
  /** IANA time zone of `warmWindow`. */
  readonly timezone: string
  /** Rules of the way out, as in WEBTASK_EGRESS_RULES. Null: those of the deployment. */
  readonly egress: string | null
}

const count = (min: number, max: number) => z.int().min(min).max(max)

/** The fields of a plan as callers send them; what is absent is as in the deployment's settings. */
export const planInput = z.strictObject({
  runtime: z.enum(['runc', 'runsc']).optional(),
  isolation: z.enum(['tenant', 'webtask']).optional(),
  memoryMib: count(128, 65_536).optional(),
  cpuMillis: count(50, 64_000).optional(),
  sandboxes: count(1, 1_000).optional(),
  sandboxRequests: count(1, 100_000).optional(),
  concurrency: count(1, 100_000).optional(),
  tokenConcurrency: count(1, 100_000).optional(),
  queue: count(0, 100_000).optional(),
  weight: count(1, 1_000).optional(),
  minWarm: count(0, 100).optional(),
  warmWindow: z.string().max(256).nullable().optional(),
  timezone: z.string().max(64).optional(),
  egress: z.string().max(8_192).nullable().optional(),
})
export type PlanInput = z.infer<typeof planInput>

/** Where each webtask has sandboxes of its own, one sandbox is no plan; this many are, unless the plan says otherwise. */
const SANDBOXES_PER_WEBTASKS = 16

/** The whole plan: what the input leaves open is as in `fallback`. */
export function completePlan(input: PlanInput, fallback: Plan): Plan {
  const given = Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined)) as Partial<Plan>
  const isolation = given.isolation ?? fallback.isolation
  const sandboxes = given.sandboxes ?? (isolation === 'webtask' ? Math.max(SANDBOXES_PER_WEBTASKS, fallback.sandboxes) : fallback.sandboxes)
  return Object.freeze({ ...fallback, ...given, isolation, sandboxes })
}

/** What keeps fields that are each right from making a plan; undefined when nothing does. */
export function planProblem(plan: Plan): string | undefined {
  if (plan.minWarm > plan.sandboxes) return `"minWarm" (${plan.minWarm}) must not be over "sandboxes" (${plan.sandboxes})`
  if (plan.minWarm > 0 && plan.isolation === 'webtask')
    return '"minWarm" needs "isolation": "tenant": which webtasks to keep warm is not known before they run'
  return undefined
}
