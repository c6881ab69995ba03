import type { Socket } from 'node:net'
import type { Dial } from './dial.ts'

/** The connection to no address came about; `code` is the system's, `address` the one tried last, `reason` in words where there is more to say. */
export class Unreached extends Error {
  readonly code: string
  readonly address: string
  readonly reason: string
  constructor(code: string, address: string, reason = '') {
    super(`Cannot connect to "${address}": ${code}`)
    this.code = code
    this.address = address
    this.reason = reason
  }
}

/**
 * Connects to the first of the addresses that answers: each next one is tried when the one before failed or said nothing for
 * `staggerMs`, and the others are given up when one wins. Rejects with Unreached when none answers within `ms`, or the signal's reason.
 */
export async function reach(
  addresses: readonly string[],
  options: { port: number; ms: number; staggerMs: number; dial: Dial; signal: AbortSignal },
): Promise<{ socket: Socket; address: string }> {
  const given = new AbortController()
  const late = AbortSignal.timeout(options.ms)
  const signal = AbortSignal.any([options.signal, late, given.signal])
  const { promise, resolve, reject } = Promise.withResolvers<{ socket: Socket; address: string }>()
  let open = 0
  let next = 0
  let failure: Unreached | undefined
  let timer: NodeJS.Timeout | undefined
  let won = false

  function attempt(): void {
    clearTimeout(timer)
    const address = addresses[next]
    if (address === undefined || signal.aborted) {
      if (open === 0) reject(options.signal.aborted ? options.signal.reason : (failure ?? new Unreached('ETIMEDOUT', addresses.at(-1) ?? '')))
      return
    }
    next += 1
    open += 1
    timer = setTimeout(attempt, options.staggerMs)
    options.dial(address, options.port, signal).then(
      (socket) => {
        if (won) return void socket.destroy()
        won = true
        resolve({ socket, address })
      },
      (error: unknown) => {
        open -= 1
        const code = late.aborted ? 'ETIMEDOUT' : error instanceof Error && 'code' in error ? String(error.code) : 'ECONNRESET'
        failure = new Unreached(code, address)
        attempt()
      },
    )
  }

  attempt()
  try {
    return await promise
  } finally {
    clearTimeout(timer)
    given.abort()
  }
}
