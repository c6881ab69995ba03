/** The part of the egress role that lets sandboxes out: their sockets, their limits, and the gateways that say whose they are. */
import type { Socket } from 'node:net'
import { WebtaskError } from '../errors.ts'
import type { Log } from '../log.ts'
import { createFrameReader, encodeFrame } from '../protocol/frame.ts'
import { MAX_ATTACHMENT_FRAME, toEgress, type ToGateway } from './attachments.ts'
import { createNames, type Names } from './names.ts'
import type { OpenedPlaces } from './outbound-rules.ts'
import type { Running } from './carry.ts'
import { createRelay, type Closed, type RelayOptions } from './relay.ts'
import { createUsage, type UsageLimits } from './usage.ts'
import { createWayOut, type Holder } from './way-out.ts'

export interface RelayServiceOptions {
  /** Holds one directory per sandbox, made by the orchestrator. */
  readonly directory: string
  readonly opened: OpenedPlaces
  readonly limits: UsageLimits
  /** Name servers instead of the system's. */
  readonly servers: readonly string[]
  readonly log?: Pick<Log, 'info' | 'warn' | 'debug'> | undefined
  readonly names?: Names
  readonly dial?: RelayOptions['dial']
  readonly graceMs?: number
  readonly authorities?: RelayOptions['authorities']
}

export interface RelayService extends AsyncDisposable {
  /** A gateway's connection after its upgrade; `head` came with the upgrade. */
  accept(socket: Socket, head: Buffer): void
}

/** A gateway that restarts attaches its sandboxes again within this time (ms). */
const GRACE_MS = 30_000
/** How often the bytes of open connections are counted against the limits, and gateways told (ms). */
const TICK_MS = 1_000

interface Used {
  bytesIn: number
  bytesOut: number
  outcomes: Record<string, number>
}

export function startRelayService(options: RelayServiceOptions): RelayService {
  const { log } = options
  const now = () => performance.now()
  const usage = createUsage(options.limits)
  const used = new Map<Holder, Used>()
  /** What of a running connection has been counted. */
  const counted = new WeakMap<object, { in: number; out: number }>()
  const gateways = new Set<Socket>()

  const relay = createRelay({
    names: options.names ?? createNames(options.servers),
    opened: options.opened,
    usage,
    now,
    closed,
    finished: (running) => count(running),
    authorities: options.authorities,
    ...(options.dial ? { dial: options.dial } : {}),
  })
  const wayOut = createWayOut({ directory: options.directory, relay, graceMs: options.graceMs ?? GRACE_MS, most: options.limits.connections })

  function usedBy(sandbox: string): Used | undefined {
    const holder = wayOut.holderOf(sandbox)
    if (holder === undefined) return undefined
    let found = used.get(holder)
    if (found === undefined) used.set(holder, (found = { bytesIn: 0, bytesOut: 0, outcomes: {} }))
    return found
  }

  function closed(event: Closed): void {
    const { ms, ...rest } = event
    // A flood of what was refused for being a flood is counted, not written down.
    if (event.outcome === 'EAGAIN') log?.debug({ ...rest, ms: Math.round(ms) }, 'egress.closed')
    else log?.info({ ...rest, ms: Math.round(ms) }, 'egress.closed')
    const sums = usedBy(event.sandbox)
    if (sums !== undefined) sums.outcomes[event.outcome] = (sums.outcomes[event.outcome] ?? 0) + 1
  }

  /** Counts what went since the last look, and cuts the connections of tenants that are over their limit. */
  function count(running: Running): void {
    const bytes = running.bytes()
    const before = counted.get(running) ?? { in: 0, out: 0 }
    counted.set(running, bytes)
    const [bytesIn, bytesOut] = [bytes.in - before.in, bytes.out - before.out]
    if (bytesIn + bytesOut === 0) return
    const sums = usedBy(running.client.sandbox)
    if (sums !== undefined) {
      sums.bytesIn += bytesIn
      sums.bytesOut += bytesOut
    }
    if (usage.spend(running.client.tenant, bytesIn + bytesOut, now())) running.cut('EDQUOT')
  }

  const timer = setInterval(() => {
    for (const running of relay.running) count(running)
    usage.sweep(now())
    for (const [holder, sums] of used) {
      used.delete(holder)
      if (gateways.has(holder as Socket)) send(holder as Socket, { kind: 'used', ...sums })
    }
  }, TICK_MS)
  timer.unref()

  function send(socket: Socket, message: ToGateway): void {
    if (!socket.destroyed) socket.write(encodeFrame(message))
  }

  function accept(socket: Socket, head: Buffer): void {
    const reader = createFrameReader(MAX_ATTACHMENT_FRAME)
    gateways.add(socket)
    socket.setTimeout(0)
    socket.on('error', () => {})
    // Node's HTTP server leaves its sockets half open.
    socket.once('end', () => socket.destroy())
    socket.once('close', () => {
      gateways.delete(socket)
      wayOut.release(socket)
    })
    const hear = (chunk: Buffer) => {
      try {
        for (const value of reader.push(chunk)) received(socket, value)
      } catch {
        // Not in the words of the parser, which may quote what it read.
        log?.warn({ reason: 'A gateway said what cannot be read' }, 'platform.failed')
        socket.destroy()
      }
    }
    socket.on('data', hear)
    if (head.length > 0) hear(head)
  }

  /** Throws for what a gateway never says. */
  function received(socket: Socket, value: unknown): void {
    const message = toEgress.parse(value)
    if (message.kind === 'detach') return wayOut.detach(socket, message.sandbox)
    const { call, kind: _, ...attachment } = message
    const { sandbox } = attachment
    wayOut.attach(socket, attachment).then(
      () => send(socket, { kind: 'attached', call, ok: true, message: '' }),
      (error: Error) => {
        log?.warn({ sandbox, reason: error.message }, 'platform.failed')
        send(socket, { kind: 'attached', call, ok: false, message: error instanceof WebtaskError ? error.message : 'The egress role failed' })
      },
    )
  }

  return {
    accept,
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      for (const socket of gateways) socket.destroy()
      await wayOut[Symbol.asyncDispose]()
    },
  }
}
