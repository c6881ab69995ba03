import { lookup, Resolver } from 'node:dns/promises'

/** All addresses of a host name, empty if there is none. Rejects when the name servers fail to say, or with the signal's reason. */
export type Resolve = (host: string, signal: AbortSignal) => Promise<readonly string[]>

const NO_SUCH_RECORD = ['ENODATA', 'ENOTFOUND']

/**
 * Makes the resolver of the public internet: asks the name servers (`servers`, or the system's) for A and AAAA. No hosts file, no search
 * domains, no mDNS, so a name means what the internet says it means.
 */
export function createResolve(servers?: readonly string[]): Resolve {
  return async (host, signal) => {
    const resolver = new Resolver({ timeout: 900, tries: 2 })
    if (servers !== undefined) resolver.setServers(servers)
    const cancel = () => resolver.cancel()
    signal.addEventListener('abort', cancel, { once: true })
    try {
      const answers = await Promise.allSettled([resolver.resolve4(host), resolver.resolve6(host)])
      const addresses = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
      const failed = answers.find((answer) => answer.status === 'rejected' && !NO_SUCH_RECORD.includes(answer.reason.code))
      if (addresses.length === 0 && failed?.status === 'rejected') throw failed.reason
      return addresses
    } finally {
      signal.removeEventListener('abort', cancel)
    }
  }
}

/** Asks the system as any program does, for hosts that the operator listed: these may live in the hosts file or in a container network. */
export const resolveSystem: Resolve = async (host) => {
  try {
    const found = await lookup(host, { all: true })
    return found.map((record) => record.address)
  } catch (error) {
    if (error instanceof Error && 'code' in error && NO_SUCH_RECORD.includes(String(error.code))) return []
    throw error
  }
}
