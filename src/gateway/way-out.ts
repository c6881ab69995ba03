/** The gateway's word to the egress role about sandboxes: whose they are, under which rules their code may connect, which secrets go into its requests. */
import { request } from 'node:http'
import type { Socket } from 'node:net'
import {
  ATTACHMENTS_PATH,
  ATTACHMENTS_PROTOCOL,
  MAX_BOUND,
  MAX_USAGE_FRAME,
  toGateway,
  type ToEgress,
  type ToGateway,
} from '../egress/attachments.ts'
import type { BoundSecrets } from '../egress/bound-secrets.ts'
import type { OutboundRules } from '../egress/outbound-rules.ts'
import { WebtaskError } from '../errors.ts'
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
  /**
   * Tells of the bound secrets of a webtask that is to be loaded there, until what it gives is disposed of. Waits for an egress role that is
   * slow, since this code needs it; for one that is away as little as `attach`. Rejects (quota_exceeded) only when there are too many.
   */
  bind(sandbox: string, bound: BoundSecrets): Promise<Disposable>
  /** The sandbox ended, or is another gateway's now. */
  detach(sandbox: string): void
}

interface Held {
  readonly tenant: TenantId
  /** By id, with how many hold them. */
  readonly bound: Map<string, { readonly secrets: BoundSecrets; users: number }>
}

/** The longest that a first request waits for the egress role (ms). */
const PATIENCE_MS = 250
/** The longest that the loading of code with bound secrets waits for it (ms). */
const BIND_PATIENCE_MS = 5_000
const RETRY_MS = 500

export function createWayOutClient(options: {
  socketPath: string
  rulesOf: (tenant: TenantId) => OutboundRules
  log: Log
  used: (used: Used) => void
}): WayOutClient {
  const { log } = options
  /** All that this gateway holds: said again whenever the egress role comes back. */
  const held = new Map<string, Held>()
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

  function ask(sandbox: string, patienceMs = PATIENCE_MS): Promise<void> {
    const holding = held.get(sandbox)
    if (socket === undefined || holding === undefined) return Promise.resolve()
    const { tenant } = holding
    const bound = [...holding.bound.values()].map(({ secrets }) => secrets)
    const call = (calls += 1)
    const { promise, resolve } = Promise.withResolvers<void>()
    const patience = setTimeout(resolve, patienceMs)
    waiting.set(call, { sandbox, settle: resolve })
    send({ kind: 'attach', call, sandbox, tenant, rules: options.rulesOf(tenant), bound })
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
    for (const sandbox of held.keys()) void ask(sandbox)
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
      for (const sandbox of sandboxes) void ask(sandbox)
    }, RETRY_MS).unref()
  }

  dial()
  return {
    attach(sandbox, tenant) {
      if (held.get(sandbox)?.tenant !== tenant) held.set(sandbox, { tenant, bound: new Map() })
      return ask(sandbox)
    },
    async bind(sandbox, secrets) {
      const holding = held.get(sandbox)
      if (holding === undefined) return { [Symbol.dispose]() {} }
      const known = holding.bound.get(secrets.id) ?? { secrets, users: 0 }
      if (known.users === 0 && holding.bound.size >= MAX_BOUND)
        throw new WebtaskError('quota_exceeded', `The tenant has ${holding.bound.size} webtasks with bound secrets at once; wait for one to finish`, {
          retryAfterSeconds: 1,
        })
      known.users += 1
      holding.bound.set(secrets.id, known)
      await ask(sandbox, BIND_PATIENCE_MS)
      return {
        [Symbol.dispose]() {
          known.users -= 1
          if (known.users > 0) return
          holding.bound.delete(secrets.id)
          if (held.get(sandbox) === holding) void ask(sandbox)
        },
      }
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
