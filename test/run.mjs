/**
 * `npm test`: prepares the machine, then runs everything and ends with one line that counts it.
 * Each static check counts as one test; a phase that breaks before it can count is one failure.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { parseArgs } from 'node:util'
import { ask, CommandFailed, SetupError } from '../images/command.mjs'
import { imageId, pull } from '../images/docker.mjs'
import { prepare, ROOT } from '../images/machine.mjs'

const STATIC = {
  types: ['tsc', '--noEmit'],
  lint: ['oxlint', '--deny-warnings'],
  format: ['oxfmt', '--check'],
  unused: ['knip'],
}

/**
 * Folders below test/, with the longest time for one test and for the whole folder. The runner does not end a file that
 * leaves something open, so the folder's limit does. Those that share the engine run their files one after another, but
 * for those that wait more than they work and judge nothing by time: these run two at a time.
 */
const FOLDERS = {
  unit: { test: 60, all: 300, atOnce: 2 },
  property: { test: 120, all: 300 },
  house: { test: 60, all: 120 },
  redis: { test: 120, all: 300 },
  docker: { test: 180, all: 600, serial: true },
  e2e: {
    test: 300,
    all: 900,
    serial: true,
    patient: 'bound-secrets compose domain drain keys lifecycle once plans revocation secrets start tokens vectors'.split(' '),
  },
  // The same tests once more in sandboxes under gVisor: those that ask most of the sandbox. "--runtime runsc e2e" runs all of them.
  gvisor: { test: 300, all: 600, serial: true, folder: 'e2e', files: ['models', 'requests'], runtime: 'runsc' },
}

/** Programs that say "N passed, N failed" in their last line: the words after their name, the longest time, the runtime that the engine must have. */
const PROGRAMS = {
  hostile: [
    { file: 'test/hostile/hostile.ts', words: ['--quick'], all: 300 },
    {
      file: 'test/hostile/hostile.ts',
      words: ['--runtime', 'runsc', '--only', 'a loop', 'the heap', 'a fork bomb', 'system calls by native code', 'two answers'],
      all: 120,
      runtime: 'runsc',
    },
  ],
}

const RUNTIMES = ['runc', 'runsc']

const PHASES = [...Object.keys(STATIC), ...Object.keys(FOLDERS), ...Object.keys(PROGRAMS)]

/** Hostile code and exchanges take minutes of their own and judge by time: asked for by name, or by `npm run hostile`. */
const BY_DEFAULT = PHASES.filter((name) => !(name in PROGRAMS))

const HELP = `Usage: npm test [-- phase…]

Runs ${BY_DEFAULT.join(' ')}, or only the named phases. By name alone: ${Object.keys(PROGRAMS).join(' ')}

  --runtime NAME  container runtime of the sandboxes in docker and e2e: runc or runsc (gVisor)
  --yes           install a Docker engine without asking, where none is there and this is Debian with root
  --help          this text`

try {
  const { values, positionals } = parseArgs({
    options: { yes: { type: 'boolean' }, help: { type: 'boolean' }, runtime: { type: 'string' } },
    allowPositionals: true,
  })
  const unknown = positionals.filter((name) => !PHASES.includes(name))
  if (unknown.length > 0) throw new SetupError(`No such phase: "${unknown.join('", "')}"\n\n${HELP}`)
  if (values.runtime !== undefined && !RUNTIMES.includes(values.runtime))
    throw new SetupError(`No such runtime: "${values.runtime}" (there are ${RUNTIMES.join(' and ')})\n\n${HELP}`)
  if (values.help) console.log(HELP)
  else process.exitCode = await main(positionals.length === 0 ? BY_DEFAULT : PHASES.filter((name) => positionals.includes(name)), values)
} catch (error) {
  const expected = error instanceof SetupError || error instanceof CommandFailed || error.code?.startsWith('ERR_PARSE_ARGS')
  console.error(expected ? error.message : error)
  process.exitCode = 1
}

async function main(phases, { yes, runtime }) {
  const { node, env, nodeImage, redisImage } = await prepare({ yes, wants: { redis: true, node: true } })
  const path = [join(ROOT, 'node_modules/.bin'), process.env.PATH].join(delimiter)
  // NODE_IMAGE and REDIS_IMAGE are what compose.yaml builds on.
  const images = { NODE_IMAGE: nodeImage, REDIS_IMAGE: redisImage }
  const chosen = runtime === undefined ? {} : { WEBTASK_RUNTIME: runtime }
  const ready = { node, env: { ...process.env, ...env, ...images, ...chosen, PATH: path, ...(await reaper(phases, redisImage)) } }
  const total = { passed: 0, failed: 0, skipped: 0 }
  const broken = []
  for (const phase of phases) {
    console.log(`\n── ${phase}`)
    const begun = Date.now()
    const counts =
      phase in STATIC ? await check(STATIC[phase], ready) : phase in PROGRAMS ? await runPrograms(phase, ready) : await testFolder(phase, ready)
    for (const key of Object.keys(total)) total[key] += counts[key] ?? 0
    if (counts.failed) broken.push(phase)
    console.log(`── ${phase}: ${summary({ skipped: 0, ...counts })} in ${((Date.now() - begun) / 1000).toFixed(1)} s`)
  }
  if (broken.length > 0) console.log(`\nFailed phases: ${broken.join(', ')}`)
  console.log(`\n${summary(total)}`)
  return total.failed === 0 && total.passed > 0 ? 0 : 1
}

async function check([command, ...args], { env }) {
  const code = await child(join(ROOT, 'node_modules/.bin', command), args, env)
  return code === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 }
}

