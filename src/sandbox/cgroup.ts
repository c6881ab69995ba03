import { readFile } from 'node:fs/promises'
import path from 'node:path'

const ROOT = '/sys/fs/cgroup'
/** Where engines put a container's group: by their own driver, and by systemd's. */
const groupsOf = (container: string): readonly string[] => [`docker/${container}`, `system.slice/docker-${container}.scope`]
/** The first layout that answers is remembered: a machine does not change it. */
let known: ((container: string) => string) | undefined

/** Every place where the kernel may count a container's processor time: cgroup v2, and v1 under the names of its controller. */
function* places(): Generator<(container: string) => string> {
  for (const group of [0, 1]) {
    yield (container) => path.join(ROOT, groupsOf(container)[group]!, 'cpu.stat')
    for (const controller of ['cpuacct', 'cpu,cpuacct'])
      yield (container) => path.join(ROOT, controller, groupsOf(container)[group]!, 'cpuacct.usage')
  }
}

/** Reads what `cpu.stat` (v2, microseconds) or `cpuacct.usage` (v1, nanoseconds) holds. */
function parseCpuNanos(text: string): number | undefined {
  const micros = /^usage_usec (\d+)$/m.exec(text)?.[1]
  if (micros !== undefined) return Number(micros) * 1000
  return /^\d+\s*$/.test(text) ? Number(text) : undefined
}

/** Nanoseconds of processor time of a container, from the kernel's own count: a file read instead of a question to the engine. Undefined where it is not visible. */
export async function cgroupCpuNanos(container: string): Promise<number | undefined> {
  for (const place of known === undefined ? places() : [known]) {
    const text = await readFile(place(container), 'utf8').catch(() => undefined)
    if (text === undefined) continue
    known = place
    return parseCpuNanos(text)
  }
  return undefined
}
