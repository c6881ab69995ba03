import type { IncomingMessage } from 'node:http'
import type { HttpBindings } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Hono, type Context } from 'hono'
import { WebtaskError } from '../errors.ts'
import type { Plans } from '../tenant/plans.ts'
import type { VerifiedTokens } from '../token/verified-cache.ts'
import { authenticate, type Authenticated } from './authenticate.ts'
import { allowOrigin, preflight } from './cors.ts'
import type { Invoke } from './invoke.ts'
import { addPlanRoutes } from './plan-routes.ts'
import { toProblem } from './problem.ts'
import { readBody, readJsonObject, type BodyTimes } from './read-body.ts'
import { parseTenantHost } from './tenant-host.ts'
import type { RevokeRequest, TokenService } from './tokens.ts'

type Env = { Bindings: HttpBindings; Variables: { requestId: string } }

/** The route of every request to a tenant's own host. No request's path has a space. */
const TENANT_HOST = '/ tenant-host'

/** A body that is one token or one plan, and little else (bytes). */
const SMALL_BODY_BYTES = 32_768

/** The front door's routes. The run route streams on the raw request and answer; a web `Response` would copy every byte. */
export function createApp(options: {
  tokens: VerifiedTokens
  service: TokenService
  plans: Plans
  invoke: Invoke
  /** Below it each tenant has a host of its own. */
  domain: string | undefined
  newRequestId: () => string
  bodyTimes: BodyTimes
}): Hono<Env> {
  const { tokens, service, plans, invoke, domain, newRequestId, bodyTimes } = options
  const hostOf = ({ headers }: IncomingMessage) => (domain === undefined ? undefined : parseTenantHost(headers.host ?? '', domain))
  // The path as it was sent: `new URL` would resolve `..`, and then the route and the run path would be read from different texts.
  const app = new Hono<Env>({
    getPath(_request, sent) {
      const { incoming } = sent!.env as HttpBindings
      // At a tenant's host every path is the tenant's: none of the routes below.
      return hostOf(incoming) === undefined ? pathnameOf(incoming.url ?? '/') : TENANT_HOST
    },
  })

  const requestIdOf = (c: Context<Env>): string => {
    const known = c.get('requestId') as string | undefined
    if (known !== undefined) return known
    const requestId = newRequestId()
    c.set('requestId', requestId)
    return requestId
  }

  const asking = (c: Context<Env>): Promise<Authenticated> =>
    authenticate(tokens, { authorization: c.req.header('authorization'), key: c.req.query('key') })

  app.options('*', async (c, next) => {
    const granted = preflight(c.env.incoming, hostOf(c.env.incoming))
    if (granted !== undefined) return c.body(null, 204, { ...granted, 'x-request-id': requestIdOf(c) })
    await next()
    return undefined
  })

  // The warm path. One handler alone, which does not wait for the answer: Hono and its server are done with the request at once.
  app.all('/api/run/*', (c) => {
    void invoke(c.env.incoming, c.env.outgoing, newRequestId())
    return RESPONSE_ALREADY_SENT
  })
  app.all(TENANT_HOST, (c) => {
    void invoke(c.env.incoming, c.env.outgoing, newRequestId(), hostOf(c.env.incoming))
    return RESPONSE_ALREADY_SENT
  })

  const answered = (c: Context<Env>, headers: Record<string, string> = {}) => {
    const origin = c.req.header('origin')
    return { 'x-request-id': requestIdOf(c), ...(origin === undefined ? {} : allowOrigin(origin)), ...headers }
  }

  app.post('/api/tokens/issue', async (c) => {
    const { claims } = await asking(c)
    const issued = await service.issueFrom(claims, c.env.incoming)
    return c.text(issued.token, 200, answered(c, issued.location === undefined ? {} : { location: issued.location }))
  })

  app.get('/api/tokens/inspect', async (c) => {
    const { claims } = await asking(c)
    const flag = (name: string) => ['1', 'true', ''].includes(c.req.query(name) ?? 'no')
    const token = c.req.query('token') ?? ''
    return c.json(
      await service.inspect(claims, { token, decrypt: flag('decrypt'), fetchCode: flag('fetch_code'), meta: flag('meta') }),
      200,
      answered(c),
    )
  })

  app.post('/api/tokens/revoke', async (c) => {
    const { claims } = await asking(c)
    const { token, ten } = c.req.query()
    await service.revoke(claims, token === undefined && ten === undefined ? await bodyFields(c, bodyTimes) : { token, ten })
    return c.json({ revoked: true }, 200, answered(c))
  })

  addPlanRoutes(app, {
    plans,
    claimsOf: async (c) => (await asking(c)).claims,
    bodyOf: (c) => readJsonObject(c.env.incoming, { maxBytes: SMALL_BODY_BYTES, times: bodyTimes }),
    headersOf: answered,
  })

  // One by one: a pattern beside the routes above would cost every request Hono's fast router.
  for (const [name, method] of [
    ['issue', 'POST'],
    ['inspect', 'GET'],
    ['revoke', 'POST'],
  ] as const) {
    app.all(`/api/tokens/${name}`, (c) => {
      throw new WebtaskError('method_not_allowed', `${c.req.method} is not allowed here; use ${method}`)
    })
  }

  app.notFound((c) => problem(c, new WebtaskError('not_found', `No such route: ${c.req.method} ${c.req.path}`)))
  app.onError((error, c) => problem(c, error))

  function problem(c: Context<Env>, error: unknown): Response {
    const { status, headers, body } = toProblem(error, requestIdOf(c))
    return new Response(body, { status, headers: { ...answered(c), ...headers } })
  }

  return app
}

function pathnameOf(target: string): string {
  const question = target.indexOf('?')
  return question < 0 ? target : target.slice(0, question)
}

/** The fields of a revoke request that sent them as JSON or as a form. */
async function bodyFields(c: Context<Env>, times: BodyTimes): Promise<RevokeRequest> {
  const text = (await readBody(c.env.incoming, { maxBytes: SMALL_BODY_BYTES, tooLarge: 'body_too_large', times })).toString('utf8')
  try {
    const fields: unknown = JSON.parse(text)
    return typeof fields === 'object' && fields !== null ? fields : {}
  } catch {
    const form = new URLSearchParams(text)
    return { token: form.get('token') ?? undefined, ten: form.get('ten') ?? undefined }
  }
}
