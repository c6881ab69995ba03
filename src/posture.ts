/** `npm run posture`: looks at every running sandbox, changes nothing. Ends with 1 when a control fails without a documented reason. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { parseConfig } from './config.ts'
import { createDockerDriver } from './sandbox/docker.ts'
import { auditSandboxes } from './sandbox/posture/audit.ts'
import { hasFailed, reportText } from './sandbox/posture/report.ts'

const HELP = `Usage: npm run posture -- [options]

Judges every running sandbox of this deployment, on the machine of the container engine and as root: Kubernetes' Pod Security
"restricted", the CIS Docker benchmark's container section, our own promises. Ends with 1 when one fails without a documented
reason, with 2 when it cannot look.

  --all   the sandboxes of every deployment of the engine
  --json  everything, for programs
  --help  this text`

try {
  const { values } = parseArgs({ options: { all: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
  if (values.help) console.log(HELP)
  else process.exitCode = await posture({ all: values.all ?? false, json: values.json ?? false })
} catch (error) {
  const isUsage = error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')
  console.error(`${error instanceof Error ? error.message : String(error)}${isUsage ? `\n\n${HELP}` : ''}`)
  process.exitCode = 2
}

/** Without a deployment in the settings or the data directory: all of the engine's. */
async function posture(asked: { all: boolean; json: boolean }): Promise<number> {
  const config = parseConfig(process.env)
  const file = path.join(config.WEBTASK_DATA_DIR, 'deployment')
  const own = config.WEBTASK_DEPLOYMENT ?? (await readFile(file, 'utf8').catch(() => undefined))?.trim()
  const judged = await auditSandboxes(createDockerDriver(), asked.all ? undefined : own)
  console.log(asked.json ? JSON.stringify(judged, null, 2) : reportText(judged))
  return hasFailed(judged) ? 1 : 0
}
