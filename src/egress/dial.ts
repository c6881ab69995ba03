import { connect as connectTcp, isIP } from 'node:net'
import type { Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { judge } from './address.ts'
import type { CodeTarget } from './rules.ts'

/** Opens a TCP connection to an IP address, never to a name. Rejects with the system's error or the signal's reason. */
export type Dial = (address: string, port: number, signal: AbortSignal) => Promise<Socket>

export const dialTcp: Dial = (address, port, signal) => opened(connectTcp({ host: address, port, noDelay: true }), 'connect', signal)

/** The connection reached an address that is not public, although a public one was dialled. */
export class StrayConnection extends Error {}

/**
 * Connects to one of the judged addresses, in order; the name of the host goes into SNI and the certificate check only. Rejects with the
 * last address's error when none answers. An address that says nothing gets its share of `ms`, so that one dead address of two is survived.
 */
export async function connectPinned(
  target: CodeTarget,
  options: { addresses: readonly string[]; ms: number; dial: Dial; ca?: string | undefined; signal: AbortSignal },
): Promise<Socket> {
  let failure: unknown
  for (const address of options.addresses) {
    const share = AbortSignal.timeout(Math.ceil(options.ms / options.addresses.length))
    try {
      const socket = await options.dial(address, target.port, AbortSignal.any([options.signal, share]))
      if (!target.allowed && judge(socket.remoteAddress ?? '') !== 'public') {
        socket.destroy()
        throw new StrayConnection('Connected to an address that is not public')
      }
      return target.secure ? await secured(socket, target, options) : socket
    } catch (error) {
      if (options.signal.aborted || error instanceof StrayConnection) throw error
      failure = error
    }
  }
  throw failure
}

function secured(socket: Socket, target: CodeTarget, options: { ca?: string | undefined; signal: AbortSignal }): Promise<Socket> {
  const servername = isIP(target.host) === 0 ? target.host : ''
  const tls = connectTls({
    socket,
    host: target.host,
    servername,
    ALPNProtocols: ['http/1.1'],
    ...(options.ca === undefined ? {} : { ca: options.ca }),
  })
  return opened(tls, 'secureConnect', options.signal)
}

/** Resolves when the event comes. Rejects with the socket's error or the signal's reason, and destroys it then. */
export function opened<S extends Socket>(socket: S, event: 'connect' | 'secureConnect', signal: AbortSignal): Promise<S> {
  const { promise, resolve, reject } = Promise.withResolvers<S>()
  const abort = () => socket.destroy(signal.reason)
  const settle = () => signal.removeEventListener('abort', abort)
  // The listener stays: a socket that fails later, between two owners, must not end the process.
  socket.on('error', reject)
  socket.once('close', () => reject(new Error('Connection closed')))
  socket.once(event, () => resolve(socket))
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  return promise.finally(settle)
}
