/** A connection that stands: its ends are joined, what it carries can be looked at from outside, and both ends go down together. */
import type { Socket } from 'node:net'
import { encodeFrame } from '../protocol/frame.ts'
import { EGRESS_CODES, type Connected, type EgressCode } from '../protocol/egress.ts'
import type { Client } from './relay.ts'

/** A connection that stands: what it has carried is looked at from outside. */
export interface Running {
  readonly client: Client
  readonly bytes: () => { readonly in: number; readonly out: number }
  cut(outcome: string): void
}

/** How the two ends are joined. */
export interface Joint {
  /** The socket that counts: bytes read come from the internet. */
  readonly counted: Socket
  /** Called at once; what the near end sends is to be read only after its first byte. `fail` ends both ends with a reason. */
  join(near: Socket, fail: (outcome: string) => void): void
}

export interface Carried {
  readonly outcome: string
  readonly bytesIn: number
  readonly bytesOut: number
}

export const known = (code: unknown, otherwise: EgressCode): EgressCode => EGRESS_CODES.find((each) => each === code) ?? otherwise

/** Carries bytes until both ends are closed; `outcome` is `closed` or why it broke, which `broke` hears at once. */
export async function carry(
  near: Socket,
  far: Socket,
  options: {
    readonly client: Client
    readonly reply: Connected
    readonly joint: Joint
    readonly running: Set<Running>
    readonly broke: (code: EgressCode) => void
    /** The last look at it. */
    readonly finished: (running: Running) => void
  },
): Promise<Carried> {
  const { client, joint, running } = options
  const { counted } = joint
  const { promise: over, resolve } = Promise.withResolvers<void>()
  let outcome = 'closed'
  let open = 2
  const fail = (code: string) => {
    if (outcome === 'closed') {
      outcome = code
      options.broke(known(code, 'ECONNRESET'))
    }
    near.destroy()
    far.destroy()
  }
  const entry: Running = { client, bytes: () => ({ in: counted.bytesRead, out: counted.bytesWritten }), cut: fail }
  running.add(entry)
  const close = () => {
    open -= 1
    if (open === 0) resolve()
  }
  far.on('error', (error: NodeJS.ErrnoException) => fail(known(error.code, 'ECONNRESET')))
  // The sandbox went away without reading on: no fault of the far end, which must hear of it all the same.
  near.on('error', () => fail('left'))
  near.once('close', close)
  far.once('close', close)
  near.write(encodeFrame(options.reply))
  joint.join(near, fail)
  await over
  running.delete(entry)
  options.finished(entry)
  return { outcome, bytesIn: counted.bytesRead, bytesOut: counted.bytesWritten }
}

/** Bytes go to and fro untouched, and each direction ends by itself. */
export function piped(far: Socket, { halfOpenMs }: { halfOpenMs: number }): Joint {
  return {
    counted: far,
    join(near, fail) {
      near.once('close', () => far.destroySoon())
      far.once('close', () => near.destroySoon())
      // Nobody may come back to a connection that is closed on this side: the far end has a while to finish.
      near.once('end', () => far.setTimeout(halfOpenMs, () => fail('ETIMEDOUT')))
      afterGo(near, far, {
        go() {
          near.pipe(far)
          far.pipe(near)
        },
        gone: () => fail('left'),
      })
    },
  }
}

/** Goes on once the sandbox has said, by one byte, that it read the reply. */
export function afterGo(near: Socket, far: Socket, on: { go(): void; gone(): void }): void {
  if (near.destroyed || far.destroyed) return on.gone()
  const read = () => {
    const first = near.read(1) as Buffer | null
    if (first === null) return
    near.off('readable', read).off('end', on.gone)
    on.go()
  }
  near.on('readable', read).on('end', on.gone)
  near.resume()
  read()
}
