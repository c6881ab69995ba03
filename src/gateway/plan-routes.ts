import type { HttpBindings } from '@hono/node-server'
import type { Context, Hono } from 'hono'
import { WebtaskError } from '../errors.ts'
import type { Plans } from '../tenant/plans.ts'
import { parseTenantId, type TenantId } from '../tenant/tenant-id.ts'
import { isMaster, type Claims } from '../token/claims.ts'

type Env = { Bindings: HttpBindings; Variables: { requestId: string } }

/** What the routes need of the app around them. */
interface PlanRoutes<C> {
  readonly plans: Plans
  claimsOf(c: C): Promise<Claims>
  bodyOf(c: C): Promise<unknown>
  headersOf(c: C): Record<string, string>
}

/** `/api/plans` and `/api/tenants/{tenant}`: classes of limits and isolation, and who has which. For master tokens alone. */
export function addPlanRoutes(app: Hono<Env>, options: PlanRoutes<Context<Env>>): void {
  const { plans } = options

  async function byMaster(c: Context<Env>): Promise<void> {
    if (!isMaster(await options.claimsOf(c))) throw new WebtaskError('forbidden', 'Plans are for master tokens')
  }

  function tenantOf(c: Context<Env>): TenantId {
    const tenant = parseTenantId(c.req.param('tenant'))
    if (tenant === undefined) throw new WebtaskError('bad_request', `"${c.req.param('tenant')}" is not the name of a tenant`)
    return tenant
  }

  const planOf = (name: string) => {
    const plan = plans.find(name)
    if (plan === undefined) throw new WebtaskError('not_found', `No plan "${name}"`)
    return { name, ...plan }
  }
  const tenantBody = (tenant: TenantId) => ({ tenant, plan: planOf(plans.nameOf(tenant)) })

  app.get('/api/plans', async (c) => {
    await byMaster(c)
    return c.json(
      plans.list().map(({ name, plan }) => ({ name, ...plan })),
      200,
      options.headersOf(c),
    )
  })
  app.get('/api/plans/:plan', async (c) => {
    await byMaster(c)
    return c.json(planOf(c.req.param('plan')), 200, options.headersOf(c))
  })
  app.put('/api/plans/:plan', async (c) => {
    await byMaster(c)
    const name = c.req.param('plan')
    return c.json({ name, ...(await plans.put(name, await options.bodyOf(c))) }, 200, options.headersOf(c))
  })
  app.delete('/api/plans/:plan', async (c) => {
    await byMaster(c)
    await plans.remove(c.req.param('plan'))
    return c.body(null, 204, options.headersOf(c))
  })
  app.get('/api/tenants/:tenant', async (c) => {
    await byMaster(c)
    return c.json(tenantBody(tenantOf(c)), 200, options.headersOf(c))
  })
  app.put('/api/tenants/:tenant', async (c) => {
    await byMaster(c)
    const tenant = tenantOf(c)
    const { plan, ...rest } = (await options.bodyOf(c)) as { plan?: unknown }
    if (typeof plan !== 'string' || Object.keys(rest).length > 0)
      throw new WebtaskError('bad_request', 'Send an object with "plan", the name of a plan, and nothing else')
    await plans.assign(tenant, plan)
    return c.json(tenantBody(tenant), 200, options.headersOf(c))
  })
}
