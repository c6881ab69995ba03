import { loadScript, type Redis } from '../redis.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import { seatHeldBy, type EndCause, type Sandbox } from './sandbox.ts'
import type { Seat } from './seat.ts'
import type { Start } from './starts.ts'

const ADOPTIONS = ['existing', 'starting', 'adopted', 'resumed'] as const
export type Adoption = { kind: (typeof ADOPTIONS)[number]; id: string } | { kind: 'none' }
export type Renewal = { kind: 'renewed'; id: string } | { kind: 'none' } | { kind: 'lost' }

/** What the parts tell each other about sandboxes. At most once: whoever listens also re-reads the records after a gap. */
export type SandboxNews =
  | {
      readonly kind: 'starting'
      readonly id: string
      readonly tenant: TenantId | null
      readonly seat: Seat | null
      readonly make: string
      readonly spec: string
    }
  | { readonly kind: 'started'; readonly id: string; readonly seat: Seat | null }
  /** Its agent has dialled in: it has done with what starting costs. */
  | { readonly kind: 'connected'; readonly id: string }
  | { readonly kind: 'adopted'; readonly id: string; readonly make: string }
  /** A fresh one took the seat: what still runs in the old one may finish. */
  | { readonly kind: 'renewed'; readonly id: string; readonly seat: Seat }
  /** It used the processor just now; those who have nothing running there should rest. */
  | { readonly kind: 'burning'; readonly id: string }
  /** It has served its time: somebody should put a fresh one of this template on its seat. */
  | { readonly kind: 'worn'; readonly id: string; readonly spec: string }
  /** The deployment is full, and so many more are wanted: idle ones should make room. */
  | { readonly kind: 'crowded'; readonly wanted: number }
  | { readonly kind: 'ended'; readonly id: string; readonly cause: EndCause }
  | { readonly kind: 'failed'; readonly seat: Seat; readonly reason: string; readonly full: boolean }

/** What the orchestrator says of its engine, for those who may not ask it. */
export interface EngineFacts {
  readonly runtimes: readonly string[]
}

/** The sandbox records of one deployment in Redis: what should be. */
export interface SandboxStore {
  register(sandbox: Sandbox & { state: 'starting' }, most: number): Promise<'registered' | 'exists' | 'full'>
  adopt(seat: Seat, options: { tenant: TenantId; gateway: string; candidates: readonly string[] }): Promise<Adoption>
  /** Puts a fresh one on the seat of `old`, which drains. */
  renew(seat: Seat, options: { old: string; gateway: string; cause: EndCause; at: number; candidates: readonly string[] }): Promise<Renewal>
  /** Compare-and-set on the generation that `from` had when it was read. */
  swap(from: Sandbox, to: Sandbox): Promise<'swapped' | 'stale' | 'gone'>
  forget(id: string): Promise<boolean>
  /** Records one again that Redis lost. */
  restore(sandbox: Sandbox & { state: 'warm' | 'draining' }): Promise<'restored' | 'known' | 'taken'>
  read(id: string): Promise<Sandbox | undefined>
  list(): Promise<Sandbox[]>
  /** Says that a gateway lives; gives the ids of those that do. */
  beat(gateway: string): Promise<ReadonlySet<string>>
  publish(news: SandboxNews): Promise<void>
  /** Keeps a first request's wait, for sizing the stock and for advice; only the newest are kept. */
  recordStart(start: Start): Promise<void>
  /** Those since that time (Unix ms), oldest first. */
  starts(since: number): Promise<Start[]>
  tellEngine(facts: EngineFacts): Promise<void>
  engine(): Promise<EngineFacts | undefined>
  readonly channel: string
}

/** A gateway that was not heard of for this long is dead (ms): three beats and a slow one. */
const GATEWAY_SILENCE_MS = 20_000
/** First requests that are remembered: at one a second, half a day. */
const STARTS_KEPT = 50_000

/** Lua cannot tell an empty list from an empty object. */
function parseRecord(text: string): Sandbox {
  const record = JSON.parse(text) as Sandbox
  return 'users' in record && !Array.isArray(record.users) ? { ...record, users: [] } : record
}

/** `prefix` keeps deployments apart that share one Redis. */
export function createSandboxStore(redis: Redis, prefix: string): SandboxStore {
  const keys = [`${prefix}:sandboxes`, `${prefix}:seats`] as const
  const [startsKey, engineKey] = [`${prefix}:starts`, `${prefix}:engine`]
  const script = <Result>(name: string) => loadScript<Result>(redis, new URL(`scripts/${name}.lua`, import.meta.url))
  const register = script<1 | 0 | -1>('register')
  const adopt = script<[string, string]>('adopt')
  const renew = script<['renewed' | 'none' | 'lost', string]>('renew')
  const swap = script<1 | 0 | -1>('swap')
  const forget = script<1 | 0>('forget')
  const restore = script<1 | 0 | -1>('restore')
  const beat = script<string[]>('beat')
  const channel = `${prefix}:news`

  return {
    channel,
    async register(sandbox, most) {
      const result = await register(keys, [sandbox.id, JSON.stringify(sandbox), sandbox.seat ?? '', most])
      return result === 1 ? 'registered' : result === 0 ? 'exists' : 'full'
    },
    async adopt(seat, { tenant, gateway, candidates }) {
      const [kind, id] = await adopt(keys, [seat, tenant, gateway, ...candidates])
      const known = ADOPTIONS.find((name) => name === kind)
      return known === undefined ? { kind: 'none' } : { kind: known, id }
    },
    async renew(seat, { old, gateway, cause, at, candidates }) {
      const [kind, id] = await renew(keys, [seat, old, gateway, cause, at, ...candidates])
      return kind === 'renewed' ? { kind, id } : { kind }
    },
    async swap(from, to) {
      const loses = seatHeldBy(to) === null ? (seatHeldBy(from) ?? '') : ''
      const result = await swap(keys, [from.id, from.generation, JSON.stringify(to), loses])
      return result === 1 ? 'swapped' : result === 0 ? 'stale' : 'gone'
    },
    async forget(id) {
      return (await forget(keys, [id])) === 1
    },
    async restore(sandbox) {
      const result = await restore(keys, [sandbox.id, JSON.stringify(sandbox), seatHeldBy(sandbox) ?? ''])
      return result === 1 ? 'restored' : result === 0 ? 'known' : 'taken'
    },
    async read(id) {
      const text = await redis.hget(keys[0], id)
      return text === null ? undefined : parseRecord(text)
    },
    async list() {
      return Object.values(await redis.hgetall(keys[0])).map(parseRecord)
    },
    async beat(gateway) {
      return new Set(await beat([`${prefix}:gateways`], [gateway, GATEWAY_SILENCE_MS]))
    },
    async publish(news) {
      await redis.publish(channel, JSON.stringify(news))
    },
    async recordStart({ at, make, how, ms }) {
      await redis.xadd(startsKey, 'MAXLEN', '~', STARTS_KEPT, '*', 'at', at, 'make', make, 'how', how, 'ms', ms)
    },
    async starts(since) {
      const entries = await redis.xrange(startsKey, since, '+')
      return entries.map(([, fields]) => {
        const value = (name: string) => fields[fields.indexOf(name) + 1] ?? ''
        return { at: Number(value('at')), make: value('make'), how: value('how') as Start['how'], ms: Number(value('ms')) }
      })
    },
    async tellEngine(facts) {
      await redis.set(engineKey, JSON.stringify(facts))
    },
    async engine() {
      const text = await redis.get(engineKey)
      return text === null ? undefined : (JSON.parse(text) as EngineFacts)
    },
  }
}
