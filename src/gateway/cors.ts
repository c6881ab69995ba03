import type { IncomingMessage } from 'node:http'
import type { TenantHost } from './tenant-host.ts'

const METHODS = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'
/** How long a browser may keep the answer to a preflight (s); browsers cap it themselves. */
const MAX_AGE_SECONDS = 60_000

/**
 * The answer to a browser's preflight, undefined when this is none. Webtasks are called from any page: the origin,
 * method and headers that were asked for are granted.
 */
export function preflight(request: IncomingMessage, host?: TenantHost): Record<string, string> | undefined {
  const { origin } = request.headers
  const method = request.headers['access-control-request-method']
  if (request.method !== 'OPTIONS' || origin === undefined || method === undefined) return undefined
  const asked = request.headers['access-control-request-headers']
  return {
    ...allowOrigin(origin, host),
    'access-control-allow-methods': METHODS.split(', ').includes(method) ? METHODS : `${METHODS}, ${method}`,
    ...(asked === undefined ? {} : { 'access-control-allow-headers': asked }),
    'access-control-max-age': String(MAX_AGE_SECONDS),
    vary: 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers',
  }
}

/**
 * What lets a page of this origin read an answer. On the shared origin no cookie travels either way, so credentials give
 * nothing away. A tenant's own host has cookies: there it is `*`, with which no browser lets a page read what came
 * with credentials, whatever else the webtask says.
 */
export function allowOrigin(origin: string, host?: TenantHost): Record<string, string> {
  if (host !== undefined) return { 'access-control-allow-origin': '*', 'access-control-expose-headers': '*' }
  return {
    'access-control-allow-origin': origin,
    'access-control-allow-credentials': 'true',
    'access-control-expose-headers': '*, Location, X-Request-Id',
    vary: 'Origin',
  }
}
