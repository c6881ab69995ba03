/** `npm run hostile`: attacks a runtime of its own from inside and outside, and judges what neighbours and host feel of it. */
import { parseArgs } from 'node:util'
import { openArena, type Arena, type Trial } from './arena.ts'
import { fetchFromInside } from './code-urls.ts'
import { attackOver, prepareFacts, smuggledRuns } from './exchange-trial.ts'
import { CONNECTIONS } from './exchanges/connections.ts'
import { HEADERS } from './exchanges/headers.ts'
import { SMUGGLING } from './exchanges/smuggling.ts'
import { TARGETS } from './exchanges/targets.ts'
import { TOKENS } from './exchanges/tokens.ts'
import { holdConnections } from './holds.ts'
import { lineOf, summary } from './table.ts'
import { attackBy } from './webtask-trial.ts'
import { CONFUSION } from './webtasks/confusion.ts'
import { CPU } from './webtasks/cpu.ts'
import { ESCAPES } from './webtasks/escapes.ts'
import { FILES } from './webtasks/files.ts'
import { MEMORY } from './webtasks/memory.ts'
import { NETWORK } from './webtasks/network.ts'
import { OUTPUT } from './webtasks/output.ts'
import { PROCESS_CASES } from './webtasks/processes.ts'
import { RESPONSES } from './webtasks/responses.ts'
import { TIME } from './webtasks/time.ts'

const WEBTASKS = {
  cpu: CPU,
  memory: MEMORY,
  processes: PROCESS_CASES,
  files: FILES,
  output: OUTPUT,
  escapes: ESCAPES,
  confusion: CONFUSION,
  responses: RESPONSES,
  time: TIME,
  network: NETWORK,
}
const EXCHANGES = { smuggling: SMUGGLING, targets: TARGETS, headers: HEADERS, tokens: TOKENS, connections: CONNECTIONS }
/** With `--quick`, one of so many webtasks is tried, and all exchanges: these cost little. */
const QUICK = 4

const HELP = `Usage: npm run hostile [-- options]

Runs hostile webtasks and hostile HTTP exchanges against a runtime of its own, while a victim tenant is asked all the time.
Ends with a table, and with 1 when a case was answered wrongly or was felt by the victim or the host.

  --runtime runc|runsc  container runtime of the sandboxes (default runc)
  --only name…          only the groups of these names, and the cases whose names hold these words
  --quick               all exchanges, but one of ${QUICK} webtasks
  --json                everything, for programs
  --help                this text

Groups: ${[...Object.keys({ ...WEBTASKS, ...EXCHANGES }), 'code', 'held'].join(' ')}`

interface Wanted {
  (group: string, name: string): boolean
}

const progress = (text: string) => process.stderr.write(`${text}\n`)

/** Every group with each of its cases. */
function names(): (readonly [group: string, name: string])[] {
  const all = Object.entries({ ...WEBTASKS, ...EXCHANGES }).flatMap(([group, cases]) => cases.map(({ name }) => [group, name] as const))
  return [...all, ['code', 'code from inner places'], ['held', 'connections that are held']]
}

/** All trials that are wanted, one after another. */
async function* trials(arena: Arena, { wanted, quick }: { wanted: Wanted; quick: boolean }): AsyncGenerator<Trial> {
  const facts = await prepareFacts(arena)
  const fill = (text: string) => text.replaceAll('$ECHO', facts.ECHO)
  const held = wanted('held', 'connections that are held') ? holdConnections(arena.port, fill) : undefined
  let count = 0
  for (const [group, cases] of Object.entries(WEBTASKS)) {
    for (const one of cases) {
      if (!wanted(group, one.name) || (quick && count++ % QUICK !== 0)) continue
      yield arena.trial({ group, name: one.name, lasting: one.lasting ?? false, attack: () => attackBy(arena, one) })
    }
  }
  for (const [group, cases] of Object.entries(EXCHANGES)) {
    for (const one of cases) {
      if (!wanted(group, one.name)) continue
      yield arena.trial({ group, name: one.name, attack: () => attackOver(arena, one, facts) })
    }
  }
  if (wanted('smuggling', 'what was smuggled')) {
    const attack = async () => {
      const runs = await smuggledRuns(arena, facts)
      return { heard: `${runs} ran`, problems: runs === 0 ? [] : ['a smuggled request ran'] }
    }
    yield arena.trial({ group: 'smuggling', name: 'what was smuggled', attack })
  }
  if (wanted('code', 'code from inner places'))
    yield arena.trial({ group: 'code', name: 'code from inner places', attack: () => fetchFromInside(arena) })
  if (held !== undefined) yield arena.trial({ group: 'held', name: 'connections that are held', attack: held })
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: {
      runtime: { type: 'string', default: 'runc' },
      only: { type: 'string', multiple: true, default: [] },
      quick: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
    allowPositionals: true,
  })
  if (values.help) {
    process.stdout.write(`${HELP}\n`)
    return 0
  }
  if (values.runtime !== 'runc' && values.runtime !== 'runsc') {
    process.stderr.write(`--runtime must be runc or runsc (got "${values.runtime}")\n`)
    return 2
  }
  const only = [...values.only, ...positionals]
  const wanted: Wanted = (group, name) => only.length === 0 || only.some((word) => word === group || name.includes(word))
  const done: Trial[] = []
  if (only.length > 0 && !names().some(([group, name]) => wanted(group, name))) {
    process.stderr.write(`Nothing is named "${only.join('" or "')}"\n\n${HELP}\n`)
    return 2
  }
  await using arena = await openArena({ runtime: values.runtime })
  progress(`The victim's p99 without an attack: ${arena.quietP99().toFixed(1)} ms`)
  for await (const trial of trials(arena, { wanted, quick: values.quick })) {
    done.push(trial)
    progress(lineOf(trial))
  }
  process.stdout.write(values.json ? `${JSON.stringify(done, null, 2)}\n` : `${done.map(lineOf).join('\n')}\n\n${summary(done)}\n`)
  return done.length > 0 && done.every((trial) => trial.passed) ? 0 : 1
}

process.exitCode = await main()
