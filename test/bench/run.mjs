// Prepares the machine as `npm start` does, then runs the benchmark on the pinned Node.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { prepare } from '../../images/machine.mjs'

const { node, env, nodeImage } = await prepare({ yes: true })
const file = path.join(import.meta.dirname, 'bench.ts')
const { status } = spawnSync(node, [file, ...process.argv.slice(2)], { stdio: 'inherit', env: { ...process.env, ...env, BENCH_BASE: nodeImage } })
process.exit(status ?? 1)
