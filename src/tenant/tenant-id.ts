declare const brand: unique symbol

/** The name of a tenant, which the wire calls a container. Safe as a path segment, a Redis key part and a Map key. */
export type TenantId = string & { readonly [brand]: 'TenantId' }

const PLAIN_NAME = /^[-a-z0-9._~!$+=:@]{1,128}$/i

/** What names of tenants and webtasks have in common: 1 to 128 harmless ASCII characters, and not a name that paths or objects treat specially. */
export function isPlainName(input: unknown): input is string {
  return typeof input === 'string' && PLAIN_NAME.test(input) && input !== '.' && input !== '..' && input !== '__proto__'
}

/** A tenant's name, or undefined when it is not one. Case matters. */
export function parseTenantId(input: unknown): TenantId | undefined {
  return isPlainName(input) ? (input as TenantId) : undefined
}
