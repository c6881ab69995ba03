/** The gateway's word to the egress role about sandboxes: whose they are, and under which rules their code may connect. */
import { request } from 'node:http'
import type { Socket } from 'node:net'
import { ATTACHMENTS_PATH, ATTACHMENTS_PROTOCOL, MAX_USAGE_FRAME, toGateway, type ToEgress, type ToGateway } from '../egress/attachments.ts'
import type { OutboundRules } from '../egress/outbound-rules.ts'
import type { Log } from '../log.ts'
import { createFrameReader, encodeFrame } from '../protocol/frame.ts'
import type { TenantId } from '../tenant/tenant-id.ts'

/** What the sandboxes of this gateway used since the last word. */
export type Used = Omit<Extract<ToGateway, { kind: 'used' }>, 'kind'>

export interface WayOutClient extends AsyncDisposable {
  /**
   * Gives a sandbox its way out. Resolves when it has one, or when the egress role cannot say so soon: code that needs no network must not
   * wait, and the sandbox is attached as soon as that role is there. Never rejects.
   */
  attach(sandbox: string, tenant: TenantId): Promise<void>
  /** The sandbox ended, or is another gateway's now. */
  detach(sandbox: string): void
}

/** The longest that a first request waits for the egress role (ms). */
const PATIENCE_MS = 250
const RETRY_MS = 500

export function createWayOutClient(options: {
  socketPath: string
  rulesOf: (tenant: TenantId) => OutboundRules
  log: Log
  used: (used: Used) => void
}): WayOutClient {
  const { log } = options
  /** All that this gateway holds: said again whenever the egress role comes back. */
  const held = new Map<string, TenantId>()
  /** Those that the egress role has refused, and is asked again about. */
  const refused = new Set<string>()
  const waiting = new Map<number, { sandbox: string; settle: () => void }>()
  let calls = 0
  let socket: Socket | undefined
  let isLost = false
  let isClosed = false
  let timer: NodeJS.Timeout | undefined

  function send(message: ToEgress): void {
    socket?.write(encodeFrame(message))
  }

  function ask(sandbox: string, tenant: TenantId): Promise<void> {
    if (socket === undefined) return Promise.resolve()
    const call = (calls += 1)
    const { promise, resolve } = Promise.withResolvers<void>()
    const patience = setTimeout(resolve, PATIENCE_MS)
    waiting.set(call, { sandbox, settle: resolve })
    send({ kind: 'attach', call, sandbox, tenant, rules: options.rulesOf(tenant) })
    return promise.finally(() => {
      clearTimeout(patience)
    })
  }

  function received(message: ToGateway): void {
    if (message.kind === 'used') return options.used(message)
    const asked = waiting.get(message.call)
    waiting.delete(message.call)
    if (asked === undefined) return
    if (!message.ok && held.has(asked.sandbox)) {
      log.warn({ sandbox: asked.sandbox, reason: message.message }, 'platform.failed')
      refused.add(asked.sandbox)
      again()
    }
    asked.settle()
  }

  function dial(): void {
    const asking = request({
      socketPath: options.socketPath,
      path: ATTACHMENTS_PATH,
      headers: { connection: 'Upgrade', upgrade: ATTACHMENTS_PROTOCOL },
    })
    asking.on('upgrade', (_answer, upgraded, head) => follow(upgraded as Socket, head))
    asking.on('response', (answer) => {
      answer.resume()
      lost(`It answered with status ${answer.statusCode}`)
    })
    asking.on('error', (error) => lost(error.message))
    asking.end()
  }

  function follow(upgraded: Socket, head: Buffer): void {
    if (isClosed) return void upgraded.destroy()
    socket = upgraded
    const reader = createFrameReader(MAX_USAGE_FRAME)
    const hear = (chunk: Buffer) => {
      try {
        for (const value of reader.push(chunk)) received(toGateway.parse(value))
      } catch (error) {
        upgraded.destroy(error as Error)
      }
    }
    upgraded.on('data', hear)
    upgraded.on('error', () => {})
    upgraded.once('close', () => lost('The connection closed'))
    if (head.length > 0) hear(head)
    if (isLost) log.info({}, 'egress.found')
    isLost = false
    refused.clear()
    for (const [sandbox, tenant] of held) void ask(sandbox, tenant)
  }

  function lost(reason: string): void {
    socket = undefined
    for (const { settle } of waiting.values()) settle()
    waiting.clear()
    if (isClosed) return
    if (!isLost) log.warn({ reason }, 'egress.lost')
    isLost = true
    again()
  }

  function again(): void {
    timer ??= setTimeout(() => {
      timer = undefined
      if (socket === undefined) return dial()
      const sandboxes = [...refused]
      refused.clear()
      for (const sandbox of sandboxes) if (held.has(sandbox)) void ask(sandbox, held.get(sandbox)!)
    }, RETRY_MS).unref()
  }

  dial()
  return {
    attach(sandbox, tenant) {
      held.set(sandbox, tenant)
      return ask(sandbox, tenant)
    },
    detach(sandbox) {
      refused.delete(sandbox)
      if (held.delete(sandbox)) send({ kind: 'detach', sandbox })
    },
    async [Symbol.asyncDispose]() {
      isClosed = true
      clearTimeout(timer)
      socket?.destroy()
    },
  }
}
