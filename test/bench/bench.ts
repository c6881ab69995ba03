/**
 * `npm run bench [-- --json] [--quick] [--minutes N] [name…]`: figures as ratios measured in one run on this machine where that is possible,
 * medians of several rounds. Each line names its target; the exit code is 1 when one is missed. `--minutes` is for `churn`, which then runs so long.
 */
import { parseArgs } from 'node:util'
import { churn } from './churn.ts'
import { fairness, newcomers, storm } from './crowds.ts'
import { egress } from './egress.ts'
import { creates, resume } from './engine.ts'
import { cold, herd, specialise } from './first-requests.ts'
import { memory } from './memory.ts'
import { table, type Bench, type Row } from './row.ts'
import { runtimes } from './runtimes.ts'
import { warm } from './warm.ts'

const BENCHES: Readonly<Record<string, Bench>> = {
  warm,
  specialise,
  cold,
  herd,
  newcomers,
  storm,
  fairness,
  resume,
  creates,
  memory,
  churn,
  egress,
  runtimes,
}

const HELP = `Usage: npm run bench [-- name… --options]

Measures a runtime of its own beside what it is compared with, and prints a table. Ends with 1 when a target is missed.
Names: ${Object.keys(BENCHES).join(' ')}

  --quick        fewer rounds
  --minutes N    how long churn goes on (10)
  --json         everything, for programs
  --help         this text`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      minutes: { type: 'string' },
      help: { type: 'boolean' },
    },
    allowPositionals: true,
  })
  const minutes = values.minutes === undefined ? undefined : Number(values.minutes)
  const unknown = positionals.filter((name) => !Object.hasOwn(BENCHES, name))
  if (values.help) {
    console.log(HELP)
    return 0
  }
  if (unknown.length > 0) throw new UsageError(`No such bench: "${unknown.join('", "')}"`)
  if (minutes !== undefined && !(minutes > 0)) throw new UsageError(`"--minutes" takes a number, not "${values.minutes}"`)
  const rows: Row[] = []
  for (const [name, bench] of Object.entries(BENCHES))
    if (positionals.length === 0 || positionals.includes(name))
      rows.push(...(await bench({ quick: values.quick, minutes, progress: (text) => process.stderr.write(`${text}\n`) })))
  process.stdout.write(values.json ? `${JSON.stringify(rows, null, 2)}\n` : table(rows))
  return rows.every((row) => row.met) ? 0 : 1
}

class UsageError extends Error {}

try {
  process.exitCode = await main()
} catch (error) {
  const isUsage = error instanceof UsageError || (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS') === true
  console.error(isUsage ? `${(error as Error).message}\n\n${HELP}` : error)
  process.exitCode = isUsage ? 2 : 1
}
