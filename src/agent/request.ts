/** One request in a worker, and which request the running code belongs to. */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Invocation } from '../protocol/invocation.ts'

export interface WebtaskRequest {
  readonly id: string
  /** The gateway that sent it. */
  readonly gateway: string
  readonly invocation: Invocation
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** The caller has an answer, or is getting one that the code itself writes: ours would come second. */
  answered: boolean
}

/**
 * What asynchronous work belongs to. A connection has one such scope for its whole life, because the events of request
 * bodies come from its parser; its `request` changes with each request on it. Work that a request starts belongs to a
 * scope of that request alone.
 */
export interface Scope {
  request: WebtaskRequest | undefined
}

const scopes = new AsyncLocalStorage<Scope>()

export function runIn<T>(scope: Scope, action: () => T): T {
  return scopes.run(scope, action)
}

/** The request that the code now running was started by, if any. */
export function currentRequest(): WebtaskRequest | undefined {
  return scopes.getStore()?.request
}
