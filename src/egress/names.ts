/** What the public name servers say, and for names that the operator opened what this system says. */
import { Resolver } from 'node:dns/promises'
import type { RrType } from '../protocol/egress.ts'
import { resolveSystem } from './resolve.ts'

export interface Names {
  /** All addresses of a name, IPv4 first; empty when there are none. Rejects when no server says so. */
  addresses(name: string): Promise<readonly string[]>
  /** The same for a name that the operator opened: the hosts file and inner networks count. */
  openedAddresses(name: string): Promise<readonly string[]>
  /** DNS records in the shape of `node:dns`. Rejects with the resolver's error. */
  records(name: string, rrtype: RrType): Promise<readonly unknown[]>
}

const NO_SUCH_RECORD = ['ENODATA', 'ENOTFOUND']

/** Asks `servers` (`address` or `address:port`), or those of the system when there are none. */
export function createNames(servers: readonly string[] = []): Names {
  const resolver = new Resolver({ timeout: 1500, tries: 3 })
  if (servers.length > 0) resolver.setServers(servers)

  async function addresses(name: string): Promise<readonly string[]> {
    const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)])
    const found = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
    const failed = answers.find((answer) => answer.status === 'rejected' && !NO_SUCH_RECORD.includes(answer.reason.code))
    if (found.length === 0 && failed?.status === 'rejected') throw failed.reason
    return found
  }

  return {
    addresses,
    openedAddresses: (name) => resolveSystem(name, new AbortController().signal),
    async records(name, rrtype) {
      if (rrtype === 'REVERSE') return resolver.reverse(name)
      if (rrtype === 'A') return resolver.resolve4(name, { ttl: true })
      if (rrtype === 'AAAA') return resolver.resolve6(name, { ttl: true })
      const found: unknown = await resolver.resolve(name, rrtype)
      return Array.isArray(found) ? found : [found]
    },
  }
}
