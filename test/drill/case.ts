import type { EngineProxy } from '../support/engine-proxy.ts'
import type { Roles } from '../support/roles.ts'
import type { Failure, Load } from './load.ts'

/** What a drill has at hand: a deployment under load, and an engine that can be made to misbehave. */
export interface Scene {
  readonly roles: Roles
  readonly engine: EngineProxy
  readonly load: Load
  readonly tenants: readonly string[]
}

/** One fault under load, and what of the load may suffer. */
export interface Drill {
  readonly name: string
  readonly gateways?: number
  readonly settings?: Record<string, string>
  readonly perSecond?: number
  /** The fault, from its beginning until everything is there again. */
  fault(scene: Scene): Promise<void>
  /** Whether this failure is the fault's and no more; anything else fails the drill. */
  allows?(failure: Failure): boolean
  /** How many failures may be allowed ones; the rest of the load did not notice. */
  readonly most?: number
  /** What else must be true at the end; undefined when it is, else what is wrong. */
  check?(scene: Scene): Promise<string | undefined>
  /** Why it cannot be run here; undefined when it can. */
  skip?(): Promise<string | undefined>
}

export const pass = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
/** While a part is away new tenants are told so, in time and with when to come back. */
export const onlyColdRefused = ({ kind, what }: Failure): boolean => kind === 'cold' && /^503 \w+ retry-after$/.test(what)
