import { WebtaskError } from '../errors.ts'
import { parseTenantId, type TenantId } from '../tenant/tenant-id.ts'
import { parseWebtaskName, type WebtaskName } from '../token/webtask-name.ts'
import type { TenantHost } from './tenant-host.ts'

/** What the URL of a run request says. */
export interface RunPath {
  readonly tenant: TenantId
  /** Undefined for an unnamed run, which needs a token. */
  readonly name: WebtaskName | undefined
  /** The part of the path that leads to the webtask, as it was sent. */
  readonly base: string
  readonly query: RunQuery
  /** The tenant's own host where the request came there; undefined on the origin that tenants share. */
  readonly host: string | undefined
}

/** The query parameters that are the platform's. */
export interface RunQuery {
  readonly key: string | undefined
  readonly codeUrl: string | undefined
  readonly noCache: boolean
  readonly shareToken: boolean
  readonly parseBody: 0 | 1 | 2 | undefined
  readonly mergeBody: boolean | undefined
}

const PREFIX = '/api/run/'
const NO_QUERY: RunQuery = { key: undefined, codeUrl: undefined, noCache: false, shareToken: false, parseBody: undefined, mergeBody: undefined }

function segment(text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new WebtaskError('bad_request', `The ${what} in the path has a broken percent-encoding`)
  }
}

/** Reads `/api/run/{container}[/{name}[/sub/path]][?query]`. Throws not_found when it is no such path, bad_request when a name is not one. */
export function parseRunPath(url: string): RunPath {
  const question = url.indexOf('?')
  const pathname = question < 0 ? url : url.slice(0, question)
  if (!pathname.startsWith(PREFIX)) throw new WebtaskError('not_found', 'No such route')
  const [container = '', named = '', below] = pathname.slice(PREFIX.length).split('/', 3)
  if (named === '' && below !== undefined) throw new WebtaskError('bad_request', 'The webtask name in the path is empty')
  const tenant = parseTenantId(segment(container, 'container'))
  if (tenant === undefined)
    throw new WebtaskError('bad_request', 'The container in the path is not a name: expected 1 to 128 of a-z A-Z 0-9 - . _ ~ ! $ + = : @')
  const name = named === '' ? undefined : webtaskName(named)
  const base = PREFIX + container + (named === '' ? '' : `/${named}`)
  return { tenant, name, base, query: question < 0 ? NO_QUERY : parseQuery(url.slice(question + 1)), host: undefined }
}

/**
 * Reads `/{name}[/sub/path][?query]` of a request to a host below the domain. Throws not_found when the host is
 * nobody's or the path names nothing, bad_request when a name is not one.
 */
export function parseHostPath(url: string, { name: host, tenant }: TenantHost): RunPath {
  if (tenant === undefined) throw new WebtaskError('not_found', `The host "${host}" cannot be a container's: expected {container}.{domain}`)
  const question = url.indexOf('?')
  const pathname = question < 0 ? url : url.slice(0, question)
  const [, named = ''] = pathname.split('/', 2)
  if (named === '') throw new WebtaskError('not_found', 'The path names no webtask: expected /{name}')
  return { tenant, name: webtaskName(named), base: `/${named}`, query: question < 0 ? NO_QUERY : parseQuery(url.slice(question + 1)), host }
}

function webtaskName(text: string): WebtaskName {
  const name = parseWebtaskName(segment(text, 'webtask name'))
  if (name === undefined)
    throw new WebtaskError('bad_request', 'The webtask name in the path is not a name: expected 1 to 128 of a-z A-Z 0-9 - . _ ~ ! $ + = : @')
  return name
}

function parseQuery(text: string): RunQuery {
  // Most queries hold nothing of ours; reading them is the webtask's business.
  if (!text.includes('key') && !text.includes('webtask_') && !text.includes('%')) return NO_QUERY
  const query = new URLSearchParams(text)
  const get = (name: string) => query.get(name) ?? undefined
  const parse = get('webtask_pb')
  const merge = get('webtask_mb')
  return {
    key: get('key'),
    codeUrl: get('webtask_url'),
    noCache: get('webtask_no_cache') === '1' || get('webtask_no_cache') === 'true',
    shareToken: query.has('webtask_share_token'),
    parseBody: parse === '0' || parse === '1' || parse === '2' ? (Number(parse) as 0 | 1 | 2) : undefined,
    mergeBody: merge === undefined ? undefined : merge !== '0' && merge !== 'false',
  }
}

/** The URL without the token that authorized it: the webtask must not learn it that way. */
export function withoutKey(url: string): string {
  const question = url.indexOf('?')
  if (question < 0) return url
  const kept = url
    .slice(question + 1)
    .split('&')
    .filter((pair) => {
      const name = pair.split('=', 1)[0]!
      return name !== 'key' && (!name.includes('%') || new URLSearchParams(pair).get('key') === null)
    })
  return kept.length === 0 ? url.slice(0, question) : `${url.slice(0, question)}?${kept.join('&')}`
}
