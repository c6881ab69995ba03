import { z } from 'zod'
import { WebtaskError } from '../errors.ts'
import type { Redis } from '../redis.ts'
import { completePlan, planInput, planProblem, type Plan, type PlanInput } from './plan.ts'
import { isPlainName, parseTenantId, type TenantId } from './tenant-id.ts'

/** The plan of every tenant that was given no other: what the settings say. */
const DEFAULT_PLAN = 'default'

/** Plans and who has which, in Redis and whole in memory: asking for a tenant's plan touches memory alone. */
export interface Plans {
  of(tenant: TenantId): Plan
  nameOf(tenant: TenantId): string
  list(): { name: string; plan: Plan }[]
  find(name: string): Plan | undefined
  /** Makes or replaces a plan, for all who have it. Refuses with 400 and what is wrong. */
  put(name: string, input: unknown): Promise<Plan>
  /** Refuses with 409 while tenants have it. */
  remove(name: string): Promise<void>
  /** Gives a tenant a plan; `default` takes it back. */
  assign(tenant: TenantId, name: string): Promise<void>
  /** Tenants whose sandboxes are kept running. */
  kept(): { tenant: TenantId; plan: Plan }[]
  /** Reads all anew: at start, when somebody changed them, and when news may have been missed. */
  refresh(): Promise<void>
  readonly channel: string
}

export interface PlansOptions {
  readonly redis: Redis
  readonly prefix: string
  /** The plan that the settings make. */
  readonly fallback: Plan
  /** What only others can judge of a plan: its rules, its window, its runtime. Gives what is wrong. */
  problem(plan: Plan): Promise<string | undefined>
  /** After plans or their holders changed. */
  changed(): void
}

/** Throws WebtaskError 400 that names the field, what was expected and what came. */
function parseInput(input: unknown): PlanInput {
  const parsed = planInput.safeParse(input)
  if (parsed.success) return parsed.data
  throw new WebtaskError('bad_request', `This is not a plan: ${z.prettifyError(parsed.error).replaceAll('\n', ' ').replaceAll('✖ ', '')}`)
}

export function createPlans(options: PlansOptions): Plans {
  const { redis, fallback } = options
  const keys = { plans: `${options.prefix}:plans`, holders: `${options.prefix}:tenant-plans` }
  const channel = `${options.prefix}:plans-changed`
  let plans = new Map<string, Plan>()
  let holders = new Map<string, string>()

  async function refresh(): Promise<void> {
    const [stored, held] = await Promise.all([redis.hgetall(keys.plans), redis.hgetall(keys.holders)])
    plans = new Map(Object.entries(stored).map(([name, text]) => [name, completePlan(JSON.parse(text) as PlanInput, fallback)]))
    holders = new Map(Object.entries(held))
    options.changed()
  }

  async function write(act: () => Promise<unknown>): Promise<void> {
    try {
      await act()
      await redis.publish(channel, '')
    } catch (cause) {
      if (cause instanceof WebtaskError) throw cause
      throw new WebtaskError('unavailable', 'The plans cannot be reached', { retryAfterSeconds: 1, cause })
    }
    await refresh()
  }

  const find = (name: string) => (name === DEFAULT_PLAN ? fallback : plans.get(name))
  const nameOf = (tenant: TenantId) => holders.get(tenant) ?? DEFAULT_PLAN

  return {
    channel,
    // A holder of a plan that is gone has the default: `remove` and `assign` may race.
    of: (tenant) => (holders.size === 0 ? fallback : (find(nameOf(tenant)) ?? fallback)),
    nameOf,
    list: () => [{ name: DEFAULT_PLAN, plan: fallback }, ...[...plans].map(([name, plan]) => ({ name, plan }))],
    find,
    async put(name, input) {
      if (!isPlainName(name)) throw new WebtaskError('bad_request', `"${name}" cannot be the name of a plan`)
      if (name === DEFAULT_PLAN) throw new WebtaskError('bad_request', 'The default plan is what the settings say; make one of another name')
      const given = parseInput(input)
      const plan = completePlan(given, fallback)
      const problem = planProblem(plan) ?? (await options.problem(plan))
      if (problem !== undefined) throw new WebtaskError('bad_request', `This plan cannot be: ${problem}`)
      await write(() => redis.hset(keys.plans, name, JSON.stringify(given)))
      return plan
    },
    async remove(name) {
      if (!plans.has(name)) throw new WebtaskError('not_found', `No plan "${name}"`)
      await write(async () => {
        const held = Object.entries(await redis.hgetall(keys.holders)).filter(([, plan]) => plan === name).length
        if (held > 0) throw new WebtaskError('conflict', `${held} tenant(s) have the plan "${name}": give them another first`)
        await redis.hdel(keys.plans, name)
      })
    },
    async assign(tenant, name) {
      if (find(name) === undefined)
        throw new WebtaskError('bad_request', `No plan "${name}"; there are ${[DEFAULT_PLAN, ...plans.keys()].join(', ')}`)
      await write(() => (name === DEFAULT_PLAN ? redis.hdel(keys.holders, tenant) : redis.hset(keys.holders, tenant, name)))
    },
    kept() {
      return [...holders].flatMap(([name, planName]) => {
        const [tenant, plan] = [parseTenantId(name), find(planName)]
        return tenant !== undefined && plan !== undefined && plan.minWarm > 0 ? [{ tenant, plan }] : []
      })
    },
    refresh,
  }
}
