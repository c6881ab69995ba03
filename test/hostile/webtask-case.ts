import type { ErrorCode } from '../../src/errors.ts'

/** Code that means harm, and what its caller may hear. What the neighbours and the host feel is judged for every case alike. */
export interface WebtaskCase {
  readonly name: string
  /** `$TRAPS` becomes a list of `{ host, port }` where listeners wait, `$VICTIM` the name of the victim's container. */
  readonly code: string
  /** Any of: an error of ours, `cut` for a connection that breaks in the middle of an answer, or what the text of a 200 is like. */
  readonly hears: readonly (ErrorCode | 'cut' | RegExp)[]
  /** What may be heard beside it under gVisor, whose kernel is the sandbox's own: what is changed there concerns nobody else. */
  readonly underGvisor?: readonly (ErrorCode | 'cut' | RegExp)[]
  /** Names that must not be among the answer's headers. */
  readonly without?: readonly string[]
  /** Sent to the code, instead of the code being the body. */
  readonly request?: { readonly method: string; readonly headers?: Readonly<Record<string, string>>; readonly body?: string }
  /** It goes on after its answer: the next case gets another tenant, or it would be judged for this one. */
  readonly lasting?: boolean
}
