import { hash } from 'node:crypto'
import { parseTenantId, type TenantId } from '../tenant/tenant-id.ts'
import { parseWebtaskName } from './webtask-name.ts'

/** Where stored code lives: a tenant, and a webtask's name or the hash of the code itself. */
export interface CodePlace {
  readonly tenant: TenantId
  readonly key: string
}

export const CODE_HASH = /^sha256-[\w-]{42}[AEIMQUYcgkosw048]$/
const PREFIX = 'webtask://localhost/api/data/code/'

/** The `url` claim of code that this deployment stores; existing clients hand it back to keep the code. */
export function codeUrl(place: CodePlace): string {
  return `${PREFIX}${place.tenant}%2F${place.key}`
}

/** What a `webtask:` URL points at, or undefined when it is not exactly one that `codeUrl` makes, percent-encoding aside. */
export function parseCodeUrl(url: string): CodePlace | undefined {
  if (!url.startsWith(PREFIX)) return undefined
  const parts = decode(url.slice(PREFIX.length)).split('/')
  const tenant = parseTenantId(parts[0])
  const key = parts[1]
  if (parts.length !== 2 || tenant === undefined || key === undefined) return undefined
  return parseWebtaskName(key) === undefined && !CODE_HASH.test(key) ? undefined : { tenant, key }
}

/** The hash of code as in the `cph` claim: `sha256-` and base64url. */
export function hashCode(code: string | Uint8Array): string {
  return `sha256-${hash('sha256', code, 'base64url')}`
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return ''
  }
}
