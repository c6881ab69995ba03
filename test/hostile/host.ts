/**
 * What the machine looks like from outside while the attacks run: processes, containers, mounts, and what our own process holds.
 * Only what belongs to this deployment is judged, since a machine runs other things too.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { uidOf } from '../../src/sandbox/spec.ts'
import type { Deployment } from '../support/deployment.ts'
import { containersOf, docker } from '../support/docker.ts'

export interface HostState {
  /** Processes of the deployment that are in none of its containers, as `pid name`. */
  readonly strays: readonly string[]
  readonly sandboxes: readonly { readonly id: string; readonly name: string; readonly state: string }[]
  readonly others: readonly string[]
  /** Mount points of containers that are gone. */
  readonly staleMounts: readonly string[]
  /** Mounts that mention the deployment's directories. */
  readonly ownMounts: number
  readonly openFiles: number
  readonly residentMib: number
  readonly dataMib: number
  /** Directories of sandboxes in the run directory. */
  readonly rendezvous: number
}

export interface HostLimits {
  readonly sandboxes: number
  /** The container of the victim: it must stay the one it was. */
  readonly victim: string
}

/**
 * What may grow, and by how much. Files: a victim that has to wait opens up to 64 connections, which stay for the next time, and as many
 * are then opened to its worker. Memory: buffers, which V8 does not hurry to give back. Data: stored code and the database's log.
 */
const MORE = { openFiles: 150, residentMib: 300, dataMib: 48 } as const
/** Of a sandbox with all its workers: four idle connections for each of twelve, the control connection and the listener. */
const FILES_PER_SANDBOX = 50

function text(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    // Gone between the listing and the look.
    return ''
  }
}

function sizeOf(directory: string): number {
  let bytes = 0
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += statSync(path.join(entry.parentPath, entry.name), { throwIfNoEntry: false })?.size ?? 0
  }
  return bytes
}

export interface Host {
  look(): Promise<HostState>
  /** Processor time of the whole machine, of this deployment and of this process, all since they began (ms). */
  processorMs(): { readonly all: number; readonly ours: number }
  /** Processor time of one container since it began (ms). */
  containerMs(container: string): number
}

export function watchHost(deployment: Deployment): Host {
  const pid = deployment.process.pid!
  /** Our block of uids: nobody else on the machine has these. */
  const firstUid = uidOf(deployment.id, 0)
  const lastUid = uidOf(deployment.id, 16_383)
  const mountsOf = new Map<string, readonly string[]>()
  let known: readonly string[] = []

  function strays(containers: readonly string[]): string[] {
    const found: string[] = []
    for (const name of readdirSync('/proc')) {
      if (!/^\d+$/.test(name)) continue
      const status = text(`/proc/${name}/status`)
      const [, uid = 0] = /^Uid:\s+(\d+)/m.exec(status) ?? []
      const [, parent = 0] = /^PPid:\s+(\d+)/m.exec(status) ?? []
      const isOurs = (Number(uid) >= firstUid && Number(uid) <= lastUid) || Number(parent) === pid
      if (!isOurs) continue
      const group = text(`/proc/${name}/cgroup`)
      // Neither a process that ended while we looked, nor one whose corpse is yet to be collected.
      if (group === '' || /^State:\s+[ZX]/m.test(status)) continue
      if (!containers.some((id) => group.includes(id))) found.push(`${name} ${/^Name:\s+(.*)$/m.exec(status)?.[1]}`)
    }
    return found
  }

  async function mounts(containers: readonly string[]): Promise<{ stale: string[]; own: number }> {
    for (const id of containers) {
      if (mountsOf.has(id)) continue
      const about = await docker
        .getContainer(id)
        .inspect()
        .catch(() => undefined)
      if (about === undefined) continue
      const { MergedDir } = about.GraphDriver.Data as unknown as { MergedDir?: string }
      mountsOf.set(
        id,
        [MergedDir ?? '', about.NetworkSettings.SandboxKey].filter((point) => point !== ''),
      )
    }
    const table = text('/proc/self/mountinfo').split('\n')
    const points = new Set(table.map((line) => line.split(' ')[4]))
    const gone = [...mountsOf].filter(([id]) => !containers.includes(id)).flatMap(([, at]) => at)
    return {
      stale: gone.filter((point) => points.has(point)),
      own: table.filter((line) => line.includes(deployment.runDir) || line.includes(deployment.dataDir)).length,
    }
  }

  return {
    async look() {
      const listed = await containersOf(deployment.id)
      const ids = listed.map(({ Id }) => Id)
      known = ids
      const { stale, own } = await mounts(ids)
      return {
        strays: strays(ids),
        sandboxes: listed
          .filter(({ Labels }) => Labels['webtask.part'] === 'sandbox')
          .map(({ Id, Names, State }) => ({ id: Id, name: Names[0] ?? '', state: State })),
        others: listed.filter(({ Labels }) => Labels['webtask.part'] !== 'sandbox').map(({ Names, State }) => `${Names[0]} ${State}`),
        staleMounts: stale,
        ownMounts: own,
        openFiles: readdirSync(`/proc/${pid}/fd`).length,
        residentMib: Math.round((Number(text(`/proc/${pid}/statm`).split(' ')[1]) * 4096) / 2 ** 20),
        dataMib: Math.round(sizeOf(deployment.dataDir) / 2 ** 20),
        rendezvous: readdirSync(path.join(deployment.runDir, 's')).length,
      }
    },
    processorMs() {
      // Of the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq; in hundredths of a second.
      const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = text('/proc/stat').split('\n', 1)[0]!.split(/\s+/).slice(1).map(Number)
      const fields = text(`/proc/${pid}/stat`).split(') ').at(-1)!.split(' ')
      const runtime = 10 * (Number(fields[11]) + Number(fields[12]))
      const own = process.cpuUsage()
      return {
        all: 10 * (user + nice + system + irq + softirq),
        ours: runtime + (own.user + own.system) / 1000 + known.reduce((sum, id) => sum + containerMs(id), 0),
      }
    },
    containerMs,
  }
}

