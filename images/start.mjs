/** `npm start`: prepares the machine, then runs the whole runtime in the foreground. */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { parseArgs } from 'node:util'
import { CommandFailed, SetupError } from './command.mjs'
import { dockerWith } from './docker.mjs'
import { ensureEngine } from './engine.mjs'
import { prepare, ROOT } from './machine.mjs'
import { createProgress } from './progress.mjs'

/** Two of the same signal within this time are one that came on two ways (ms). */
const REPEAT_MS = 500

const HELP = `Usage: npm start [-- --yes]

Sets up what is missing (npm packages, a Docker engine, images) and serves. Settings are environment variables, see README.md.

  --yes   install a Docker engine without asking, where none is there and this is Debian with root
  --help  this text`

try {
  const { values } = parseArgs({ options: { yes: { type: 'boolean' }, help: { type: 'boolean' } } })
  if (values.help) console.log(HELP)
  else process.exitCode = await start({ yes: values.yes })
} catch (error) {
  const expected = error instanceof SetupError || error instanceof CommandFailed || error.code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION'
  console.error(expected ? error.message : error)
  process.exitCode = 1
}

async function start({ yes }) {
  const progress = createProgress()
  if (process.platform !== 'linux') {
    progress.note('Sockets of sandboxes cannot leave the engine\'s virtual machine here: running "docker compose up --build" instead')
    await ensureEngine({ yes, progress })
    return foreground(await dockerWith('compose'), ['compose', 'up', '--build'], {})
  }
  const { node, env } = await prepare({ yes, progress })
  return foreground(node, ['src/main.ts', 'all'], env)
}

/**
 * Runs the program as our own foreground, in our process group. A terminal sends Ctrl-C to the whole group, so the program hears it
 * itself and we stay out of the way; every other signal may have reached only us and is handed on, once when npm repeats it.
 */
function foreground(file, args, env) {
  const child = spawn(file, args, { cwd: ROOT, stdio: 'inherit', env: { ...process.env, ...env } })
  let handedOn = 0
  const handOn = (signal) => {
    if (Date.now() - handedOn < REPEAT_MS || (signal === 'SIGINT' && process.stdin.isTTY)) return
    handedOn = Date.now()
    child.kill(signal)
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, handOn)
  if (process.env.npm_lifecycle_event) whenOrphaned(() => handOn('SIGTERM'))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal]))
  })
}

/** The shell between npm and us ends on npm's signals without telling us; a new parent does. */
function whenOrphaned(act) {
  const parent = process.ppid
  const watch = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(watch)
    act()
  }, 250)
  watch.unref()
}
