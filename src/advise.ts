/** `npm run advise`: reads how tenants came to their sandboxes and says what larger or smaller stocks of prewarmed ones would have meant. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { parseConfig, runDirectory } from './config.ts'
import { createLog } from './log.ts'
import { connectRedis, redisPlace, waitForRedis } from './redis.ts'
import { advise, type Advice } from './sandbox/advice.ts'
import { createSandboxStore } from './sandbox/store.ts'

const HELP = `Usage: npm run advise -- [options]

Reads the history of first requests (those that found no sandbox of their tenant) of a running deployment, plays it again with
stocks of several sizes, and says what each would have meant: how many first requests find a prewarmed sandbox ready, and how
long they wait. The sizes are what WEBTASK_PREWARMED and WEBTASK_PREWARMED_MAX set.

  --hours N  the last N hours (default 24, 1 to 720); at most the newest 50000 first requests are kept
  --p95 MS   recommend the smallest stock with this p95 (ms, default 50)
  --json     for programs
  --help     this text`

const CONNECT_MS = 5_000

class UsageError extends Error {}

try {
  const options = { hours: { type: 'string' }, p95: { type: 'string' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } as const
  const { values } = parseArgs({ options })
  if (values.help) console.log(HELP)
  else await main({ hours: whole(values.hours ?? '24', '--hours', 720), p95: whole(values.p95 ?? '50', '--p95', 60_000), json: values.json ?? false })
} catch (error) {
  const isUsage = error instanceof UsageError || (error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS'))
  console.error(`${error instanceof Error ? error.message : String(error)}${isUsage ? `\n\n${HELP}` : ''}`)
  process.exitCode = isUsage ? 2 : 1
}

function whole(text: string, name: string, most: number): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > most) throw new UsageError(`${name} must be a whole number from 1 to ${most} (got "${text}")`)
  return value
}

async function main(asked: { hours: number; p95: number; json: boolean }): Promise<void> {
  const config = parseConfig(process.env)
  const file = path.join(config.WEBTASK_DATA_DIR, 'deployment')
  const deployment = config.WEBTASK_DEPLOYMENT ?? (await readFile(file, 'utf8').catch(() => undefined))?.trim()
  if (deployment === undefined) throw new Error(`No deployment in "${config.WEBTASK_DATA_DIR}": start one first, or set WEBTASK_DATA_DIR`)
  const url = config.REDIS_URL ?? `unix://${path.join(runDirectory(config, deployment), 'redis/redis.sock')}`
  const redis = connectRedis(url, createLog('silent', 'advise'))
  try {
    await waitForRedis(redis, { signal: AbortSignal.timeout(CONNECT_MS), waiting: () => {} }).catch(() => {
      throw new Error(`Redis at ${redisPlace(url)} does not answer: advice needs the running deployment`)
    })
    const starts = await createSandboxStore(redis, `webtask:${deployment}`).starts(Date.now() - asked.hours * 3_600_000)
    const advice = advise(starts, { p95Ms: asked.p95 })
    console.log(asked.json ? JSON.stringify(advice, null, 2) : text(advice, asked))
  } finally {
    redis.disconnect()
  }
}

function text(advice: readonly Advice[], asked: { hours: number; p95: number }): string {
  if (advice.length === 0) return `No first requests in the last ${asked.hours} h: there is nothing to learn from yet`
  return advice.map((one) => paragraph(one, asked)).join('\n\n')
}

function paragraph({ make, starts, adopted, p95, makeMs, outlooks, recommended }: Advice, asked: { hours: number; p95: number }): string {
  const ms = (value: number) => `${Math.round(value)} ms`
  const rows = outlooks.map(({ size, ready, p50, p95: wait }) => [
    size === recommended ? '→' : ' ',
    String(size),
    `${Math.round(ready * 100)} %`,
    ms(p50),
    ms(wait),
  ])
  const all = [['', 'PREWARMED', 'READY', 'P50', 'P95'], ...rows]
  const widths = all[0]!.map((_, column) => Math.max(...all.map((row) => row[column]!.length)))
  const table = all.map((row) => `  ${row.map((cell, column) => cell.padStart(widths[column]!)).join('  ')}`).join('\n')
  const verdict =
    recommended === undefined
      ? `No stock up to ${outlooks.at(-1)!.size} would have had a p95 of ${asked.p95} ms: sandboxes are made too slowly for such bursts`
      : `WEBTASK_PREWARMED=${recommended} would have had a p95 of at most ${asked.p95} ms`
  return `Class ${make}, last ${asked.hours} h: ${starts} first requests, ${adopted} found a prewarmed sandbox; they waited ${ms(p95)} at p95.
Making a sandbox took ${ms(makeMs)} at the median.

${table}

${verdict}`
}
