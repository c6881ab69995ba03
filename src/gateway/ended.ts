import type { Config } from '../config.ts'
import { WebtaskError } from '../errors.ts'
import type { WorkerEnd } from '../protocol/messages.ts'
import type { EndCause } from '../sandbox/sandbox.ts'

const BAD_RESPONSE_CODES: ReadonlySet<string> = new Set([
  'UND_ERR_HEADERS_OVERFLOW',
  'UND_ERR_RES_CONTENT_LENGTH_MISMATCH',
  'ERR_INVALID_CHAR',
  // What undici's parser lets through and undici then does not believe: a status of 099.
  'ERR_ASSERTION',
])
/** undici gives these only a message: an answer of 100, or an upgrade that nobody asked for. */
const BAD_RESPONSE_MESSAGES: ReadonlySet<string> = new Set(['bad response', 'bad upgrade'])

/** Whether what a worker sent was no answer that could be passed on. */
export function isBadResponse(error: Error & { code?: string }): boolean {
  return (
    error.name === 'HTTPParserError' ||
    error.code?.startsWith('HPE_') === true ||
    BAD_RESPONSE_CODES.has(error.code ?? '') ||
    BAD_RESPONSE_MESSAGES.has(error.message)
  )
}

/** What the caller of a request hears whose worker or sandbox ended under it. */
export function endedError(end: Exclude<WorkerEnd, 'memory'> | 'heap' | EndCause | undefined, config: Config): WebtaskError {
  switch (end) {
    case 'heap':
      return new WebtaskError('memory_limit', `The webtask ran over its memory limit (heap ${config.WEBTASK_WORKER_HEAP_MIB} MiB) and was stopped`)
    case 'memory':
      return new WebtaskError(
        'memory_limit',
        `The tenant's sandbox ran over its memory limit (${config.WEBTASK_SANDBOX_MEMORY_MIB} MiB) and was stopped; another of the tenant's webtasks may be the cause`,
      )
    case 'ended':
    case 'timeout':
      return new WebtaskError(
        'invocation_timeout',
        'The webtask was stopped because another of its requests ran out of time or failed outside a request',
      )
    case 'exhausted':
      return new WebtaskError(
        'sandbox_crashed',
        "The tenant's sandbox had no memory or no processes left to start a webtask, and was stopped; another of the tenant's webtasks may be the cause",
      )
    case 'platform':
    case 'evicted':
    case 'idle':
    case 'recycled':
      return new WebtaskError('unavailable', 'The sandbox was removed while the request ran', { retryAfterSeconds: 1 })
    case 'exit':
      return new WebtaskError('sandbox_crashed', 'The webtask ended its process while answering')
    case 'crash':
    case 'error':
    case 'unstarted':
    case undefined:
      return new WebtaskError('sandbox_crashed', 'The webtask broke its connection while answering')
  }
}
