import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { BoundSecrets } from '../egress/bound-secrets.ts'
import { WebtaskError } from '../errors.ts'
import type { WebtaskSource } from '../protocol/messages.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import { allowsContainer, type Claims } from '../token/claims.ts'
import { type CodePlace, parseCodeUrl } from '../token/code-url.ts'
import type { Keyring } from '../token/keyring.ts'
import type { VerifiedTokens } from '../token/verified-cache.ts'
import { authenticate } from './authenticate.ts'
import { openForWorker } from './bound-secrets.ts'
import type { CodeCache } from './code/cache.ts'
import { pinned } from './code/pin.ts'
import { readBody, type BodyTimes } from './read-body.ts'
import type { RunPath } from './run-path.ts'
import type { NamedWebtask, WebtaskStore } from './webtasks.ts'

/** What one request is to run: everything but the sandbox. */
export interface Target {
  readonly tenant: TenantId
  readonly name: string | undefined
  /** Equal for requests that may share a worker: same code, secrets, parameters and metadata. */
  readonly key: string
  /** Id of the token that pays for the request. */
  readonly tokenId: string
  /** The token that code may see as `ctx.token`. */
  readonly token: string | null
  /** The request's body was the code, so the webtask gets none. */
  readonly bodyIsCode: boolean
  /** The caller's credentials were for the platform, so the webtask gets none. */
  readonly credentialsAreOurs: boolean
  /** Opens the secrets: asked only when a worker is to be loaded. `bound` is for the egress role, and nothing of it for the sandbox. */
  source(): Promise<{ readonly source: WebtaskSource; readonly bound: BoundSecrets | undefined }>
}

export interface TargetOptions {
  readonly tokens: VerifiedTokens
  readonly keyring: Keyring
  readonly webtasks: WebtaskStore
  readonly codes: CodeCache
  readonly codeMaxBytes: number
  readonly bodyTimes: BodyTimes
}

interface Resolved {
  readonly code: string
  readonly sha256: string
  readonly url: string | null
}

