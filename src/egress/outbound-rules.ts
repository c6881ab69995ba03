/**
 * Where a tenant's code may connect to: pure decisions. Two judgements apply, and both must agree. The floor is the same for all:
 * an address must be public, unless the operator opened it. Above it are the tenant's rules, of which the first that matches decides.
 */
import { z } from 'zod'
import { isWithin, judge, parseBlock, type AddressBlock } from './address.ts'
import { judgeHost } from './rules.ts'

/** `to` is a host name, `*.` and a domain (its subdomains at any depth), an address block, or `*`; ports include both ends. */
export type OutboundRule = { readonly action: 'allow' | 'deny'; readonly to: string; readonly ports: readonly [number, number] }
/** What no rule matches is denied. */
export type OutboundRules = readonly OutboundRule[]
/** Places that the operator opened although their addresses are not public. */
export type OpenedPlaces = readonly Omit<OutboundRule, 'action'>[]

/** `host` is canonical, or null where code gave an address; `address` is null as long as it is not known. */
export type Place = { readonly host: string | null; readonly port: number; readonly address: string | null }

const RULES_MAX = 256
const port = z.int().min(0).max(65_535)

/** Rules as they come from outside. */
export const outboundRules: z.ZodType<OutboundRules> = z
  .array(z.strictObject({ action: z.enum(['allow', 'deny']), to: z.string().max(256).refine(isTarget), ports: z.tuple([port, port]) }))
  .max(RULES_MAX)

/** Whether a connection to this place can come out allowed; while its address is not known, rules about addresses might match. */
export function mayReach(rules: OutboundRules, place: Place): boolean {
  for (const rule of rules) {
    const matches = covers(rule, place)
    if (matches === true || (matches === undefined && rule.action === 'allow')) return rule.action === 'allow'
  }
  return false
}

/** Whether a name may be looked up: whether it may be reached on any port. */
export function mayLookUp(rules: OutboundRules, host: string): boolean {
  const ports = new Set(rules.flatMap(({ ports: [from, to] }) => [from, Math.min(to + 1, 65_535)]))
  return [...ports].some((each) => mayReach(rules, { host, port: each, address: null }))
}

/** Why an address is not connected to, in words for the code's author; undefined when it is. */
export function refusalOf(address: string, place: Omit<Place, 'address'>, asked: { rules: OutboundRules; opened: OpenedPlaces }): string | undefined {
  const known = { ...place, address }
  if (judge(address) !== 'public' && !isOpened(asked.opened, known)) return 'the address is not public'
  return mayReach(asked.rules, known) ? undefined : 'the rules of the tenant do not allow it'
}

/** Whether the operator opened this place. Without an address: whether its name is on the list. */
export function isOpened(opened: OpenedPlaces, place: Place): boolean {
  return opened.some((entry) => entry.to !== '*' && covers(entry, place) === true)
}

/** Reads `deny *:25, allow *:*`. Throws a TypeError that quotes what it cannot read. */
export function parseOutboundRules(text: string): OutboundRules {
  const entries = entriesOf(text)
  const rules = entries.map((entry): OutboundRule | undefined => {
    const [, action, place] = /^(allow|deny)\s+(\S+)$/.exec(entry) ?? []
    const target = place === undefined ? undefined : parseTarget(place)
    return target && { action: action as OutboundRule['action'], ...target }
  })
  return complete(entries, rules, '"allow" or "deny", then host:port')
}

/** Reads `127.0.0.1:5432, 10.0.0.0/8:443, [fd00::/8]:*, db.internal:5432`. Throws a TypeError that quotes what it cannot read. */
export function parseOpenedPlaces(text: string): OpenedPlaces {
  const entries = entriesOf(text)
  const places = entries.map(parseTarget).map((place) => (place?.to === '*' ? undefined : place))
  return complete(entries, places, '"host:port" or "address/bits:port"')
}

const entriesOf = (text: string) =>
  text
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')

function complete<T>(entries: readonly string[], read: readonly (T | undefined)[], form: string): readonly T[] {
  const bad = entries.filter((_, index) => read[index] === undefined)
  if (bad.length > 0) throw new TypeError(`Cannot read ${bad.map((entry) => JSON.stringify(entry)).join(', ')}: each entry must be ${form}`)
  return read.filter((entry) => entry !== undefined)
}

function parseTarget(text: string): Omit<OutboundRule, 'action'> | undefined {
  const [, bracketed, plain, from, to] = /^(?:\[([^\]]+)\]|([^\s:]+)):(?:\*|(\d{1,5})(?:-(\d{1,5}))?)$/.exec(text) ?? []
  const target = (bracketed ?? plain)?.toLowerCase()
  if (target === undefined || !isTarget(target)) return undefined
  const ports: [number, number] = from === undefined ? [0, 65_535] : [Number(from), Number(to ?? from)]
  return ports[0] <= ports[1] && ports[1] <= 65_535 ? { to: target, ports } : undefined
}

function isTarget(text: string): boolean {
  return text === '*' || parseBlock(text) !== undefined || /^(\*\.)?([a-z\d_-]{1,63}\.)*[a-z\d_-]{1,63}$/.test(text)
}

/** Undefined when that hangs on the address, which is not known yet. */
function covers({ to, ports }: Omit<OutboundRule, 'action'>, place: Place): boolean | undefined {
  if (place.port < ports[0] || place.port > ports[1]) return false
  if (to === '*') return true
  const block = blockOf(to)
  if (block !== undefined) return place.address === null ? undefined : isWithin(block, place.address)
  if (place.host === null) return false
  return to.startsWith('*.') ? place.host.endsWith(to.slice(1)) : place.host === to
}

const blocks = new Map<string, AddressBlock | undefined>()
const BLOCKS_MAX = 4096

/** Reading a block costs more than comparing it, and there are few. */
function blockOf(to: string): AddressBlock | undefined {
  if (blocks.has(to)) return blocks.get(to)
  const block = /[:/]|^[\d.]+$/.test(to) ? parseBlock(to) : undefined
  if (blocks.size >= BLOCKS_MAX) blocks.clear()
  blocks.set(to, block)
  return block
}

/** The host of a connection as the rules see it. */
export function placeOf(host: string, portNumber: number): Place & { readonly kind: ReturnType<typeof judgeHost>['kind'] } {
  const judged = judgeHost(host)
  const isAddress = judged.kind === 'address'
  return { kind: judged.kind, host: isAddress ? null : judged.host, port: portNumber, address: isAddress ? judged.host : null }
}
