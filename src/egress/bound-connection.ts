/**
 * Connections to hosts that secrets are bound to. TLS of the webtask ends here and another one goes on to the host, so that its requests
 * can be read: HTTP/1.1, one after the other, each judged before a byte of it is sent on.
 */
import { Agent, createServer, request, ServerResponse, type ClientRequest, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { pipeline, type Duplex } from 'node:stream'
import { connect, createSecureContext, getCACertificates, TLSSocket, type SecureContext } from 'node:tls'
import { judgeRequest, passedOn } from './bound-request.ts'
import type { BoundSecrets } from './bound-secrets.ts'
import { afterGo, known, type Joint } from './carry.ts'
import { opened } from './dial.ts'
import { Unreached } from './reach.ts'

/** Largest header of a request or an answer (bytes). */
const MAX_HEADER = 65_536
const HTTP = { ALPNProtocols: ['http/1.1'] }

export interface BoundTarget {
  readonly bound: BoundSecrets
  /** Placeholder → value, of those that this host may get. */
  readonly secrets: ReadonlyMap<string, string>
  /** The name that was connected to, canonical. */
  readonly host: string
}

export interface Interceptor {
  /** Secures a connection that reached a judged address. Rejects with Unreached, and closes it, when the host cannot show that it is the host. */
  intercept(far: { readonly socket: Socket; readonly address: string }, target: BoundTarget, signal: AbortSignal): Promise<Joint>
}

interface Session extends BoundTarget {
  /** Towards the webtask. */
  readonly inner: TLSSocket
  readonly upstream: TLSSocket
  /** Has `upstream` as its only connection, ever. */
  readonly agent: Agent
  readonly fail: (outcome: string) => void
  /** Answers that have not ended. */
  answering: number
}

/** `authorities` (PEM) may vouch for hosts, beside the default ones. */
export function createInterceptor({ authorities }: { authorities?: string | undefined }): Interceptor {
  const trust = authorities === undefined ? {} : { secureContext: createSecureContext({ ca: [...getCACertificates('default'), authorities] }) }
  const contexts = new WeakMap<BoundSecrets, SecureContext>()
  const sessions = new WeakMap<object, Session>()

  // It never listens: connections are given to it. How long they may be silent is the two ends' matter, as with any other connection.
  const server = createServer({
    maxHeaderSize: MAX_HEADER,
    requestTimeout: 0,
    keepAliveTimeout: 0,
    shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === 'websocket',
  })
  server.on('request', (incoming, outgoing) => pass(incoming, outgoing, { session: sessions.get(incoming.socket)! }))
  server.on('upgrade', (incoming, socket: TLSSocket, head) => {
    const outgoing = new ServerResponse(incoming)
    outgoing.shouldKeepAlive = false
    outgoing.assignSocket(socket)
    outgoing.once('finish', () => socket.destroySoon())
    pass(incoming, outgoing, { session: sessions.get(socket)!, head })
  })

  function contextOf(bound: BoundSecrets): SecureContext {
    let context = contexts.get(bound)
    if (context === undefined) contexts.set(bound, (context = createSecureContext({ cert: bound.certificate, key: bound.key })))
    return context
  }

  function begin(near: Socket, target: BoundTarget & Pick<Session, 'upstream' | 'fail'>): void {
    const inner = new TLSSocket(near, { isServer: true, secureContext: contextOf(target.bound), ...HTTP })
    inner.allowHalfOpen = false
    inner.on('error', () => near.destroy())
    const session = { ...target, inner, agent: agentOn(target.upstream), answering: 0 }
    sessions.set(inner, session)
    target.upstream.once('close', () => rest(session))
    inner.once('secure', () => server.emit('connection', inner))
  }

  return {
    async intercept({ socket, address }, target, signal) {
      const { host } = target
      // Said aloud, because a variable of the environment could turn it off.
      const upstream = connect({ socket, servername: host, rejectUnauthorized: true, ...HTTP, ...trust })
      upstream.allowHalfOpen = false
      try {
        await opened(upstream, 'secureConnect', signal)
      } catch (error) {
        socket.destroy()
        throw unsecured(error, { host, address, signal })
      }
      const join: Joint['join'] = (near, fail) => {
        const gone = () => near.destroySoon()
        upstream.once('close', gone).on('error', (error: NodeJS.ErrnoException) => fail(known(error.code, 'ECONNRESET')))
        near.once('close', () => upstream.destroySoon())
        const go = () => {
          upstream.off('close', gone)
          begin(near, { ...target, upstream, fail })
        }
        afterGo(near, upstream, { go, gone: () => fail('left') })
      }
      return { counted: upstream, join }
    },
  }
}

/** Sends one request on, unless it is refused, and its answer back. `head` is what came behind a request to upgrade. */
function pass(incoming: IncomingMessage, outgoing: ServerResponse, { session, head }: { session: Session; head?: Buffer }): void {
  const { agent, fail } = session
  outgoing.sendDate = false
  const received = { method: incoming.method ?? '', target: incoming.url ?? '', rawHeaders: incoming.rawHeaders }
  const judged = judgeRequest(received, { ...session, upgrade: head === undefined ? undefined : incoming.headers.upgrade })
  if ('refused' in judged) return refuse(outgoing, judged)
  let sent: ClientRequest
  try {
    sent = request({ agent, method: judged.method, path: judged.path, headers: judged.headers, maxHeaderSize: MAX_HEADER })
  } catch {
    return refuse(outgoing, { refused: 400, message: 'The request cannot be passed on' })
  }
  session.answering += 1
  outgoing.once('close', () => {
    session.answering -= 1
    if (!outgoing.writableFinished) sent.destroy()
    if (session.upstream.destroyed) rest(session)
  })
  sent.on('error', (error: NodeJS.ErrnoException) => outgoing.closed || fail(known(error.code, 'ECONNRESET')))
  sent.on('response', (answer) => {
    const headers = passedOn(answer.rawHeaders)
    // Neither side says anything more than this answer.
    if (!sent.shouldKeepAlive || !incoming.complete) headers.push('Connection', 'close')
    outgoing.writeHead(answer.statusCode ?? 502, answer.statusMessage, headers)
    pipeline(answer, outgoing, (error) => error && fail(error.code === 'ECONNRESET' ? error.code : 'left'))
  })
  if (head !== undefined) sent.on('upgrade', (answer, far, first) => switchProtocols(outgoing, { answer, far, first, head }))
  if (judged.hasBody) incoming.pipe(sent)
  else sent.end()
}

/** From here on the bytes of the two ends are their own matter. */
function switchProtocols(
  outgoing: ServerResponse,
  { answer, far, first, head }: Record<'first' | 'head', Buffer> & { answer: IncomingMessage; far: Duplex },
): void {
  const near = outgoing.socket!
  outgoing.detachSocket(near)
  const lines = [`HTTP/1.1 101 ${answer.statusMessage ?? ''}`, 'Connection: Upgrade', `Upgrade: ${answer.headers.upgrade ?? ''}`]
  const passed = passedOn(answer.rawHeaders)
  for (let i = 0; i < passed.length; i += 2) lines.push(`${passed[i]}: ${passed[i + 1]}`)
  near.write(`${lines.join('\r\n')}\r\n\r\n`, 'latin1')
  near.write(first)
  far.write(head)
  near.pipe(far)
  far.pipe(near)
}

function refuse(outgoing: ServerResponse, { refused, message }: { refused: number; message: string }): void {
  outgoing.writeHead(refused, { 'content-type': 'text/plain', connection: 'close' }).end(`${message}\n`)
}

/** The host has hung up: what it answered before still reaches the webtask. */
function rest({ answering, inner }: Session): void {
  if (answering === 0) inner.destroySoon()
}

function agentOn(upstream: TLSSocket): Agent {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  let isGiven = false
  agent.createConnection = (_options, done) => {
    if (!isGiven && !upstream.destroyed) {
      isGiven = true
      return upstream
    }
    done?.(Object.assign(new Error('The host has closed the connection'), { code: 'ECONNRESET' }), upstream)
    return undefined
  }
  return agent
}

function unsecured(error: unknown, { host, address, signal }: { host: string; address: string; signal: AbortSignal }): Unreached {
  if (signal.aborted) return new Unreached('ETIMEDOUT', address)
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'ECONNRESET'
  return new Unreached(known(code, 'EPROTO'), address, `no trusted TLS with "${host}": ${code}`)
}
