import type { IncomingMessage, ServerResponse } from 'node:http'
import { PassThrough } from 'node:stream'
import { RETIRED_OUTCOME } from '../protocol/invocation.ts'
import type { WorkerConnection } from '../sandbox/worker-link.ts'
import { responseHeaders } from './headers.ts'

export interface ForwardOptions {
  readonly connection: WorkerConnection
  readonly incoming: IncomingMessage
  readonly outgoing: ServerResponse
  readonly method: string
  readonly path: string
  /** Flat name/value list. */
  readonly headers: string[]
  /** The tenant's own host where the request came there. */
  readonly host: string | undefined
  /** Send the caller's body along. */
  readonly hasBody: boolean
  readonly bodyMaxBytes: number
  readonly responseMaxBytes: number
  /** Longest time without a byte from the worker or to it (ms), and of the whole. */
  readonly idleMs: number
  readonly totalMs: number
  /** Flat list added to the response, given what the webtask set itself. */
  readonly extraHeaders: (allowsOrigin: boolean) => readonly string[]
}

/** The worker was closing the connection as the request crossed it on the way: nobody ran it. */
export class ConnectionRetired extends Error {}

/** Copying a body costs less than a write of its own up to about this size. */
const ONE_WRITE_BYTES = 16_384

/** Whole answers of this turn of the event loop. */
let ending: { outgoing: ServerResponse; whole: string }[] = []

/**
 * Ends whole answers at the end of the turn, one after the other: the first wakes whoever reads them, on another processor, and the rest find
 * it awake. Each by itself would wake it anew, which costs as much as all of our own work on a request.
 */
function endTogether(outgoing: ServerResponse, whole: string): void {
  if (ending.push({ outgoing, whole }) === 1) setImmediate(endAll)
}

function endAll(): void {
  const all = ending
  ending = []
  for (const one of all) one.outgoing.end(one.whole, 'latin1')
}

/** How a forwarded request came out. `reached` tells whether a byte of it may have reached the worker. */
export type Forwarded =
  | { readonly kind: 'done'; readonly status: number; readonly outcome: string | undefined; readonly bytesIn: number; readonly bytesOut: number }
  | { readonly kind: 'stalled' | 'too_long' | 'left' | 'body_too_large' | 'response_too_large'; readonly bytesIn: number; readonly bytesOut: number }
  /** The request cannot be written down for the worker; nothing was sent. */
  | { readonly kind: 'unsendable'; readonly error: Error; readonly bytesIn: number; readonly bytesOut: number }
  | { readonly kind: 'broken'; readonly reached: boolean; readonly error: Error; readonly bytesIn: number; readonly bytesOut: number }

/**
 * Streams one request to a worker and its answer back, both ways with backpressure, touching no more of either than
 * the headers. Resolves when the answer has ended, the caller left, the time is over or the worker broke. The
 * connection is given back exactly once: released after a clean end, destroyed otherwise.
 */
