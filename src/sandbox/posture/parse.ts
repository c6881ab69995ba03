import type { CgroupFacts, MountPoint } from './facts.ts'

/** The texts of a cgroup's files, of whichever version there are. Absent files are undefined. */
export type CgroupFiles = Readonly<Record<string, string | undefined>>

export const CGROUP_V1 = {
  memory: ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'],
  pids: ['pids.max'],
  cpu: ['cpu.cfs_quota_us', 'cpu.cfs_period_us'],
} as const
export const CGROUP_V2 = ['memory.max', 'memory.swap.max', 'pids.max', 'cpu.max'] as const

/** Fields of /proc/<pid>/status. */
export function parseStatus(text: string): Record<string, string> {
  return Object.fromEntries([...text.matchAll(/^(\w+):[ \t]*(.*?)\s*$/gm)].map((match) => [match[1]!, match[2]!]))
}

/** Rows of /proc/<pid>/limits by their names. */
export function parseLimits(text: string): Record<string, { soft: number; hard: number }> {
  const value = (word: string) => (word === 'unlimited' ? Infinity : Number(word))
  return Object.fromEntries(
    [...text.matchAll(/^Max (.+?) {2,}(\S+) +(\S+)/gm)].map((match) => [match[1]!, { soft: value(match[2]!), hard: value(match[3]!) }]),
  )
}

/** Lines of /proc/<pid>/mountinfo, in their order: a later mount on the same place covers an earlier one. */
export function parseMounts(text: string): MountPoint[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const words = line.split(' ')
      const dash = words.indexOf('-', 6)
      return {
        // The kernel writes spaces and the like as octal numbers.
        root: unescape(words[3]!),
        target: unescape(words[4]!),
        type: words[dash + 1]!,
        options: new Set(words[5]!.split(',')),
        superOptions: new Set(words[dash + 3]!.split(',')),
      }
    })
}

function unescape(word: string): string {
  return word.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))
}

/** Where a process's cgroup has its files: controller → path below its root. Version 2 has one place, without a name. */
export function parseCgroupPaths(
  text: string,
): { version: 1; paths: Record<string, { mount: string; path: string }> } | { version: 2; path: string } {
  const lines = text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
      return { controllers, path }
    })
  const old = lines.filter(({ controllers }) => controllers !== '' && !controllers.startsWith('name='))
  if (!old.some(({ controllers }) => controllers.split(',').includes('memory')))
    return { version: 2, path: lines.find(({ controllers }) => controllers === '')?.path ?? '' }
  return {
    version: 1,
    paths: Object.fromEntries(old.flatMap(({ controllers, path }) => controllers.split(',').map((name) => [name, { mount: controllers, path }]))),
  }
}

/** Version 1 says "no limit" by a number beyond every machine. */
const HUGE = 2 ** 60

/** What is enforced, from the cgroup's files; a file that is not there enforces nothing. */
export function parseCgroup(version: 1 | 2, files: CgroupFiles): CgroupFacts {
  const number = (name: string) => {
    const text = files[name]?.trim()
    return text === undefined || !/^\d+$/.test(text) || Number(text) >= HUGE ? Infinity : Number(text)
  }
  if (version === 1) {
    const memoryBytes = number('memory.limit_in_bytes')
    // The second counts memory too.
    const both = number('memory.memsw.limit_in_bytes')
    return {
      version,
      memoryBytes,
      swapBytes: both === Infinity ? Infinity : both - memoryBytes,
      pids: number('pids.max'),
      cpus: number('cpu.cfs_quota_us') / number('cpu.cfs_period_us') || Infinity,
    }
  }
  const [quota, period] = (files['cpu.max'] ?? 'max 100000').trim().split(' ')
  return {
    version,
    memoryBytes: number('memory.max'),
    swapBytes: number('memory.swap.max'),
    pids: number('pids.max'),
    cpus: quota === 'max' ? Infinity : Number(quota) / Number(period),
  }
}
