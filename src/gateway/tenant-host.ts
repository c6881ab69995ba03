import { parseTenantId, type TenantId } from '../tenant/tenant-id.ts'

/** A host below the deployment's domain: never the origin that tenants share. */
export interface TenantHost {
  /** In lower case, without port and trailing dot. */
  readonly name: string
  /** Whose it is; undefined where it can be nobody's, such as `a.b.{domain}`. */
  readonly tenant: TenantId | undefined
}

/** One label of a host name (RFC 1123), in lower case: so a host leads to one tenant, however it is spelled. */
const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

/** Reads a Host header. Undefined when it leads to no host below the domain. */
export function parseTenantHost(host: string, domain: string): TenantHost | undefined {
  const colon = host.lastIndexOf(':')
  let end = colon >= 0 && /^\d*$/.test(host.slice(colon + 1)) ? colon : host.length
  while (end > 0 && host[end - 1] === '.') end -= 1
  const name = host.slice(0, end).toLowerCase()
  const dot = name.length - domain.length - 1
  if (dot < 0 || name[dot] !== '.' || !name.endsWith(domain)) return undefined
  const label = name.slice(0, dot)
  return { name, tenant: LABEL.test(label) ? parseTenantId(label) : undefined }
}
