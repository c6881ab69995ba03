/** Runs a webtask for one request, whatever form its code has. */
import type { IncomingMessage } from 'node:http'
import type { WebtaskSource } from '../protocol/messages.ts'
import { stripBase } from './address.ts'
import { answerFailure, answerResult, answerTooLarge } from './answer.ts'
import { hasBody, type ParsedBody, parseBody, readBody } from './body.ts'
import { logLine } from './capture.ts'
import { createContext, createWireParameters, parsesBody, type WebtaskContext } from './context.ts'
import { NativePromise } from './natives.ts'
import type { WebtaskRequest } from './request.ts'
import { isResponse, runFetch, sendResponse } from './web.ts'
import type { Webtask } from './webtask.ts'

export interface Program {
  readonly webtask: Webtask
  readonly source: WebtaskSource
  readonly parsedBodyBytes: number
}

type Call = (...args: unknown[]) => unknown
type DecoratedRequest = IncomingMessage & { x_wt?: unknown; originalUrl?: string; webtaskContext?: WebtaskContext }

export function runWebtask(program: Program, request: WebtaskRequest): void {
  const { webtask, source } = program
  if (webtask.kind === 'fetch') return void runFetch(webtask.handler, request, createContext(request, source))
  if (webtask.kind === 'app') return runApp(webtask.run as Call, request, source)
  if (!needsParsedBody(program, request)) return call(program, request, undefined)
  readBody(request.req, program.parsedBodyBytes).then((bytes) => {
    if (bytes === 'too large') return answerTooLarge(request, program.parsedBodyBytes)
    // The caller left before the body was whole: there is nobody to run for.
    if (bytes !== undefined) call(program, request, parseBody(bytes, request.req.headers['content-type']))
  })
}

function needsParsedBody({ webtask, source }: Program, { invocation, req }: WebtaskRequest): boolean {
  const parses = parsesBody(invocation, source)
  if (parses === 0 || !hasBody(req)) return false
  if (webtask.kind === 'result') return webtask.takes.includes('context')
  return webtask.kind === 'http' && parses === 1
}

function call({ webtask, source }: Program, request: WebtaskRequest, body: ParsedBody | undefined): void {
  const { req, res } = request
  try {
    if (webtask.kind === 'http') {
      decorate(req, { request, source })
      const returned = (webtask.run as Call)(createContext(request, source, body), req, res)
      if (webtask.isAsync) (returned as Promise<unknown>).then(undefined, (error: unknown) => answerFailure(request, 'threw', error))
      return
    }
    if (webtask.kind !== 'result') return
    const args = webtask.takes.map((argument) => (argument === 'context' ? createContext(request, source, body) : createCallback(request)))
    const returned = (webtask.run as Call)(...args)
    if (webtask.isAsync) awaitResult(request, returned as Promise<unknown>, webtask.takes.includes('callback'))
  } catch (error) {
    answerFailure(request, 'threw', error)
  }
}

function createCallback(request: WebtaskRequest): (error?: unknown, result?: unknown) => void {
  let called = false
  return (error, result) => {
    if (called) return logLine('error', 'The callback was called more than once; only the first call counts')
    called = true
    if (error) answerFailure(request, 'returned', error)
    else answerAny(request, result)
  }
}

/** An async function that also has a callback answers by whichever comes first; returning nothing is not an answer. */
function awaitResult(request: WebtaskRequest, returned: Promise<unknown>, hasCallback: boolean): void {
  returned.then(
    (result) => {
      if (!hasCallback || (result !== undefined && !request.answered)) answerAny(request, result)
    },
    (error: unknown) => answerFailure(request, 'threw', error),
  )
}

function answerAny(request: WebtaskRequest, result: unknown): void {
  if (isResponse(result)) void sendResponse(request, result)
  else answerResult(request, result)
}

function runApp(app: Call, request: WebtaskRequest, source: WebtaskSource): void {
  const { res } = request
  const req = request.req as DecoratedRequest
  const context = createContext(request, source)
  decorate(req, { request, source })
  req.originalUrl = req.url!
  req.url = stripBase(req.url!, request.invocation)
  req.webtaskContext = context
  try {
    const returned = app(req, res)
    if (returned instanceof NativePromise) returned.then(undefined, (error: unknown) => answerFailure(request, 'threw', error))
  } catch (error) {
    answerFailure(request, 'threw', error)
  }
}

function decorate(req: DecoratedRequest, { request, source }: { request: WebtaskRequest; source: WebtaskSource }): void {
  req.x_wt = createWireParameters(request, source)
}
