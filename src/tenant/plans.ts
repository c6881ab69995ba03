import { z } from 'zod'
import { WebtaskError } from '../errors.ts'
import { loadScript, type Redis } from '../redis.ts'
import { completePlan, planInput, planProblem, type Plan, type PlanInput } from './plan.ts'
import type { PlanFile, PlanRecords } from './plan-file.ts'
import { isPlainName, parseTenantId, type TenantId } from './tenant-id.ts'

/** The plan of every tenant that was given no other: what the settings say. */
const DEFAULT_PLAN = 'default'

/**
 * Plans and who has which, in Redis, in a durable copy, and whole in memory: asking for a tenant's plan touches memory alone. A Redis that
 * lost them is given them back: a tenant must not get out of its plan that way.
 */
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
  /** Reads what changed: at start, when somebody changed them, and when news may have been missed. */
  refresh(): Promise<void>
  readonly channel: string
}

export interface PlansOptions {
  readonly redis: Redis
  readonly prefix: string
  readonly file: PlanFile
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
  const keys = { version: `${options.prefix}:plans-version`, plans: `${options.prefix}:plans`, holders: `${options.prefix}:tenant-plans` }
  const all = [keys.version, keys.plans, keys.holders]
  const change = loadScript<number>(redis, new URL('scripts/write-plans.lua', import.meta.url))
  const restore = loadScript<number>(redis, new URL('scripts/restore-plans.lua', import.meta.url))
  const channel = `${options.prefix}:plans-changed`
  let plans = new Map<string, Plan>()
  let holders = new Map<string, string>()

  /** The newest that were seen; undefined before anything was read. */
  let known: PlanRecords | undefined
  let refreshing: Promise<void> = Promise.resolve()

  /** One after another, or an older reading could come last. */
  function refresh(): Promise<void> {
    const turn = refreshing.then(readNew)
    refreshing = turn.catch(() => {})
    return turn
  }

  async function readNew(): Promise<void> {
    known ??= await options.file.read()
    const version = Number((await redis.get(keys.version)) ?? 0)
    if (known !== undefined && version === known.version) {
      if (!isUsed) use(known)
      return
    }
    if (known !== undefined && version < known.version) {
      const { plans: lost, holders: held } = known
      await restore(all, [known.version, Object.keys(lost).length, ...Object.entries(lost).flat(), ...Object.entries(held).flat()])
    }
    const answers = await redis.multi().get(keys.version).hgetall(keys.plans).hgetall(keys.holders).exec()
    const [stored, texts, held] = (answers ?? []).map(([error, answer]) => {
      if (error) throw error
      return answer
    })
    const read = { version: Number(stored ?? 0), plans: texts as Record<string, string>, holders: held as Record<string, string> }
    if (known !== undefined && read.version < known.version) throw new Error('Redis has older plans than it had')
    await options.file.write(read)
    known = read
    use(read)
  }

  let isUsed = false
  function use(records: PlanRecords): void {
    isUsed = true
    plans = new Map(Object.entries(records.plans).map(([name, text]) => [name, completePlan(JSON.parse(text) as PlanInput, fallback)]))
    holders = new Map(Object.entries(records.holders))
    options.changed()
  }

  /** `refused` says what the script's answer means when it is no version. */
  async function write(act: readonly [string, string, string?], refused: (answer: number) => WebtaskError): Promise<void> {
    try {
      // What Redis has lost goes back first: a change must not pass for all there is.
      await refresh()
      const answer = await change(
        all,
        act.filter((part) => part !== undefined),
      )
      if (answer < 0) throw refused(answer)
      await redis.publish(channel, '')
      await refresh()
    } catch (cause) {
      if (cause instanceof WebtaskError) throw cause
      throw new WebtaskError('unavailable', 'The plans cannot be reached', { retryAfterSeconds: 1, cause })
    }
  }

  const holdersOf = (name: string) => [...holders.values()].filter((plan) => plan === name).length
  const noSuchPlan = (name: string) => new WebtaskError('bad_request', `No plan "${name}"; there are ${[DEFAULT_PLAN, ...plans.keys()].join(', ')}`)
  const never = () => new WebtaskError('internal', 'The plans refused a change')

  const find = (name: string) => (name === DEFAULT_PLAN ? fallback : plans.get(name))
  const nameOf = (tenant: TenantId) => holders.get(tenant) ?? DEFAULT_PLAN

  return {
    channel,
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
      await write(['put', name, JSON.stringify(given)], never)
      return plan
    },
    async remove(name) {
      if (!plans.has(name)) throw new WebtaskError('not_found', `No plan "${name}"`)
      await write(
        ['remove', name],
        () => new WebtaskError('conflict', `${Math.max(1, holdersOf(name))} tenant(s) have the plan "${name}": give them another first`),
      )
    },
    async assign(tenant, name) {
      if (find(name) === undefined) throw noSuchPlan(name)
      await write(name === DEFAULT_PLAN ? ['release', tenant] : ['assign', tenant, name], () => noSuchPlan(name))
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
