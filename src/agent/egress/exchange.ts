/** One request to the egress role, on a connection of its own. */
import { createFrameReader, encodeFrame } from '../../protocol/frame.ts'
import { type EgressRequest, MAX_EGRESS_REPLY } from '../../protocol/egress.ts'
import { connectAsBefore, net, type Socket } from './natives.ts'

export interface ExchangeEvents {
  /** The reply, unparsed. The connection is the caller's from here on: nothing after the reply has been read. */
  replied(reply: unknown, carrier: Socket): void
  /** There was none. */
  failed(): void
}

/** Sends the request and gives the connection, so that it can be given up. Exactly one of the events comes, unless it is. */
export function ask(socketPath: string, { request, on }: { request: EgressRequest; on: ExchangeEvents }): Socket {
  const carrier = new net.Socket({ allowHalfOpen: true })
  const reader = createFrameReader(MAX_EGRESS_REPLY)
  const hear = (chunk: string | Buffer) => {
    let values: unknown[]
    try {
      values = reader.push(chunk as Buffer)
    } catch {
      carrier.destroy()
      return
    }
    if (values.length === 0) return
    carrier.off('data', hear).off('close', on.failed)
    on.replied(values[0], carrier)
  }
  carrier.on('data', hear)
  carrier.on('end', () => carrier.destroy())
  carrier.on('error', () => {})
  carrier.on('close', on.failed)
  connectAsBefore.call(carrier, { path: socketPath })
  carrier.write(encodeFrame(request))
  return carrier
}
