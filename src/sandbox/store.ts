import { loadScript, type Redis } from '../redis.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { EndCause, Sandbox } from './sandbox.ts'

const ADOPTIONS = ['existing', 'starting', 'adopted', 'resumed'] as const
export type Adoption = { kind: (typeof ADOPTIONS)[number]; id: string } | { kind: 'none' }

/** What the parts tell each other about sandboxes. At most once: whoever listens also re-reads the records after a gap. */
export type SandboxNews =
  | { readonly kind: 'starting'; readonly id: string; readonly tenant: TenantId | null }
  | { readonly kind: 'started'; readonly id: string; readonly tenant: TenantId | null }
  | { readonly kind: 'adopted'; readonly id: string }
  /** It used the processor just now; those who have nothing running there should rest. */
  | { readonly kind: 'burning'; readonly id: string }
  | { readonly kind: 'ended'; readonly id: string; readonly cause: EndCause }
  | { readonly kind: 'failed'; readonly tenant: TenantId; readonly reason: string }

/** The sandbox records of one deployment in Redis: what should be. */
export interface SandboxStore {
  register(sandbox: Sandbox & { state: 'starting' }, most: number): Promise<'registered' | 'exists' | 'full'>
  adopt(tenant: TenantId, options: { gateway: string; candidates: readonly string[] }): Promise<Adoption>
  /** Compare-and-set on the generation that `from` had when it was read. */
  swap(from: Sandbox, to: Sandbox): Promise<'swapped' | 'stale' | 'gone'>
  forget(id: string): Promise<boolean>
  read(id: string): Promise<Sandbox | undefined>
  list(): Promise<Sandbox[]>
  /** Says that a gateway lives; gives the ids of those that do. */
  beat(gateway: string): Promise<ReadonlySet<string>>
  publish(news: SandboxNews): Promise<void>
  readonly channel: string
}

/** A gateway that was not heard of for this long is dead (ms): three beats and a slow one. */
const GATEWAY_SILENCE_MS = 20_000

/** `prefix` keeps deployments apart that share one Redis. */
export function createSandboxStore(redis: Redis, prefix: string): SandboxStore {
  const keys = [`${prefix}:sandboxes`, `${prefix}:tenants`] as const
  const script = <Result>(name: string) => loadScript<Result>(redis, new URL(`scripts/${name}.lua`, import.meta.url))
  const register = script<1 | 0 | -1>('register')
  const adopt = script<[string, string]>('adopt')
  const swap = script<1 | 0 | -1>('swap')
  const forget = script<1 | 0>('forget')
  const beat = script<string[]>('beat')
  const channel = `${prefix}:news`

  return {
    channel,
    async register(sandbox, most) {
      const result = await register(keys, [sandbox.id, JSON.stringify(sandbox), sandbox.tenant ?? '', most])
      return result === 1 ? 'registered' : result === 0 ? 'exists' : 'full'
    },
    async adopt(tenant, { gateway, candidates }) {
      const [kind, id] = await adopt(keys, [tenant, gateway, ...candidates])
      const known = ADOPTIONS.find((name) => name === kind)
      return known === undefined ? { kind: 'none' } : { kind: known, id }
    },
    async swap(from, to) {
      const loses = to.state === 'draining' || to.state === 'removed' ? ('tenant' in from && from.tenant) || '' : ''
      const result = await swap(keys, [from.id, from.generation, JSON.stringify(to), loses])
      return result === 1 ? 'swapped' : result === 0 ? 'stale' : 'gone'
    },
    async forget(id) {
      return (await forget(keys, [id])) === 1
    },
    async read(id) {
      const text = await redis.hget(keys[0], id)
      return text === null ? undefined : (JSON.parse(text) as Sandbox)
    },
    async list() {
      return Object.values(await redis.hgetall(keys[0])).map((text) => JSON.parse(text) as Sandbox)
    },
    async beat(gateway) {
      return new Set(await beat([`${prefix}:gateways`], [gateway, GATEWAY_SILENCE_MS]))
    },
    async publish(news) {
      await redis.publish(channel, JSON.stringify(news))
    },
  }
}
