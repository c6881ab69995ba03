/**
 * Lets `dns.resolve*`, `dns.reverse` and the `Resolver` classes ask the egress role. All of them end in the methods of one
 * native channel, so these are replaced: what Node does before and after, it still does.
 */
import { type EgressFailure, parseResolveReply, type RrType } from '../../protocol/egress.ts'
import { ask } from './exchange.ts'
import { dns, type Socket } from './natives.ts'

const METHODS: Readonly<Record<string, RrType>> = {
  queryA: 'A',
  queryAaaa: 'AAAA',
  queryAny: 'ANY',
  queryCaa: 'CAA',
  queryCname: 'CNAME',
  queryMx: 'MX',
  queryNaptr: 'NAPTR',
  queryNs: 'NS',
  queryPtr: 'PTR',
  querySoa: 'SOA',
  querySrv: 'SRV',
  queryTxt: 'TXT',
  getHostByAddr: 'REVERSE',
}

interface Query {
  oncomplete(error: string | null, records?: unknown, ttls?: number[]): void
}
type Channel = Record<string, (...args: never[]) => unknown>

export function installRecords(socketPath: string): void {
  const channel = Object.getPrototypeOf((new dns.Resolver() as unknown as { _handle: Channel })._handle) as Channel
  /** The questions of one resolver that are still open. */
  const open = new WeakMap<object, Map<Query, Socket>>()

  for (const [method, rrtype] of Object.entries(METHODS)) {
    if (typeof channel[method] !== 'function') continue
    channel[method] = function (this: object, query: Query, name: string) {
      const mine = open.get(this) ?? new Map<Query, Socket>()
      open.set(this, mine)
      const carrier = resolve(socketPath, { name, rrtype }, (failure, records) => {
        mine.delete(query)
        if (failure) return query.oncomplete(codeOf(failure))
        if (rrtype !== 'A' && rrtype !== 'AAAA') return query.oncomplete(null, records)
        const found = records as { address: string; ttl: number }[]
        query.oncomplete(
          null,
          found.map(({ address }) => address),
          found.map(({ ttl }) => ttl),
        )
      })
      mine.set(query, carrier)
      return 0
    }
  }
  channel['queryTlsa'] = (query: Query) => {
    process.nextTick(() => query.oncomplete('ENOTIMP'))
    return 0
  }
  channel['cancel'] = function (this: object) {
    const mine = open.get(this)
    open.delete(this)
    for (const [query, carrier] of mine ?? []) {
      carrier.removeAllListeners('close').destroy()
      process.nextTick(() => query.oncomplete('ECANCELLED'))
    }
  }
}

/** Asks once. A failure is undefined as a whole when the egress role is not there. */
export function resolve(
  socketPath: string,
  { name, rrtype }: { name: string; rrtype: RrType },
  done: (failure: Pick<EgressFailure, 'code' | 'message'> | undefined, records: readonly unknown[]) => void,
): Socket {
  return ask(socketPath, {
    request: { kind: 'resolve', name, rrtype },
    on: {
      failed: () => done({ code: 'EAI_AGAIN', message: '' }, []),
      replied(value, carrier) {
        carrier.destroy()
        const reply = parseResolveReply(value)
        if (reply?.ok) done(undefined, reply.records)
        else done(reply ?? { code: 'EAI_AGAIN', message: '' }, [])
      },
    },
  })
}

/** Resolvers have codes of their own. */
function codeOf({ code }: Pick<EgressFailure, 'code'>): string {
  return code === 'EAI_AGAIN' ? 'ECONNREFUSED' : code === 'EACCES' || code === 'EAGAIN' ? 'EREFUSED' : code
}