async function testFolder(phase, { node, env: common }) {
  const { test, all, serial, atOnce: most, folder: name = phase, files, patient = [], runtime } = FOLDERS[phase]
  const env = runtime === undefined ? common : { ...common, WEBTASK_RUNTIME: runtime }
  if (runtime !== undefined && !(await hasRuntime(runtime, env))) {
    console.log(`Skipped: the engine has no runtime "${runtime}"`)
    return { passed: 0, failed: 0, skipped: 1 }
  }
  const folder = join(ROOT, 'test', name)
  const there = existsSync(folder) ? readdirSync(folder, { recursive: true }).filter((file) => file.endsWith('.test.ts')) : []
  const chosen = files === undefined ? there : files.map((file) => `${file}.test.ts`)
  const isPatient = (file) => patient.includes(file.replace('.test.ts', ''))
  const total = { passed: 0, failed: 0, skipped: 0 }
  for (const { files, atOnce } of [
    { files: chosen.filter((file) => !isPatient(file)), atOnce: serial ? 1 : most },
    { files: chosen.filter(isPatient), atOnce: 2 },
  ]) {
    if (files.length === 0) continue
    const counts = await testFiles(
      files.map((file) => join(folder, file)),
      { node, env, test, all, atOnce },
    )
    for (const key of Object.keys(total)) total[key] += counts[key] ?? 0
  }
  return total
}

async function testFiles(files, { node, env, test, all, atOnce }) {
  const scratch = mkdtempSync(join(tmpdir(), 'webtask-test-'))
  try {
    const tap = join(scratch, 'tap')
    const reporters = ['--test-reporter=spec', '--test-reporter-destination=stdout', '--test-reporter=tap', `--test-reporter-destination=${tap}`]
    const limits = [`--test-timeout=${test * 1000}`, ...(atOnce === undefined ? [] : [`--test-concurrency=${atOnce}`])]
    const code = await child(node, ['--test', ...limits, ...reporters, ...files], env, { seconds: all })
    return count(existsSync(tap) ? readFileSync(tap, 'utf8') : '', code)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

async function runPrograms(phase, { node, env }) {
  const total = { passed: 0, failed: 0, skipped: 0 }
  for (const { file, words, all, runtime } of PROGRAMS[phase]) {
    if (runtime !== undefined && !(await hasRuntime(runtime, env))) {
      console.log(`Skipped: the engine has no runtime "${runtime}"`)
      total.skipped += 1
      continue
    }
    let output = ''
    const code = await child(node, [file, ...words], env, { seconds: all, heard: (text) => (output += text) })
    if (code !== 0) console.log(output)
    const [, passed = 0, failed = 0] = /^(\d+) passed, (\d+) failed$/m.exec(output) ?? []
    total.passed += Number(passed)
    // A bad end that no case explains is a failure of its own.
    total.failed += Number(failed) || (code === 0 ? 0 : 1)
  }
  return total
}

async function hasRuntime(runtime, env) {
  const names = await ask('docker', ['info', '--format', '{{range $name, $_ := .Runtimes}}{{$name}} {{end}}'], { env, timeout: 10_000 })
  return String(names).split(' ').includes(runtime)
}

/** The runner ends its TAP with totals; a bad exit that they do not explain is a failure of its own. */
function count(tap, code) {
  const number = (name) =>
    Number(
      tap
        .match(new RegExp(`^# ${name} (\\d+)$`, 'gm'))
        ?.at(-1)
        .split(' ')[2] ?? NaN,
    )
  const failed = number('fail') + number('cancelled')
  if (Number.isNaN(failed)) return { passed: 0, failed: 1 }
  return { passed: number('pass'), failed: failed || (code === 0 ? 0 : 1), skipped: number('skipped') + number('todo') }
}

/** testcontainers cleans up by a container of its own, whose image is not there where no registry is. */
async function reaper(phases, redisImage) {
  const uses = ['redis', 'docker', 'e2e', 'gvisor'].some((phase) => phases.includes(phase))
  if (!uses || process.env.TESTCONTAINERS_RYUK_DISABLED) return {}
  const source = readFileSync(join(ROOT, 'node_modules/testcontainers/build/reaper/reaper.js'), 'utf8')
  const image = process.env.RYUK_CONTAINER_IMAGE ?? /"(testcontainers\/ryuk:[^"]+)"/.exec(source)?.[1]
  const localOnly = redisImage.startsWith('webtask-')
  const available = image && ((await imageId(image)) || (!localOnly && !(await pull(image))))
  return available ? {} : { TESTCONTAINERS_RYUK_DISABLED: 'true' }
}

function summary({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}

/** Resolves with the exit code; after `seconds` the program is asked to end, and soon made to. `heard` is told its output instead of the terminal. */
function child(file, args, env, { seconds = 300, heard } = {}) {
  return new Promise((resolve) => {
    const running = spawn(file, args, { cwd: ROOT, env, stdio: ['inherit', heard === undefined ? 'inherit' : 'pipe', 'inherit'] })
    running.stdout?.setEncoding('utf8').on('data', heard)
    const end = setTimeout(() => {
      console.error(`Stopping "${args.at(-1)}": it runs for more than ${seconds} s. A test hangs, or leaves something open`)
      running.kill('SIGTERM')
      setTimeout(() => running.kill('SIGKILL'), 10_000).unref()
    }, seconds * 1000)
    running.on('error', (error) => {
      console.error(error.message)
      resolve(1)
    })
    running.on('close', (code) => {
      clearTimeout(end)
      resolve(code ?? 1)
    })
  })
}
