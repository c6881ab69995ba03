import type { Log } from '../log.ts'
import { WebtaskError } from '../errors.ts'
import type { ScriptOutcome } from '../protocol/invocation.ts'
import { WebtaskRefused } from '../sandbox/loads.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { Metrics } from './metrics.ts'

type Phase = 'auth' | 'acquire' | 'load'
const SCRIPT_OUTCOMES: ReadonlySet<string> = new Set<ScriptOutcome>(['script_error', 'script_exception', 'code_invalid', 'body_too_large'])

/** The one account of a request, written when it has ended. */
export interface InvocationRecord {
  tenant: TenantId | undefined
  name: string | undefined
  /** The phase that just ended. */
  mark(phase: Phase): void
  bytes(bytesIn: number, bytesOut: number): void
  /** What the worker said of its own run, or 'left'. Anything unknown counts as ok: it is the tenant's word about itself. */
  outcome(word: string | undefined): void
  fail(error: unknown): void
  end(status: number): void
}

export interface Invocations {
  begin(requestId: string): InvocationRecord
}

export function createInvocations(deps: { log: Log; metrics: Metrics }): Invocations {
  const { log, metrics } = deps
  return {
    begin(requestId) {
      const began = performance.now()
      let last = began
      const ms: Partial<Record<Phase | 'run', number>> = {}
      let outcome = 'ok'
      let failure: unknown
      let bytesIn = 0
      let bytesOut = 0
      const lap = (phase: Phase | 'run') => {
        const now = performance.now()
        ms[phase] = Math.round((now - last) * 100) / 100
        last = now
      }
      return {
        tenant: undefined,
        name: undefined,
        mark: lap,
        bytes(sent, answered) {
          bytesIn = sent
          bytesOut = answered
        },
        outcome(word) {
          if (word === 'left' || (word !== undefined && SCRIPT_OUTCOMES.has(word))) outcome = word
        },
        fail(error) {
          failure = error
          outcome = error instanceof WebtaskError ? error.code : error instanceof WebtaskRefused ? 'code_invalid' : 'internal'
        },
        end(status) {
          lap('run')
          metrics.invocation(outcome, (last - began) / 1000)
          const fields = { requestId, tenant: this.tenant, webtask: this.name, outcome, status, ms, bytesIn, bytesOut }
          if (outcome === 'internal') log.error({ ...fields, reason: failure instanceof Error ? failure.stack : String(failure) }, 'invocation.done')
          else if (failure instanceof Error && failure.cause !== undefined) log.info({ ...fields, reason: String(failure.cause) }, 'invocation.done')
          else log.info(fields, 'invocation.done')
        },
      }
    },
  }
}
