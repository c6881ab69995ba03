/** The `ctx` that webtask code receives, and the `req.x_wt` that older helpers read. */
import type { IncomingHttpHeaders } from 'node:http'
import { parse as parseQuery } from 'node:querystring'
import type { Invocation } from '../protocol/invocation.ts'
import type { WebtaskSource } from '../protocol/messages.ts'
import { isPlatformParameter, queryOf } from './address.ts'
import type { ParsedBody } from './body.ts'
import { copyInto, privateCopy } from './records.ts'
import type { WebtaskRequest } from './request.ts'
import { unavailableStorage } from './storage.ts'
import { createTokenMethods, type TokenMethods } from './tokens.ts'

export interface WebtaskContext extends TokenMethods {
  readonly id: string
  readonly data: Record<string, unknown>
  readonly query: Record<string, unknown>
  readonly params: Record<string, unknown>
  readonly secrets: Record<string, unknown>
  readonly meta: Record<string, unknown>
  readonly headers: IncomingHttpHeaders
  readonly storage: unknown
  readonly token?: string
  readonly body?: unknown
  readonly body_raw?: string
}

export function createContext(request: WebtaskRequest, source: WebtaskSource, body?: ParsedBody): WebtaskContext {
  const { invocation, req } = request
  const query: Record<string, unknown> = {}
  const search = queryOf(req.url ?? '')
  if (search !== '') copyInto(query, parseQuery(search, '&', '=', { maxKeys: 0 }), (key) => !isPlatformParameter(key))
  const params = privateCopy(source.params)
  const secrets = privateCopy(source.secrets)
  const data: Record<string, unknown> = {}
  copyInto(data, query)
  // In this order: a caller must not be able to override a parameter or a secret, and the body fills the query's gaps.
  if (mergesBody(invocation, source)) fillFromBody(data, body?.value)
  copyInto(data, params)
  copyInto(data, secrets)
  const token = tokenOf(invocation, source)
  return {
    data,
    query,
    params,
    secrets,
    meta: privateCopy(source.meta),
    headers: req.headers,
    id: request.id,
    storage: unavailableStorage,
    ...(token === undefined ? {} : { token }),
    ...createTokenMethods(request, source),
    ...(body && body.raw !== '' ? { body_raw: body.raw } : {}),
    ...(body?.value === undefined ? {} : { body: body.value }),
  }
}

function fillFromBody(data: Record<string, unknown>, body: unknown): void {
  if (typeof body === 'object' && body !== null) copyInto(data, body as Record<string, unknown>, (key) => !Object.hasOwn(data, key) || !data[key])
}

const tokenOf = (invocation: Invocation, source: WebtaskSource): string | undefined => invocation.token ?? source.token ?? undefined
const mergesBody = (invocation: Invocation, source: WebtaskSource): boolean => invocation.mergeBody ?? source.mergeBody
export const parsesBody = (invocation: Invocation, source: WebtaskSource): 0 | 1 | 2 => invocation.parseBody ?? source.parseBody

/** What webtask-tools and auth0-extension-tools read about the request. */
export function createWireParameters(request: WebtaskRequest, source: WebtaskSource): Record<string, unknown> {
  const { invocation } = request
  const token = tokenOf(invocation, source)
  return {
    req_id: request.id,
    container: source.container,
    ...(source.name === null ? {} : { jtn: source.name }),
    ...(token === undefined ? {} : { token }),
    ...(source.url === null ? {} : { url: source.url }),
    url_format: invocation.format,
    ectx: privateCopy(source.secrets),
    pctx: privateCopy(source.params),
    mb: mergesBody(invocation, source) ? 1 : 0,
    pb: parsesBody(invocation, source),
    meta: privateCopy(source.meta),
  }
}
