/** The parts of a request's URL that belong to the platform, and what remains without them. */
import type { Invocation } from '../protocol/invocation.ts'

/** Query parameters by which a caller speaks to the platform; the code does not see them. */
export const isPlatformParameter = (name: string): boolean => name === 'key' || name.startsWith('webtask_')

/** The URL as an app mounted at the webtask's base sees it: `/api/run/acme/hello/a?b` is `/a?b`. */
export function stripBase(url: string, { base }: Pick<Invocation, 'base'>): string {
  if (!url.startsWith(base)) return url
  const rest = url.slice(base.length)
  if (rest === '' || rest.startsWith('?')) return `/${rest}`
  // `/hello` does not lead to `/hellos`; a base that ends in a slash has its own.
  if (base.endsWith('/')) return `/${rest}`
  return rest.startsWith('/') ? rest : url
}

export function queryOf(url: string): string {
  const mark = url.indexOf('?')
  return mark < 0 ? '' : url.slice(mark + 1)
}

/** A query string without the platform's parameters, everything else byte for byte as the caller wrote it. */
export function stripPlatformParameters(query: string): string {
  if (!/key|webtask/.test(query) && !query.includes('%')) return query
  return query
    .split('&')
    .filter((pair) => !isPlatformParameter(nameOf(pair)))
    .join('&')
}

function nameOf(pair: string): string {
  const name = pair.split('=', 1)[0]!
  if (!name.includes('%') && !name.includes('+')) return name
  try {
    return decodeURIComponent(name.replaceAll('+', ' '))
  } catch {
    return name
  }
}