/** Finds what a run request is to run. Refuses with 401, 403, 404, 400, 413 or 502 and the reason. */
export function createTargets(options: TargetOptions): (incoming: IncomingMessage, path: RunPath) => Promise<Target> {
  const { tokens, keyring, webtasks, codes } = options
  /** What of the claims makes workers differ; computed once per verified token. */
  const identities = new WeakMap<object, string>()
  /** Where a token's stored code is; read once per verified token. */
  const places = new WeakMap<Claims, { place: CodePlace | undefined }>()

  function placeOf(claims: Claims): CodePlace | undefined {
    let known = places.get(claims)
    if (known === undefined) places.set(claims, (known = { place: parseCodeUrl(claims.url ?? '') }))
    return known.place
  }

  function identity(claims: Claims, named?: NamedWebtask): string {
    const owner = named ?? claims
    let text = identities.get(owner)
    if (text === undefined) {
      const parts = [claims.jtn ?? '', claims.ectx ?? '', claims.pctx, claims.mb, claims.pb, named?.meta ?? {}]
      text = createHash('sha256').update(JSON.stringify(parts)).digest('base64url').slice(0, 22)
      identities.set(owner, text)
    }
    return text
  }

  function target(
    resolved: Resolved,
    about: { path: RunPath; claims: Claims; token: string | null; named?: NamedWebtask; bodyIsCode?: boolean },
  ): Target {
    const { path, claims, token, named } = about
    // Whichever way the code came: a name may have come to stand for other code than it did when the token was issued.
    pinned(resolved, claims.cph)
    return {
      tenant: path.tenant,
      name: path.name,
      key: `${resolved.sha256.slice(0, 32)}.${identity(claims, named)}`,
      tokenId: claims.jti,
      token,
      bodyIsCode: about.bodyIsCode ?? false,
      credentialsAreOurs: path.name === undefined,
      async source() {
        const { secrets, bound } = await openForWorker(claims, { keyring })
        const source: WebtaskSource = {
          container: path.tenant,
          name: path.name ?? claims.jtn ?? null,
          code: resolved.code,
          url: resolved.url,
          secrets,
          params: claims.pctx,
          meta: named?.meta ?? {},
          parseBody: claims.pb,
          mergeBody: claims.mb === 1,
          token,
          ...(bound === undefined ? {} : { bound: { id: bound.id, certificate: bound.certificate } }),
        }
        return { source, bound }
      },
    }
  }

  /** The code behind a URL of somebody's server. */
  async function codeAt(tenant: TenantId, url: string, fetch: { noCache: boolean; cph: string | undefined }): Promise<Resolved> {
    return { ...(await codes.get({ tenant, url, noCache: fetch.noCache, cph: fetch.cph })), url }
  }

  /** The code that a token fixes. */
  async function codeOf(tenant: TenantId, claims: Claims, noCache: boolean): Promise<Resolved> {
    const url = claims.url ?? ''
    if (!url.startsWith('webtask:')) return codeAt(tenant, url, { noCache, cph: claims.cph })
    const place = placeOf(claims)
    const sha256 = place === undefined || place.tenant !== tenant ? undefined : await webtasks.hashAt(tenant, place.key)
    const code = sha256 === undefined ? undefined : await stored(tenant, sha256)
    if (code === undefined) throw new WebtaskError('not_found', 'The code that the token names is no longer stored')
    return code
  }

  /** Code that this tenant stored. */
  async function stored(tenant: TenantId, sha256: string): Promise<Resolved | undefined> {
    const kept = await codes.byHash(sha256)
    if (kept !== undefined) return { ...kept, url: null }
    const text = await webtasks.codeByHash(tenant, sha256)
    return text === undefined ? undefined : { ...codes.put(text), url: null }
  }

  async function named(path: RunPath & { name: NonNullable<RunPath['name']> }): Promise<Target> {
    const found = webtasks.find(path.tenant, path.name)
    const webtask = found instanceof Promise ? await found : found
    if (webtask === undefined) throw new WebtaskError('not_found', `No webtask "${path.name}" in container "${path.tenant}"`)
    const claims = await tokens.get(webtask.token)
    const about = { path, claims, named: webtask, token: webtask.token }
    if (webtask.sha256 === null) return target(await codeOf(path.tenant, claims, path.query.noCache), about)
    const code = await stored(path.tenant, webtask.sha256)
    if (code === undefined) throw new WebtaskError('not_found', `The code of webtask "${path.name}" is no longer stored`)
    return target(code, about)
  }

  async function unnamed(incoming: IncomingMessage, path: RunPath): Promise<Target> {
    const { claims, text } = await authenticate(tokens, { authorization: incoming.headers.authorization, key: path.query.key })
    if (!allowsContainer(claims, path.tenant)) throw new WebtaskError('forbidden', `The token does not reach container "${path.tenant}"`)
    const { codeUrl, noCache, shareToken } = path.query
    const token = claims.url !== undefined || shareToken ? text : null
    if (claims.url !== undefined) {
      if (codeUrl !== undefined) throw new WebtaskError('bad_request', 'The token fixes its code, so "webtask_url" must not be sent')
      return target(await codeOf(path.tenant, claims, noCache), { path, claims, token })
    }
    if (codeUrl !== undefined) {
      if (!/^https?:/i.test(codeUrl)) throw new WebtaskError('bad_request', '"webtask_url" must be an http(s) URL')
      return target(await codeAt(path.tenant, codeUrl, { noCache, cph: claims.cph }), { path, claims, token })
    }
    const code = await readBody(incoming, { maxBytes: options.codeMaxBytes, tooLarge: 'code_too_large', times: options.bodyTimes })
    if (code.length === 0)
      throw new WebtaskError('bad_request', 'No code: the token fixes none, and there is neither "webtask_url" nor code in the body')
    return target({ ...codes.put(code.toString('utf8')), url: null }, { path, claims, token, bodyIsCode: true })
  }

  return async (incoming, path) => (path.name === undefined ? unnamed(incoming, path) : named({ ...path, name: path.name }))
}
