import { readdir, readFile, readlink } from 'node:fs/promises'
import path from 'node:path'
import type { CgroupFacts, ProcessFacts } from './facts.ts'
import { CGROUP_V1, CGROUP_V2, parseCgroup, parseCgroupPaths, parseLimits, parseMounts, parseStatus } from './parse.ts'

const CGROUPS = '/sys/fs/cgroup'
const KINDS = ['mnt', 'net', 'ipc', 'uts', 'pid', 'user', 'cgroup'] as const

/** The namespaces of a process; `self` is this one, which must run on the machine itself. Throws where they may not be seen. */
export async function readNamespaces(pid: number | 'self'): Promise<Record<string, string>> {
  return Object.fromEntries(await Promise.all(KINDS.map(async (kind) => [kind, await readlink(`/proc/${pid}/ns/${kind}`)] as const)))
}

async function readProcess(pid: number): Promise<ProcessFacts> {
  const file = (name: string) => readFile(`/proc/${pid}/${name}`, 'utf8')
  const [status, limits, mounts, comm, oom, namespaces] = await Promise.all([
    file('status'),
    file('limits'),
    file('mountinfo'),
    file('comm'),
    file('oom_score_adj'),
    readNamespaces(pid),
  ])
  return {
    pid,
    name: comm.trim(),
    status: parseStatus(status),
    limits: parseLimits(limits),
    mounts: parseMounts(mounts),
    namespaces,
    oomScoreAdj: Number(oom),
  }
}

/** One cgroup's directories: those of each controller (version 1), or the one (version 2). */
async function cgroupOf(pid: number): Promise<{ version: 1 | 2; directory: (controller: string) => string }> {
  const found = parseCgroupPaths(await readFile(`/proc/${pid}/cgroup`, 'utf8'))
  if (found.version === 2) return { version: 2, directory: () => path.join(CGROUPS, found.path) }
  return {
    version: 1,
    directory: (controller) => path.join(CGROUPS, found.paths[controller]?.mount ?? controller, found.paths[controller]?.path ?? ''),
  }
}

/** Process ids in the cgroup and below it, where gVisor and systemd keep theirs. */
async function pidsIn(directory: string): Promise<number[]> {
  const own = (await readFile(path.join(directory, 'cgroup.procs'), 'utf8')).split('\n').filter(Boolean).map(Number)
  const below = (await readdir(directory, { withFileTypes: true })).filter((entry) => entry.isDirectory())
  return [...own, ...(await Promise.all(below.map((entry) => pidsIn(path.join(directory, entry.name))))).flat()]
}

/** Everything that the machine's kernel says of a running container, whose first process is `pid`. Processes that end meanwhile are left out. */
export async function readLive(pid: number): Promise<{ processes: ProcessFacts[]; cgroup: CgroupFacts }> {
  const { version, directory } = await cgroupOf(pid)
  const files: Record<string, string | undefined> = {}
  const wanted =
    version === 2
      ? CGROUP_V2.map((name) => ['', name] as const)
      : Object.entries(CGROUP_V1).flatMap(([at, names]) => names.map((name) => [at, name] as const))
  for (const [controller, name] of wanted) files[name] = await readFile(path.join(directory(controller), name), 'utf8').catch(() => undefined)
  const pids = await pidsIn(directory('pids'))
  const read = await Promise.all(pids.map((each) => readProcess(each).catch((error: NodeJS.ErrnoException) => gone(error))))
  return { processes: read.filter((process) => process !== undefined), cgroup: parseCgroup(version, files) }
}

function gone(error: NodeJS.ErrnoException): undefined {
  // ENODEV is a cgroup's word for it.
  if (error.code === 'ENOENT' || error.code === 'ESRCH' || error.code === 'ENODEV') return undefined
  throw error
}
