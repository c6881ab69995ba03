import type { TenantId } from '../tenant/tenant-id.ts'

/** Why a sandbox came to its end; reaches the caller's error, the log and the metrics. */
export type EndCause = 'idle' | 'memory' | 'timeout' | 'crash' | 'evicted' | 'platform'

interface Base {
  readonly id: string
  /** Grows by one with every change; a write that read an older one must not land. */
  readonly generation: number
  /** Unix milliseconds. */
  readonly createdAt: number
}

/**
 * One tenant's warm container, as Redis records it. Bound to a tenant at birth or by adoption, and then for ever.
 * `users` are the gateways that may send it requests: it is retired only when there are none.
 */
export type Sandbox =
  | (Base & { readonly state: 'starting'; readonly tenant: TenantId | null })
  | (Base & { readonly state: 'prewarmed' })
  | (Base & { readonly state: 'warm'; readonly tenant: TenantId; readonly users: readonly string[] })
  /** Frozen: it costs memory and no processor. Nobody uses it; `pausedAt` is in Unix milliseconds. */
  | (Base & { readonly state: 'paused'; readonly tenant: TenantId; readonly pausedAt: number })
  | (Base & { readonly state: 'draining'; readonly tenant: TenantId | null; readonly cause: EndCause })
  | (Base & { readonly state: 'removed'; readonly cause: EndCause })

export type SandboxEvent =
  | { readonly kind: 'started' }
  | { readonly kind: 'adopted'; readonly tenant: TenantId; readonly gateway: string }
  | { readonly kind: 'released'; readonly gateway: string }
  /** A gateway takes the place of those that died, so that the sandbox is somebody's to retire. */
  | { readonly kind: 'inherited'; readonly gateway: string; readonly dead: readonly string[] }
  /** A gateway stops using it for now; the last one's rest pauses it. */
  | { readonly kind: 'rested'; readonly gateway: string; readonly at: number }
  | { readonly kind: 'resumed'; readonly gateway: string }
  | { readonly kind: 'retired'; readonly cause: EndCause }
  | { readonly kind: 'removed'; readonly cause: EndCause }

/** The one table of what may follow what; undefined means that the event is illegal in this state. */
export function transition(sandbox: Sandbox, event: SandboxEvent): Sandbox | undefined {
  const base = { id: sandbox.id, generation: sandbox.generation + 1, createdAt: sandbox.createdAt }
  const tenant = 'tenant' in sandbox ? sandbox.tenant : null
  if (sandbox.state === 'removed') return undefined
  switch (event.kind) {
    case 'started':
      if (sandbox.state !== 'starting') return undefined
      return sandbox.tenant === null ? { ...base, state: 'prewarmed' } : { ...base, state: 'warm', tenant: sandbox.tenant, users: [] }
    case 'adopted':
      if (sandbox.state === 'prewarmed') return { ...base, state: 'warm', tenant: event.tenant, users: [event.gateway] }
      if (sandbox.state !== 'warm' || sandbox.tenant !== event.tenant) return undefined
      return { ...base, state: 'warm', tenant: sandbox.tenant, users: [...new Set([...sandbox.users, event.gateway])] }
    case 'released': {
      if (sandbox.state !== 'warm') return undefined
      const users = sandbox.users.filter((user) => user !== event.gateway)
      return users.length > 0
        ? { ...base, state: 'warm', tenant: sandbox.tenant, users }
        : { ...base, state: 'draining', tenant: sandbox.tenant, cause: 'idle' }
    }
    case 'inherited': {
      if (sandbox.state !== 'warm') return undefined
      const living = sandbox.users.filter((user) => !event.dead.includes(user) && user !== event.gateway)
      return { ...base, state: 'warm', tenant: sandbox.tenant, users: [...living, event.gateway] }
    }
    case 'rested': {
      if (sandbox.state !== 'warm') return undefined
      const users = sandbox.users.filter((user) => user !== event.gateway)
      return users.length > 0
        ? { ...base, state: 'warm', tenant: sandbox.tenant, users }
        : { ...base, state: 'paused', tenant: sandbox.tenant, pausedAt: event.at }
    }
    case 'resumed':
      return sandbox.state === 'paused' ? { ...base, state: 'warm', tenant: sandbox.tenant, users: [event.gateway] } : undefined
    case 'retired':
      return sandbox.state === 'draining' ? undefined : { ...base, state: 'draining', tenant, cause: event.cause }
    case 'removed':
      return { ...base, state: 'removed', cause: event.cause }
  }
}
