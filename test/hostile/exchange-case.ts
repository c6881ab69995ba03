import type { Socket } from 'node:net'
import type { ErrorCode } from '../../src/errors.ts'

/** Texts that stand in what is sent for what is known only when it runs. */
export interface Facts {
  /** Paths of named webtasks: one says hello, one tells of its request. */
  readonly HELLO: string
  readonly ECHO: string
  /** Where code in the body runs. */
  readonly RUN: string
  /** A request whose running would show that it was smuggled. */
  readonly SMUGGLED: string
  /** A token that reaches the attacker alone. */
  readonly TOKEN: string
  readonly VICTIM: string
}

/** Bytes that no honest client sends, and what may come back. */
export interface ExchangeCase {
  readonly name: string
  /** `$NAME` becomes that fact; one character for each byte. */
  readonly sent: string | ((socket: Socket, fill: (text: string) => string) => void | Promise<void>)
  /** For every answer any of: an error of ours, `closed` without an answer, a status below 400, what the text of a 200 is like. */
  readonly hears: readonly (ErrorCode | 'closed' | number | RegExp)[]
  /** Most answers that may come (default 1): one more is somebody else's. */
  readonly most?: number
  /** Longest time until it is decided (ms). */
  readonly ms?: number
  readonly bodiless?: boolean
}