export function forward(options: ForwardOptions): Promise<Forwarded> {
  const { connection, incoming, outgoing } = options
  const { promise, resolve } = Promise.withResolvers<Forwarded>()
  const began = performance.now()
  let progress = began
  let bytesIn = 0
  let bytesOut = 0
  let reached = false
  let settled = false
  /** An answer that came in one piece leaves in one: head and body in one write. */
  let wholeBytes: number | undefined
  let whole: string | undefined
  let status = 0
  /** What is still to be sent. */
  let head: string[] | undefined
  let outcome: string | undefined

  function settle(
    result:
      | { kind: 'done' }
      | { kind: 'stalled' | 'too_long' | 'left' | 'body_too_large' | 'response_too_large' }
      | { kind: 'broken' | 'unsendable'; error: Error },
  ): void {
    if (settled) return
    settled = true
    clearTimeout(timer)
    outgoing.off('close', left)
    if (resume !== undefined) outgoing.off('drain', resume)
    if (body !== null) incoming.unpipe(body)
    // The worker was not told what this request would have told it.
    if (result.kind === 'unsendable') connection.said = undefined
    if (result.kind === 'done' || result.kind === 'unsendable') connection.release()
    else connection.destroy()
    const bytes = { bytesIn, bytesOut }
    if (result.kind === 'done') resolve({ kind: 'done', status, outcome, ...bytes })
    else if (result.kind === 'unsendable') resolve({ kind: 'unsendable', error: result.error, ...bytes })
    else if (result.kind === 'broken') resolve({ kind: 'broken', reached, error: result.error, ...bytes })
    else resolve({ kind: result.kind, ...bytes })
  }

  function sendHead(): boolean {
    if (head === undefined) return true
    try {
      outgoing.writeHead(status, head)
      head = undefined
      return true
    } catch (error) {
      settle({ kind: 'broken', error: error as Error })
      return false
    }
  }

  function sendHeadAlone(): void {
    if (settled || head === undefined || !sendHead()) return
    outgoing.flushHeaders()
  }

  function check(): void {
    const now = performance.now()
    const due = Math.min(progress + options.idleMs, began + options.totalMs)
    if (now >= due) settle({ kind: due < began + options.totalMs ? 'stalled' : 'too_long' })
    else timer = setTimeout(check, due - now + 1)
  }
  let timer = setTimeout(check, Math.min(options.idleMs, options.totalMs))

  // The client destroys the body it was given when a request breaks; the caller's own stream must survive for the answer.
  const body = options.hasBody ? incoming.pipe(new PassThrough()) : null
  const left = () => settle({ kind: 'left' })
  /** Made when the caller first reads more slowly than the webtask writes. */
  let resume: (() => void) | undefined
  outgoing.on('close', left)

  connection.client.dispatch(
    { method: options.method as 'GET', path: options.path, headers: options.headers, body },
    {
      onBodySent(chunk) {
        bytesIn += chunk.length
        progress = performance.now()
        if (bytesIn > options.bodyMaxBytes) settle({ kind: 'body_too_large' })
      },
      onRequestStart(controller) {
        reached = true
        if (settled) controller.abort(new Error('The request is over'))
      },
      onResponseStart(controller, statusCode) {
        if (settled) return
        if (statusCode < 200) return
        progress = performance.now()
        const answer = responseHeaders((controller.rawHeaders ?? []) as Buffer[], options.host)
        if (answer.outcome === RETIRED_OUTCOME) {
          reached = false
          return settle({ kind: 'broken', error: new ConnectionRetired('The worker was retiring the connection') })
        }
        status = statusCode
        outcome = answer.outcome
        wholeBytes = answer.contentLength
        if (wholeBytes !== undefined && wholeBytes > options.responseMaxBytes) return settle({ kind: 'response_too_large' })
        head = [...answer.headers, ...options.extraHeaders(answer.allowsOrigin)]
        // What comes with the head leaves with it, and if that is broken the caller hears so: a turn of the event loop later, when the
        // connection has closed. A head that comes alone leaves alone.
        if (wholeBytes === undefined || wholeBytes > ONE_WRITE_BYTES) setImmediate(setImmediate, sendHeadAlone)
      },
      onResponseData(controller, chunk) {
        if (settled) return
        bytesOut += chunk.length
        progress = performance.now()
        if (bytesOut > options.responseMaxBytes) return settle({ kind: 'response_too_large' })
        if (chunk.length === wholeBytes && chunk.length <= ONE_WRITE_BYTES) {
          whole = chunk.toString('latin1')
          return
        }
        if (!sendHead() || outgoing.write(chunk)) return
        controller.pause()
        if (resume === undefined) outgoing.on('drain', (resume = () => controller.resume()))
      },
      onResponseEnd() {
        if (settled || !sendHead()) return
        if (whole === undefined) outgoing.end()
        else endTogether(outgoing, whole)
        settle({ kind: 'done' })
      },
      onResponseError(_controller, error) {
        settle({ kind: (error as NodeJS.ErrnoException).code === 'UND_ERR_INVALID_ARG' ? 'unsendable' : 'broken', error })
      },
    },
  )
  return promise
}
