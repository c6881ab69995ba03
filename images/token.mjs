/** `npm run --silent token`: the local deployment's master token, and nothing else, on stdout. */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const path = resolve(root, process.env.WEBTASK_DATA_DIR || 'data', 'master.token')

const HELP = `Usage: npm run --silent token

Prints the local deployment's master token, and nothing else. WEBTASK_DATA_DIR says whose, as for "npm start".`

try {
  const { values } = parseArgs({ options: { help: { type: 'boolean' } } })
  console.log(values.help ? HELP : readFileSync(path, 'utf8').trim())
} catch (error) {
  const isUsage = error.code?.startsWith('ERR_PARSE_ARGS')
  const reason = {
    ENOENT: `No master token at ${path}: it is made when the server first starts. Run "npm start" (with the same WEBTASK_DATA_DIR), then try again`,
    EACCES: `No permission to read ${path}: run this as the user who runs the server`,
  }
  console.error(isUsage ? `${error.message}\n\n${HELP}` : (reason[error.code] ?? `Cannot read ${path}: ${error.message}`))
  process.exitCode = 1
}
