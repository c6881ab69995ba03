// Prepares the machine as `npm start` does, then breaks the runtime on the pinned Node.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { prepare } from '../../images/machine.mjs'

const { node, env } = await prepare({ yes: true, wants: { redis: true } })
const file = path.join(import.meta.dirname, 'drill.ts')
const { status } = spawnSync(node, [file, ...process.argv.slice(2)], { stdio: 'inherit', env: { ...process.env, ...env } })
process.exit(status ?? 1)
