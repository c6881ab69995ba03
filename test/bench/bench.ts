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

const { values, positionals } = parseArgs({
  options: { json: { type: 'boolean', default: false }, quick: { type: 'boolean', default: false }, minutes: { type: 'string' } },
  allowPositionals: true,
})
const minutes = values.minutes === undefined ? undefined : Number(values.minutes)
const unknown = positionals.filter((name) => !Object.hasOwn(BENCHES, name))
if (unknown.length > 0) throw new Error(`No such bench: "${unknown.join('", "')}"; there are ${Object.keys(BENCHES).join(', ')}`)
if (minutes !== undefined && !(minutes > 0)) throw new Error(`"--minutes" takes a number, not "${values.minutes}"`)

const rows: Row[] = []
for (const [name, bench] of Object.entries(BENCHES))
  if (positionals.length === 0 || positionals.includes(name))
    rows.push(...(await bench({ quick: values.quick, minutes, progress: (text) => process.stderr.write(`${text}\n`) })))
process.stdout.write(values.json ? `${JSON.stringify(rows, null, 2)}\n` : table(rows))
process.exitCode = rows.every((row) => row.met) ? 0 : 1
