/** The thread of an open loop: sends what is due until it is terminated, and hands out a window at each message. */
import { parentPort, workerData } from 'node:worker_threads'
import { Pool } from 'undici'
import type { OpenLoad } from './open-loop.ts'

interface Window {
  readonly times: number[]
  readonly lags: number[]
  failed: number
  running: number
  ended?: () => void
}

/** Timers are a millisecond coarse: with pauses longer than this the rest is waited for turn by turn of the event loop (ms). */
const PRECISE_FROM_MS = 5

const port = parentPort!
const { url, perSecond, headers } = workerData as OpenLoad
const { origin, pathname, search } = new URL(url)
const pool = new Pool(origin, { connections: null, headersTimeout: 60_000, bodyTimeout: 60_000 })
const pause = 1000 / perSecond
const empty = (): Window => ({ times: [], lags: [], failed: 0, running: 0 })
let window = empty()
let due = performance.now() + pause

async function send(due: number, mine: Window): Promise<void> {
  mine.running += 1
  mine.lags.push(performance.now() - due)
  try {
    const { statusCode, body } = await pool.request({ path: pathname + search, method: 'GET', headers: headers ?? {} })
    await body.dump()
    if (statusCode === 200) mine.times.push(performance.now() - due)
    else mine.failed += 1
  } catch {
    mine.failed += 1
  }
  mine.running -= 1
  if (mine.running === 0) mine.ended?.()
}

function tick(): void {
  const now = performance.now()
  for (; due <= now; due += pause) void send(due, window)
  const rest = due - now
  if (rest < 1 && pause >= PRECISE_FROM_MS) setImmediate(tick)
  else setTimeout(tick, Math.max(1, Math.floor(rest - 0.5)))
}

port.on('message', () => {
  const done = window
  window = empty()
  done.ended = () => port.postMessage({ times: done.times, lags: done.lags, failed: done.failed })
  if (done.running === 0) done.ended()
})
tick()
