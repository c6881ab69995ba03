/** Running other programs: output is kept for the error message, lines are offered to the progress display. */
import { spawn } from 'node:child_process'

const KEPT_LINES = 25

/** A program that ended badly. `message` holds the command and the end of what it printed. */
export class CommandFailed extends Error {
  constructor(command, { code, output }) {
    const tail = output.trimEnd().split('\n').slice(-KEPT_LINES).join('\n  ')
    super(`Command failed (${code}): ${command}\n  ${tail}`)
    this.code = code
    this.output = output
  }
}

/** A mistake of the machine or its set-up that a person can mend; shown as is, without a stack. */
export class SetupError extends Error {}

/** Runs a program and resolves with its stdout; rejects with CommandFailed on a bad end or after `timeout` ms. */
export function run(file, args, { env, cwd, input, timeout, signal, onLine = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      killSignal: 'SIGKILL',
      signal,
      timeout,
    })
    let stdout = ''
    let output = ''
    const take = (chunk) => {
      output += chunk
      const line = chunk
        .trimEnd()
        .split(/[\r\n]/)
        .at(-1)
      if (line) onLine(line)
    }
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      stdout += chunk
      take(chunk)
    })
    child.stderr.setEncoding('utf8').on('data', take)
    child.on('error', (cause) => reject(new CommandFailed(file, { code: cause.code, output: cause.message })))
    child.on('close', (code, signal) => {
      if (code === 0) resolve(stdout)
      else reject(new CommandFailed([file, ...args].join(' '), { code: code ?? signal, output }))
    })
    if (input !== undefined) child.stdin.on('error', () => {}).end(input)
  })
}

/** Like `run`, but a bad end is `undefined`: for questions whose answer may be no. */
export async function ask(file, args, options) {
  try {
    return (await run(file, args, options)).trim()
  } catch (error) {
    if (error instanceof CommandFailed) return undefined
    throw error
  }
}
