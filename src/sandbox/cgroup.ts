import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'

const ROOT = '/sys/fs/cgroup'
/** Where engines put a container's group: by their own driver, and by systemd's. */
const groupsOf = (container: string): readonly string[] => [`docker/${container}`, `system.slice/docker-${container}.scope`]

type Place = (container: string) => string

/** Every place where the kernel may keep a file of a container's group under cgroup v2 … */
const v2 = (file: string): Place[] => [0, 1].map((group) => (container) => path.join(ROOT, groupsOf(container)[group]!, file))

/** … and under v1, where each controller has a tree of its own. */
const v1 = (controllers: readonly string[], file: string): Place[] =>
  controllers.flatMap((controller) =>
    [0, 1].map(
      (group): Place =>
        (container) =>
          path.join(ROOT, controller, groupsOf(container)[group]!, file),
    ),
  )

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
export const cgroupCpuNanos = createReader([...v2('cpu.stat'), ...v1(['cpuacct', 'cpu,cpuacct'], 'cpuacct.usage')], parseCpuNanos)

/** Bytes of memory that a container holds. Undefined where it is not visible. */
export const cgroupMemoryBytes = createReader([...v2('memory.stat'), ...v1(['memory'], 'memory.stat')], parseMemoryBytes)

/** v1 has no such file, but may stand beside a v2 that counts nothing; else its processes are killed one by one, once they are thawed. */
const KILL = [...v2('cgroup.kill'), ...v1(['unified'], 'cgroup.kill')]
const THAW = v1(['freezer'], 'freezer.state')
const MEMBERS = v1(['freezer', 'memory'], 'cgroup.procs')
/** Processes that fork while they are killed are found again so many times. */
const SWEEPS = 20

/**
 * Kills every process of a container through the kernel, which answers when the engine does not. Does nothing where the groups are not
 * visible or not ours to write.
 */
export async function killGroup(container: string): Promise<void> {
  const write = (places: readonly Place[], text: string) =>
    Promise.all(
      places.map((place) =>
        writeFile(place(container), text, { flag: 'r+' }).then(
          () => true,
          () => false,
        ),
      ),
    )
  await write(THAW, 'THAWED')
  if ((await write(KILL, '1')).includes(true)) return
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const texts = await Promise.all(MEMBERS.map((place) => readFile(place(container), 'utf8').catch(() => '')))
    // 0 stands for one that another namespace of processes hides from us; as a target it would be ourselves.
    const members = new Set(
      texts
        .join('\n')
        .split('\n')
        .map(Number)
        .filter((pid) => pid > 1),
    )
    if (members.size === 0) return
    for (const pid of members) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // Gone by itself.
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
