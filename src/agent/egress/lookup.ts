/** Lets `dns.lookup` and `dns.lookupService`, and their promises, ask the egress role. */
import { lookupError } from './failures.ts'
import { dns, net } from './natives.ts'
import { resolve } from './records.ts'
import { NativePromise } from '../natives.ts'

interface Found {
  readonly address: string
  readonly family: number
}
type Done = (error: Error | null, ...found: unknown[]) => void
type Options = { family?: unknown; all?: unknown; verbatim?: unknown; order?: unknown }

/** Given to Node's own functions so that they judge the other arguments, and look nothing up. */
const ANY_ADDRESS = '127.0.0.1'
const PROMISIFY = Symbol.for('nodejs.util.promisify.custom')

export function installLookup(socketPath: string): void {
  const lookupAsBefore = dns.lookup as unknown as (...args: unknown[]) => object
  const { promises } = dns
  const promisedAsBefore = promises.lookup as (...args: unknown[]) => Promise<unknown>

  function lookup(hostname: unknown, options: unknown, callback: unknown): object {
    const done = (typeof options === 'function' ? options : callback) as Done
    if (!isName(hostname)) return lookupAsBefore(...(typeof options === 'function' ? [hostname, options] : [hostname, options, callback]))
    lookupAsBefore(ANY_ADDRESS, ...(typeof options === 'function' ? [() => {}] : [options, typeof done === 'function' ? () => {} : done]))
    const wish = wishOf(options)
    find(hostname, wish).then(
      (found) => process.nextTick(done, null, ...(wish.all ? [found] : [found[0]!.address, found[0]!.family])),
      (error: Error) => process.nextTick(done, error),
    )
    return {}
  }

  async function lookupPromised(hostname: unknown, options?: unknown): Promise<unknown> {
    if (!isName(hostname)) return promisedAsBefore(hostname, options)
    await promisedAsBefore(ANY_ADDRESS, options)
    const wish = wishOf(options)
    const found = await find(hostname, wish)
    return wish.all ? found : found[0]
  }

  async function find(hostname: string, { family, order }: Wish): Promise<Found[]> {
    const found = await NativePromise.resolve(localNames(hostname) ?? ask(hostname))
    const wanted = found.filter((one) => family === 0 || one.family === family)
    if (wanted.length === 0) throw lookupError({ ok: false, code: 'ENOTFOUND', syscall: 'getaddrinfo', message: '', address: null }, hostname)
    return order === 0 ? wanted : wanted.toSorted((a, b) => (a.family - b.family) * order)
  }

  function ask(hostname: string): Promise<Found[]> {
    return new NativePromise((done, fail) => {
      resolve(socketPath, { name: hostname, rrtype: 'LOOKUP' }, (failure, records) => {
        if (failure) return fail(lookupError({ ok: false, syscall: 'getaddrinfo', address: null, ...failure }, hostname))
        done((records as { address: string }[]).map(({ address }) => ({ address, family: net.isIP(address) })))
      })
    })
  }

  function lookupService(address: string, port: number, done: Done): void {
    if (typeof done !== 'function')
      throw Object.assign(new TypeError('The "callback" argument must be of type function'), { code: 'ERR_INVALID_ARG_TYPE' })
    servicePromised(address, port).then(
      ({ hostname, service }) => process.nextTick(done, null, hostname, service),
      (error: Error) => process.nextTick(done, error),
    )
  }

  function servicePromised(address: string, port: number): Promise<{ hostname: string; service: string }> {
    return new NativePromise((done, fail) => {
      if (net.isIP(address) === 0)
        return fail(Object.assign(new TypeError(`The argument 'address' is invalid. Received '${address}'`), { code: 'ERR_INVALID_ARG_VALUE' }))
      resolve(socketPath, { name: address, rrtype: 'REVERSE' }, (failure, names) =>
        failure?.code === 'EAI_AGAIN'
          ? fail(
              Object.assign(new Error(`getnameinfo EAI_AGAIN ${address}`), {
                errno: -3001,
                code: 'EAI_AGAIN',
                syscall: 'getnameinfo',
                hostname: address,
              }),
            )
          : done({ hostname: typeof names[0] === 'string' ? names[0] : address, service: String(port) }),
      )
    })
  }

  dns.lookup = Object.assign(lookup, { [PROMISIFY]: lookupPromised }) as unknown as typeof dns.lookup
  dns.lookupService = Object.assign(lookupService, { [PROMISIFY]: servicePromised }) as unknown as typeof dns.lookupService
  promises.lookup = lookupPromised as typeof promises.lookup
  promises.lookupService = servicePromised
}

/** Names that mean this machine wherever they are asked, as its hosts file would say. */
function localNames(hostname: string): Found[] | undefined {
  return /^(.+\.)?localhost\.?$/i.test(hostname)
    ? [
        { address: '127.0.0.1', family: 4 },
        { address: '::1', family: 6 },
      ]
    : undefined
}

const isName = (hostname: unknown): hostname is string =>
  typeof hostname === 'string' && hostname !== '' && !hostname.includes('\0') && net.isIP(hostname) === 0

interface Wish {
  readonly family: number
  readonly all: boolean
  /** 1: IPv4 first, -1: IPv6 first, 0: as they come. */
  readonly order: 0 | 1 | -1
}

function wishOf(given: unknown): Wish {
  const { family, all, verbatim, order }: Options = typeof given === 'number' ? { family: given } : typeof given === 'object' ? (given ?? {}) : {}
  const wanted = order ?? (typeof verbatim === 'boolean' ? (verbatim ? 'verbatim' : 'ipv4first') : dns.getDefaultResultOrder())
  return {
    family: family === 'IPv4' ? 4 : family === 'IPv6' ? 6 : Number(family ?? 0),
    all: all === true,
    order: wanted === 'ipv4first' ? 1 : wanted === 'ipv6first' ? -1 : 0,
  }
}