/** Where cgroups of either version show it. */
function containerMs(container: string): number {
  const v1 = text(`/sys/fs/cgroup/cpuacct/docker/${container}/cpuacct.usage`)
  if (v1 !== '') return Number(v1) / 1e6
  const v2 = text(`/sys/fs/cgroup/system.slice/docker-${container}.scope/cpu.stat`) || text(`/sys/fs/cgroup/docker/${container}/cpu.stat`)
  return Number(/^usage_usec (\d+)$/m.exec(v2)?.[1] ?? 0) / 1000
}

/** What the host feels of an attack: every difference to before that is no matter of course. */
export function complaints(before: HostState, now: HostState, limits: HostLimits): string[] {
  const found: string[] = []
  const complain = (what: string | false) => what !== false && found.push(what)
  complain(now.strays.length > 0 && `processes outside the containers: ${now.strays.join(', ')}`)
  const odd = now.sandboxes.filter(({ state }) => state !== 'running' && state !== 'paused')
  complain(odd.length > 0 && `containers left behind: ${odd.map(({ name, state }) => `${name} ${state}`).join(', ')}`)
  complain(now.sandboxes.length > limits.sandboxes && `${now.sandboxes.length} sandboxes, ${limits.sandboxes} expected`)
  complain(!now.sandboxes.some(({ id, state }) => id === limits.victim && state === 'running') && `the victim's container is not what it was`)
  complain(now.others.join() !== before.others.join() && `other containers: ${now.others.join()}`)
  complain(now.staleMounts.length > 0 && `mounts left behind: ${now.staleMounts.join(', ')}`)
  complain(now.ownMounts !== before.ownMounts && `${now.ownMounts} mounts, ${before.ownMounts} before`)
  complain(now.rendezvous > now.sandboxes.length && `${now.rendezvous} rendezvous directories for ${now.sandboxes.length} sandboxes`)
  for (const [what, least] of Object.entries(MORE) as [keyof typeof MORE, number][]) {
    const more = least + (what === 'openFiles' ? FILES_PER_SANDBOX * now.sandboxes.length : 0)
    complain(now[what] > before[what] + more && `${what} grew from ${before[what]} to ${now[what]}`)
  }
  return found
}
