import type { ContainerDriver } from '../driver.ts'
import { LABEL } from '../spec.ts'
import { parseInspected, type Inspected } from './facts.ts'
import { judge } from './judge.ts'
import { readLive, readNamespaces } from './read.ts'
import type { Judged } from './report.ts'

/**
 * Judges every running sandbox of a deployment, or of all of them. Reads the machine's /proc and cgroups, so it must run
 * as root on the machine of the engine; throws Error where it does not. A sandbox that ends meanwhile is left out.
 */
export async function auditSandboxes(driver: ContainerDriver, deployment?: string): Promise<Judged[]> {
  const { securityOptions, swarm } = await driver.info()
  const all = (await driver.list()).filter(({ running }) => running)
  const known = new Map<string, Inspected>()
  for (const { id } of all) {
    const answer = await driver.inspect(id)
    if (answer !== undefined) known.set(id, parseInspected(answer))
  }
  const sandboxes = all.filter(
    ({ labels }) => labels[LABEL.part] === 'sandbox' && (deployment === undefined || labels[LABEL.deployment] === deployment),
  )
  const namespaces = await readNamespaces('self')
  const judged: Judged[] = []
  for (const { id } of sandboxes) {
    const inspected = known.get(id)
    if (inspected === undefined || inspected.State.Pid === 0) continue
    const live = await readLive(inspected.State.Pid).catch((error: NodeJS.ErrnoException) => unseen(error))
    // It ended meanwhile, or this is not its machine: the engine knows which.
    if (live === undefined && (await driver.inspect(id)) === undefined) continue
    if (live === undefined) throw new Error('The processes of the sandboxes cannot be seen: run this as root on the machine where the engine runs')
    const otherUsers = [...known].filter(([other]) => other !== id).map(([, { Config }]) => Config.User)
    const host = { namespaces, securityOptions, swarm, otherUsers }
    judged.push({
      sandbox: id,
      name: inspected.Name.replace(/^\//, ''),
      runtime: inspected.HostConfig.Runtime,
      findings: judge({ inspected, ...live, host }),
    })
  }
  return judged
}

function unseen(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ESRCH' || error.code === 'ENODEV' || error.code === 'EACCES' || error.code === 'EPERM')
    return undefined
  throw error
}
