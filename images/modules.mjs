/** The packages in node_modules, and with them the pinned Node that everything else runs on. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { osRelease } from './apt-sources.mjs'
import { ask, run, SetupError } from './command.mjs'
import { install } from './debian.mjs'

/** Installs what package-lock.json says unless it is there already; resolves with the path of the pinned Node. */
export async function ensureModules({ root, progress }) {
  const node = join(root, 'node_modules/.bin', process.platform === 'win32' ? 'node.cmd' : 'node')
  if (existsSync(node) && installed(root)) return node
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  await progress.step('Installing npm packages', (onLine) => run(npm, ['ci', '--loglevel=error', '--no-audit', '--no-fund'], { cwd: root, onLine }))
  await ensureRuns(node, progress)
  return node
}

/** npm records what it put in place; every package of ours that this platform needs must be recorded in the locked version. */
function installed(root) {
  const record = join(root, 'node_modules/.package-lock.json')
  if (!existsSync(record)) return false
  const present = packages(record)
  return Object.entries(packages(join(root, 'package-lock.json'))).every(([path, { version, integrity, optional, link }]) => {
    if (path === '' || link) return true
    const found = present[path]
    return found ? found.version === version && found.integrity === integrity : optional
  })
}

function packages(path) {
  return JSON.parse(readFileSync(path, 'utf8')).packages
}

/** Node's official binaries need libatomic, which a minimal Debian lacks. */
async function ensureRuns(node, progress) {
  if (await ask(node, ['--version'])) return
  if (osRelease().ID === 'debian' && process.getuid() === 0) await install(['libatomic1'], progress)
  try {
    await run(node, ['--version'])
  } catch (error) {
    throw new SetupError(`The pinned Node does not run on this machine (a missing library, such as libatomic1, must be installed): ${error.message}`)
  }
}
