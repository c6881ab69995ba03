import type { TenantId } from '../tenant/tenant-id.ts'
import type { Seat } from './seat.ts'

/** Why a sandbox came to its end; reaches the caller's error, the log and the metrics. */
export const END_CAUSES = ['idle', 'memory', 'timeout', 'crash', 'exhausted', 'evicted', 'recycled', 'platform'] as const
export type EndCause = (typeof END_CAUSES)[number]

interface Base {
  readonly id: string
  /** Grows by one with every change; a write that read an older one must not land. */
  readonly generation: number
  /** Unix milliseconds. */
  readonly createdAt: number
  /** Its class, as `classKey` names it: who wants another class wants another sandbox. */
  readonly make: string
  /** Digest of the template and image that it was made from. */
  readonly spec: string
}

/**
 * One tenant's warm container, as Redis records it. Bound to a seat of a tenant at birth or by adoption, and then for ever.
 * `users` are the gateways that may send it requests: it is removed in peace only when there are none.
 */
export type Sandbox =
  | (Base & { readonly state: 'starting'; readonly tenant: TenantId | null; readonly seat: Seat | null })
  | (Base & { readonly state: 'prewarmed' })
  | (Base & { readonly state: 'warm'; readonly tenant: TenantId; readonly seat: Seat; readonly users: readonly string[] })
  /** Frozen: it costs memory and no processor. Nobody uses it; `pausedAt` is in Unix milliseconds. */
  | (Base & { readonly state: 'paused'; readonly tenant: TenantId; readonly seat: Seat; readonly pausedAt: number })
  /** It has lost its seat and takes nothing new; `users` still have requests there. `since` is in Unix milliseconds. */
  | (Base & {
      readonly state: 'draining'
      readonly tenant: TenantId | null
      readonly users: readonly string[]
      readonly cause: EndCause
      readonly since: number
    })
  | (Base & { readonly state: 'removed'; readonly cause: EndCause })

export type SandboxEvent =
  | { readonly kind: 'started' }
  | { readonly kind: 'adopted'; readonly tenant: TenantId; readonly seat: Seat; readonly gateway: string }
  /** A gateway gives it up; without users it drains, and drained it goes. */
  | { readonly kind: 'released'; readonly gateway: string; readonly cause: EndCause; readonly at: number }
  /** Another one took its seat; its users finish what they have there. */
  | { readonly kind: 'succeeded'; readonly cause: EndCause; readonly at: number }
  /** A gateway takes the place of those that died, so that the sandbox is somebody's to retire. */
  | { readonly kind: 'inherited'; readonly gateway: string; readonly dead: readonly string[] }
  /** A gateway stops using it for now; the last one's rest pauses it. */
  | { readonly kind: 'rested'; readonly gateway: string; readonly at: number }
  | { readonly kind: 'resumed'; readonly gateway: string }
  /** It must go, whoever uses it. */
  | { readonly kind: 'retired'; readonly cause: EndCause; readonly at: number }
  | { readonly kind: 'removed'; readonly cause: EndCause }

/** The one table of what may follow what; undefined means that the event is illegal in this state. */
export function transition(sandbox: Sandbox, event: SandboxEvent): Sandbox | undefined {
  const { id, createdAt, make, spec } = sandbox
  const base = { id, generation: sandbox.generation + 1, createdAt, make, spec }
  const tenant = 'tenant' in sandbox ? sandbox.tenant : null
  if (sandbox.state === 'removed') return undefined
  switch (event.kind) {
    case 'started':
      if (sandbox.state !== 'starting') return undefined
      return sandbox.tenant === null || sandbox.seat === null
        ? { ...base, state: 'prewarmed' }
        : { ...base, state: 'warm', tenant: sandbox.tenant, seat: sandbox.seat, users: [] }
    case 'adopted':
      if (sandbox.state === 'prewarmed') return { ...base, state: 'warm', tenant: event.tenant, seat: event.seat, users: [event.gateway] }
      if (sandbox.state !== 'warm' || sandbox.seat !== event.seat) return undefined
      return { ...sandbox, ...base, users: [...new Set([...sandbox.users, event.gateway])] }
    case 'released': {
      if (sandbox.state !== 'warm' && sandbox.state !== 'draining') return undefined
      const users = sandbox.users.filter((user) => user !== event.gateway)
      if (sandbox.state === 'draining') return { ...sandbox, ...base, users }
      return users.length > 0 ? { ...sandbox, ...base, users } : { ...base, state: 'draining', tenant, users, cause: event.cause, since: event.at }
    }
    case 'succeeded':
      if (sandbox.state !== 'warm') return undefined
      return { ...base, state: 'draining', tenant, users: sandbox.users, cause: event.cause, since: event.at }
    case 'inherited': {
      if (sandbox.state !== 'warm' && sandbox.state !== 'draining') return undefined
      const living = sandbox.users.filter((user) => !event.dead.includes(user) && user !== event.gateway)
      return { ...sandbox, ...base, users: [...living, event.gateway] }
    }
    case 'rested': {
      if (sandbox.state !== 'warm') return undefined
      const users = sandbox.users.filter((user) => user !== event.gateway)
      return users.length > 0
        ? { ...sandbox, ...base, users }
        : { ...base, state: 'paused', tenant: sandbox.tenant, seat: sandbox.seat, pausedAt: event.at }
    }
    case 'resumed':
      return sandbox.state === 'paused' ? { ...base, state: 'warm', tenant: sandbox.tenant, seat: sandbox.seat, users: [event.gateway] } : undefined
    case 'retired':
      if (sandbox.state === 'draining' && sandbox.users.length === 0) return undefined
      return { ...base, state: 'draining', tenant, users: [], cause: event.cause, since: event.at }
    case 'removed':
      return { ...base, state: 'removed', cause: event.cause }
  }
}

/** The seat that a sandbox holds; draining ones have lost theirs. */
export function seatHeldBy(sandbox: Sandbox): Seat | null {
  return 'seat' in sandbox ? sandbox.seat : null
}
