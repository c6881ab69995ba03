import { readFile } from 'node:fs/promises'
import path from 'node:path'

const ROOT = '/sys/fs/cgroup'
/** Where engines put a container's group: by their own driver, and by systemd's. */
const groupsOf = (container: string): readonly string[] => [`docker/${container}`, `system.slice/docker-${container}.scope`]

type Place = (container: string) => string

/** Every place where the kernel may keep a file of a container's group: cgroup v2, and v1 under the names of its controller. */
function placesOf(v2: string, v1: { readonly controllers: readonly string[]; readonly file: string }): Place[] {
  return [0, 1].flatMap((group): Place[] => [
    (container) => path.join(ROOT, groupsOf(container)[group]!, v2),
    ...v1.controllers.map(
      (controller): Place =>
        (container) =>
          path.join(ROOT, controller, groupsOf(container)[group]!, v1.file),
    ),
  ])
}

/** Reads from the first layout that answers, which is remembered: a machine does not change it. */
function createReader(places: readonly Place[], parse: (text: string) => number | undefined): (container: string) => Promise<number | undefined> {
  let known: Place | undefined
  return async (container) => {
    for (const place of known === undefined ? places : [known]) {
      const text = await readFile(place(container), 'utf8').catch(() => undefined)
      if (text === undefined) continue
      known = place
      return parse(text)
    }
    return undefined
  }
}

/** Reads what `cpu.stat` (v2, microseconds) or `cpuacct.usage` (v1, nanoseconds) holds. */
export function parseCpuNanos(text: string): number | undefined {
  const micros = /^usage_usec (\d+)$/m.exec(text)?.[1]
  if (micros !== undefined) return Number(micros) * 1000
  return /^\d+\s*$/.test(text) ? Number(text) : undefined
}

/** Reads of `memory.stat` what cannot be dropped: memory of processes, and files in memory. v1 tells it for the whole group as `total_…`. */
export function parseMemoryBytes(text: string): number | undefined {
  const field = (...names: string[]) => names.map((name) => new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]).find((value) => value !== undefined)
  const anonymous = field('total_rss', 'anon')
  return anonymous === undefined ? undefined : Number(anonymous) + Number(field('total_shmem', 'shmem') ?? 0)
}

/** Nanoseconds of processor time of a container, from the kernel's own count: a file read instead of a question to the engine. Undefined where it is not visible. */
export const cgroupCpuNanos = createReader(placesOf('cpu.stat', { controllers: ['cpuacct', 'cpu,cpuacct'], file: 'cpuacct.usage' }), parseCpuNanos)

/** Bytes of memory that a container holds. Undefined where it is not visible. */
export const cgroupMemoryBytes = createReader(placesOf('memory.stat', { controllers: ['memory'], file: 'memory.stat' }), parseMemoryBytes)
