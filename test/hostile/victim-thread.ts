/**
 * The victim's callers: a request every few milliseconds whether the last one was answered or not, so that a standstill is
 * seen by all who would have come during it. A thread of its own, or what the attacks cost this process would look like theirs.
 */
import http from 'node:http'
import { parentPort, workerData } from 'node:worker_threads'
import type { Sample, VictimOrder } from './victim.ts'

const { url, expected, everyMs, giveUpMs } = workerData as VictimOrder
const agent = new http.Agent({ keepAlive: true, maxSockets: 64 })
const target = new URL(url)
const port = parentPort!
/** Most requests that are made up for at once. */
const BURST = 10
let index = 0

function ask(): void {
  const mine = index++
  const at = Date.now()
  const began = performance.now()
  let settled = false
  const settle = (problem?: string) => {
    if (settled) return
    settled = true
    const sample: Sample = { index: mine, at, ms: performance.now() - began, ...(problem === undefined ? {} : { problem }) }
    port.postMessage(sample)
  }
  const request = http.get(target, { agent, timeout: giveUpMs }, (response) => {
    let text = ''
    response.setEncoding('utf8')
    response.on('data', (chunk: string) => (text += chunk))
    response.on('end', () => settle(text === expected ? undefined : `${response.statusCode} ${text.slice(0, 200)}`))
    response.on('error', (error) => settle(error.message))
  })
  request.on('timeout', () => {
    settle(`No answer within ${giveUpMs} ms`)
    request.destroy()
  })
  request.on('error', (error) => settle(error.message))
}

const began = performance.now()
let forgone = 0
setInterval(() => {
  // What the timer missed is asked now; but no more than a few, or it would be a burst that is an attack of its own.
  const due = Math.floor((performance.now() - began) / everyMs) - forgone
  forgone += Math.max(0, due - index - BURST)
  for (let missing = Math.min(BURST, due - index); missing > 0; missing -= 1) ask()
}, 1)
