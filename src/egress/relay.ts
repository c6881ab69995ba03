/** One connection of a sandbox: its request is judged and answered, and its bytes go to and fro until both ends are through. */
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { createFrameReader, encodeFrame } from '../protocol/frame.ts'
import { type EgressCode, type EgressFailure, type EgressRequest, MAX_EGRESS_REQUEST, parseEgressRequest } from '../protocol/egress.ts'
import { judge } from './address.ts'
import { createInterceptor, type BoundTarget } from './bound-connection.ts'
import { BOUND_PORT, secretsFor, type BoundSecrets } from './bound-secrets.ts'
import { carry, known, piped, type Running } from './carry.ts'
import { type Dial, opened as whenOpened } from './dial.ts'
import type { Names } from './names.ts'
import { isOpened, mayLookUp, mayReach, placeOf, refusalOf, type OpenedPlaces, type OutboundRules } from './outbound-rules.ts'
import { reach, Unreached } from './reach.ts'
import { RELAY_LIMITS } from './limits.ts'
import type { Usage } from './usage.ts'

/** Whom a connection belongs to: decided by where it came in, never by what it says. */
export interface Client {
  readonly sandbox: string
  readonly tenant: string
  readonly rules: OutboundRules
  /** Those of its webtasks. */
  readonly bound: readonly BoundSecrets[]
}

/** One finished connection, or one that did not come about. `outcome` is `closed`, the code that the webtask was given, or why it was cut. */
export interface Closed {
  readonly sandbox: string
  readonly tenant: string
  readonly host: string
  readonly port: number
  readonly address: string | null
  /** From the internet. */
  readonly bytesIn: number
  readonly bytesOut: number
  readonly ms: number
  readonly outcome: string
}

export interface RelayOptions {
  readonly names: Names
  readonly opened: OpenedPlaces
  readonly usage: Usage
  readonly now: () => number
  readonly closed: (event: Closed) => void
  /** The last look at a connection that is over. */
  readonly finished: (running: Running) => void
  readonly dial?: Dial
  readonly limits?: Partial<typeof RELAY_LIMITS>
  /** Authorities (PEM) that may vouch for the hosts of bound secrets, beside the default ones. */
  readonly authorities?: string | undefined
}

export interface Relay {
  /** Takes over a connection that came in for `client`. */
  serve(socket: Socket, client: () => Client | undefined): void
  readonly running: ReadonlySet<Running>
}

/** Half-open on purpose: each direction of the far end is closed when the near end closes it, and not before. */
export const dialRelay: Dial = (address, port, signal) =>
  whenOpened(connect({ host: address, port, noDelay: true, allowHalfOpen: true, autoSelectFamily: false }), 'connect', signal)

const failure = (code: EgressCode, syscall: EgressFailure['syscall'], message = '', address: string | null = null): EgressFailure => ({
  ok: false,
  code,
  syscall,
  message,
  address,
})

