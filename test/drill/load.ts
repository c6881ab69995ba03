import http from 'node:http'

/** What went wrong with one request. */
export interface Failure {
  /** Unix ms. */
  readonly at: number
  readonly kind: 'warm' | 'cold' | 'stream'
  readonly tenant: string
  readonly what: string
}

export interface Loaded {
  readonly asked: Readonly<Record<Failure['kind'], number>>
  readonly failures: readonly Failure[]
  /** Of warm requests that were answered, from the time at which they were due (ms). */
  readonly waits: readonly number[]
}

export interface Load {
  readonly soFar: Loaded
  readonly inFlight: number
  /** No new requests; resolves when the last has ended. */
  stop(): Promise<Loaded>
}

/** Answers with a fresh number each time; a request that ran before in the same place says so. */
export const COUNTER = `
  const seen = new Set()
  module.exports = (ctx, cb) => { const { n } = ctx.query; const again = seen.has(n); seen.add(n); cb(null, again ? 'again' : 'once') }`
/** Two seconds of a byte every 100 ms. */
export const STREAM =
  'module.exports = (ctx, req, res) => { let n = 0; const timer = setInterval(() => { res.write("x"); if (++n === 20) { clearInterval(timer); res.end() } }, 100) }'
const HELLO = 'module.exports = cb => cb(null, "hello")'

interface Wanted {
  readonly path: string
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly body?: string
  readonly expected: string
}

/**
 * Requests at a steady rate, whatever the answers: to warm tenants in turn, to a new tenant every second, and a stream after another.
 * What is not answered as it should is a failure with its reason. Bounded by `seconds` in any case.
 */
export function startLoad(options: {
  port: number
  master: string
  tenants: readonly string[]
  perSecond: number
  seconds: number
  cold?: boolean
  stream?: string
}): Load {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 256 })
  const asked = { warm: 0, cold: 0, stream: 0 }
  const failures: Failure[] = []
  const waits: number[] = []
  const pending = new Set<Promise<void>>()
  const began = performance.now()
  let isOver = false

  function ask({ path, method = 'GET', headers = {}, body, expected }: Wanted): Promise<string | undefined> {
    return new Promise((resolve) => {
      const asking = http.request({ host: '127.0.0.1', port: options.port, path, method, headers, agent }, (answer) => {
        let text = ''
        answer.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
        answer.on('end', () => {
          if (answer.statusCode === 200 && text === expected) resolve(undefined)
          else
            resolve(
              `${answer.statusCode} ${/"error":"(\w+)"/.exec(text)?.[1] ?? text.slice(0, 60)}${answer.headers['retry-after'] ? ' retry-after' : ''}`,
            )
        })
        answer.on('error', (error) => resolve(`broken: ${error.message}`))
      })
      asking.setTimeout(60_000, () => asking.destroy(new Error('no answer in 60 s')))
      asking.on('error', (error: NodeJS.ErrnoException) => resolve(`broken: ${error.code ?? error.message}`))
      asking.end(body)
    })
  }

  function send(kind: Failure['kind'], tenant: string, wanted: Wanted, due = performance.now()): void {
    asked[kind] += 1
    const underway = ask(wanted).then((what) => {
      pending.delete(underway)
      if (what !== undefined) failures.push({ at: Date.now(), kind, tenant, what })
      else if (kind === 'warm') waits.push(performance.now() - due)
    })
    pending.add(underway)
  }

  let sent = 0
  let cold = 0
  const timer = setInterval(() => {
    const now = performance.now() - began
    if (isOver || now > options.seconds * 1000) return
    for (; sent < (now / 1000) * options.perSecond; sent += 1) {
      const tenant = options.tenants[sent % options.tenants.length]!
      send('warm', tenant, { path: `/api/run/${tenant}/count?n=${sent}`, expected: '"once"' }, began + (sent / options.perSecond) * 1000)
    }
    for (; options.cold === true && cold < now / 1000; cold += 1) {
      const tenant = `cold${Math.trunc(began)}x${cold}`
      const headers = { authorization: `Bearer ${options.master}` }
      send('cold', tenant, { path: `/api/run/${tenant}`, method: 'POST', headers, body: HELLO, expected: '"hello"' })
    }
  }, 5)
  const streaming = (async () => {
    while (!isOver && options.stream !== undefined && performance.now() - began < options.seconds * 1000) {
      asked.stream += 1
      const what = await ask({ path: `/api/run/${options.stream}/stream`, expected: 'x'.repeat(20) })
      if (what !== undefined) {
        failures.push({ at: Date.now(), kind: 'stream', tenant: options.stream, what })
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
  })()
  const soFar = { asked, failures, waits }
  return {
    soFar,
    get inFlight() {
      return pending.size
    },
    async stop() {
      isOver = true
      clearInterval(timer)
      await Promise.all(pending)
      await streaming
      agent.destroy()
      return soFar
    },
  }
}
