import { Pool, type Dispatcher } from 'undici'
import type { Deployment } from '../support/deployment.ts'
import { HELLO } from './row.ts'

/** How one request went, as its caller saw it. */
export interface Reply {
  /** 0 when there was no answer. */
  readonly status: number
  readonly retryAfter: string | undefined
  readonly text: string
  readonly ms: number
}

/** A client that adds little of its own: kept-alive connections, as many as there are requests at once. */
export interface Caller extends AsyncDisposable {
  ask(path: string, request?: { method?: Dispatcher.HttpMethod; token?: string; body?: string }): Promise<Reply>
  /** Runs a small webtask of that tenant. */
  hello(tenant: string): Promise<Reply>
}

/** No answer is waited for longer than this (ms). */
const LONGEST_MS = 60_000

export function createCaller(deployment: Deployment): Caller {
  const pool = new Pool(deployment.url.replace('localhost', '127.0.0.1'), { connections: null })
  async function ask(path: string, { method = 'GET', token, body }: { method?: Dispatcher.HttpMethod; token?: string; body?: string } = {}) {
    const began = performance.now()
    const reply = (status: number, text: string, retryAfter?: string): Reply => ({ status, retryAfter, text, ms: performance.now() - began })
    try {
      const answer = await pool.request({
        path,
        method,
        body: body ?? null,
        headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(LONGEST_MS),
      })
      const retryAfter = answer.headers['retry-after']
      return reply(answer.statusCode, await answer.body.text(), Array.isArray(retryAfter) ? retryAfter[0] : retryAfter)
    } catch (error) {
      return reply(0, (error as Error).message)
    }
  }
  return {
    ask,
    hello: (tenant) => ask(`/api/run/${tenant}`, { method: 'POST', token: deployment.master, body: HELLO }),
    async [Symbol.asyncDispose]() {
      await pool.destroy()
    },
  }
}

/** The first answer of a new tenant (ms). Throws when it is none. */
export async function firstAnswer(caller: Caller, tenant: string): Promise<number> {
  const { status, text, ms } = await caller.hello(tenant)
  if (status !== 200) throw new Error(`The first request of ${tenant} failed with ${status}: ${text}`)
  return ms
}

export interface Outcomes {
  readonly served: number
  /** Politely refused: 429 or 503, with Retry-After. */
  readonly told: number
  readonly other: number
  /** The slowest that was served, and the slowest of all (ms). */
  readonly slowestServedMs: number
  readonly slowestMs: number
  /** Some of those that were neither served nor told. */
  readonly examples: readonly string[]
}

export function outcomesOf(replies: readonly Reply[]): Outcomes {
  const served = replies.filter(({ status }) => status === 200)
  const told = replies.filter(({ status, retryAfter }) => (status === 429 || status === 503) && retryAfter !== undefined)
  const other = replies.filter((reply) => !served.includes(reply) && !told.includes(reply))
  const slowest = (some: readonly Reply[]) => Math.max(0, ...some.map(({ ms }) => ms))
  return {
    served: served.length,
    told: told.length,
    other: other.length,
    slowestServedMs: slowest(served),
    slowestMs: slowest(replies),
    examples: other.slice(0, 3).map(({ status, text }) => `${status} ${text.slice(0, 200)}`),
  }
}