export function createRelay(options: RelayOptions): Relay {
  const { names, opened, usage, now } = options
  const limits = { ...RELAY_LIMITS, ...options.limits }
  const dial = options.dial ?? dialRelay
  const interceptor = createInterceptor(options)
  const running = new Set<Running>()
  /** Connections that broke, as their sandboxes may ask: `<sandbox>/<id>`, for a while. */
  const broken = new Map<string, EgressCode>()
  let ids = 0

  function remember(client: Client, id: number, code: EgressCode): void {
    const key = `${client.sandbox}/${id}`
    broken.set(key, code)
    if (broken.size > limits.brokenRemembered) broken.delete(broken.keys().next().value!)
    setTimeout(() => broken.delete(key), limits.brokenMs).unref()
  }

  function serve(socket: Socket, clientOf: () => Client | undefined): void {
    const reader = createFrameReader(MAX_EGRESS_REQUEST)
    const patience = setTimeout(() => socket.destroy(), limits.requestMs)
    socket.on('error', () => {})
    socket.once('close', () => clearTimeout(patience))
    const hear = (chunk: Buffer) => {
      let values: unknown[]
      try {
        values = reader.push(chunk)
      } catch {
        return void socket.destroy()
      }
      if (values.length === 0) return
      clearTimeout(patience)
      socket.off('data', hear).pause()
      const request = parseEgressRequest(values[0])
      const client = clientOf()
      if (request === undefined || values.length > 1 || client === undefined) return void socket.destroy()
      if (request.kind === 'connect') void connectFor(socket, client, request)
      else if (request.kind === 'resolve') void resolveFor(socket, client, request)
      else answer(socket, { ok: true, broken: broken.get(`${client.sandbox}/${request.id}`) ?? null })
    }
    socket.on('data', hear)
  }

  async function resolveFor(socket: Socket, client: Client, { name, rrtype }: Extract<EgressRequest, { kind: 'resolve' }>): Promise<void> {
    const refused = usage.begin(client.tenant, 'lookup', now())
    const found = refused ? failure(refused.code, 'getaddrinfo', refused.message) : await look(client, name, rrtype)
    answer(socket, Array.isArray(found) ? { ok: true, records: found } : found)
  }

  /** The last word on a connection: who does not take it in time has lost it. */
  function answer(socket: Socket, reply: object): void {
    const patience = setTimeout(() => socket.destroy(), limits.requestMs)
    socket.once('close', () => clearTimeout(patience))
    socket.end(encodeFrame(reply))
    socket.resume()
  }

  async function look(
    client: Client,
    name: string,
    rrtype: Extract<EgressRequest, { kind: 'resolve' }>['rrtype'],
  ): Promise<unknown[] | EgressFailure> {
    const place = placeOf(name, 0)
    if (rrtype === 'REVERSE') {
      if (judge(name) !== 'public') return failure('ENOTFOUND', 'query')
    } else {
      if (place.host === null || (place.kind !== 'name' && !isNameOpened(place.host))) return failure('ENOTFOUND', 'getaddrinfo')
      if (!mayLookUp(client.rules, place.host)) return failure('EACCES', 'getaddrinfo', 'the rules of the tenant do not allow it')
    }
    try {
      if (rrtype === 'LOOKUP') {
        const addresses = await addressesOf(place.host!)
        if (addresses.length === 0) return failure('ENOTFOUND', 'getaddrinfo')
        return addresses.map((address) => ({ address }))
      }
      return [...(await names.records(place.host ?? name, rrtype))].slice(0, limits.records)
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      return failure(rrtype === 'LOOKUP' ? 'EAI_AGAIN' : known(code, 'ESERVFAIL'), 'query')
    }
  }

  const isNameOpened = (host: string) => opened.some(({ ports }) => isOpened(opened, { host, port: ports[0], address: null }))
  const addressesOf = (host: string) => (isNameOpened(host) ? names.openedAddresses(host) : names.addresses(host))

  /** What to connect to, every address judged: one that is not public refuses the name, because the next answer may have another order. */
  async function judged(client: Client, { host, port }: { host: string; port: number }): Promise<readonly string[] | EgressFailure> {
    const place = placeOf(host, port)
    const rules = { rules: client.rules, opened }
    if (place.kind === 'local') return failure('EACCES', 'connect', 'the address is not public')
    if (place.address !== null) {
      const refusal = refusalOf(place.address, place, rules)
      return refusal === undefined ? [place.address] : failure('EACCES', 'connect', refusal, place.address)
    }
    if (place.kind === 'none' && !isNameOpened(place.host!)) return failure('ENOTFOUND', 'getaddrinfo')
    if (!mayReach(client.rules, place)) return failure('EACCES', 'connect', 'the rules of the tenant do not allow it')
    let addresses: readonly string[]
    try {
      addresses = await addressesOf(place.host!)
    } catch {
      return failure('EAI_AGAIN', 'getaddrinfo')
    }
    if (addresses.length === 0) return failure('ENOTFOUND', 'getaddrinfo')
    const refusals = addresses.map((address) => refusalOf(address, place, rules))
    const inner = addresses.findIndex((address, index) => refusals[index] !== undefined && judge(address) !== 'public')
    if (inner >= 0) return failure('EACCES', 'connect', 'the address is not public', addresses[inner])
    const allowed = addresses.filter((_, index) => refusals[index] === undefined)
    return allowed.length > 0 ? allowed.slice(0, limits.addresses) : failure('EACCES', 'connect', refusals[0], addresses[0])
  }

  async function connectFor(socket: Socket, client: Client, asked: Extract<EgressRequest, { kind: 'connect' }>): Promise<void> {
    const { host, port } = asked
    const began = now()
    const report = (outcome: string, far: { address: string | null; bytesIn: number; bytesOut: number }) =>
      options.closed({ sandbox: client.sandbox, tenant: client.tenant, host, port, ...far, ms: now() - began, outcome })
    const refuse = (reply: EgressFailure) => {
      answer(socket, reply)
      report(reply.code, { address: reply.address, bytesIn: 0, bytesOut: 0 })
    }
    const over = usage.begin(client.tenant, 'connection', began)
    if (over) return refuse(failure(over.code, 'connect', over.message))
    const left = new AbortController()
    const leave = () => left.abort(new Unreached('ECONNABORTED', ''))
    socket.once('close', leave)
    try {
      const addresses = await judged(client, { host, port })
      if (!Array.isArray(addresses)) return refuse(addresses as EgressFailure)
      if (left.signal.aborted) return report('left', { address: null, bytesIn: 0, bytesOut: 0 })
      const far = await reach(addresses, { port, ms: limits.connectMs, staggerMs: limits.staggerMs, dial, signal: left.signal })
      const stray = refusalOf(far.socket.remoteAddress ?? '', placeOf(host, port), { rules: client.rules, opened })
      if (stray !== undefined) {
        far.socket.destroy()
        return refuse(failure('EACCES', 'connect', stray, far.address))
      }
      const { address } = far
      const target = boundTarget(client, asked)
      const inTime = () => AbortSignal.any([left.signal, AbortSignal.timeout(limits.connectMs)])
      const joint = target === undefined ? piped(far.socket, limits) : await interceptor.intercept(far, target, inTime())
      const id = (ids += 1)
      const carried = await carry(socket, far.socket, {
        client,
        reply: { ok: true, id, address, family: address.includes(':') ? 6 : 4, port },
        joint,
        running,
        broke: (code) => remember(client, id, code),
        finished: options.finished,
      })
      report(carried.outcome, { address, ...carried })
    } catch (error) {
      if (left.signal.aborted) return report('left', { address: null, bytesIn: 0, bytesOut: 0 })
      const { code, address, reason } = error instanceof Unreached ? error : new Unreached('ECONNRESET', '')
      refuse(failure(known(code, 'EHOSTUNREACH'), 'connect', reason, address))
    } finally {
      socket.off('close', leave)
      usage.end(client.tenant)
    }
  }

  return { serve, running }
}

/** Undefined for connections that nobody looks into: by address, to another port, to a host without secrets, or of code without any. */
function boundTarget({ bound: all }: Client, { host, port, bound: id }: Extract<EgressRequest, { kind: 'connect' }>): BoundTarget | undefined {
  const bound = id === undefined || port !== BOUND_PORT ? undefined : all.find((each) => each.id === id)
  const name = placeOf(host, port).host?.toLowerCase()
  if (bound === undefined || name === undefined) return undefined
  const secrets = secretsFor(bound, name)
  return secrets && { bound, secrets, host: name }
}
