/** Headers that reach as far as the host they came from and no further: to its paths, its storage, its connections, its reports. */
const OF_ONE_HOST: ReadonlySet<string> = new Set([
  'service-worker-allowed',
  // Reaches down with `includeSubDomains`, never up or aside; below a tenant's host there is nobody.
  'strict-transport-security',
  'nel',
  'report-to',
  'reporting-endpoints',
  'accept-ch',
  'critical-ch',
  'set-login',
  'use-as-dictionary',
])
/** What `Clear-Site-Data` clears of one origin. `"cookies"`, and so `"*"`, clears those of the whole registrable domain. */
const OF_ONE_ORIGIN: ReadonlySet<string> = new Set(['"cache"', '"storage"', '"executionContexts"'])

/**
 * Whether a header that is stripped on the shared origin may pass at a tenant's own host: when it reaches no other
 * host. What speaks for the connection or the certificate (`Alt-Svc`, pins) stays the proxy's, which has them; a
 * device-bound session may ask for the whole site.
 */
export function staysOnHost({ name, value }: { readonly name: string; readonly value: string }, host: string): boolean {
  if (name === 'set-cookie') return cookieStaysOnHost(value, host)
  if (name === 'clear-site-data') return value.split(',').every((item) => OF_ONE_ORIGIN.has(item.trim()))
  return OF_ONE_HOST.has(name)
}

/**
 * Whether a browser can apply a cookie to no host but this one (and what is below it): it has no Domain attribute, or
 * this very host. Read as RFC 6265bis has it, and stricter: browsers take the last Domain, ignore a long one and
 * disagree about an empty one, so each must be right.
 */
function cookieStaysOnHost(cookie: string, host: string): boolean {
  const [, ...attributes] = cookie.split(';')
  return attributes.every((attribute) => {
    const equals = attribute.indexOf('=')
    const name = equals < 0 ? attribute : attribute.slice(0, equals)
    if (name.replace(/[^a-z]/gi, '').toLowerCase() !== 'domain') return true
    const domain = (equals < 0 ? '' : attribute.slice(equals + 1)).replace(/^[ \t]+|[ \t]+$/g, '').toLowerCase()
    return domain === host || domain === `.${host}`
  })
}
