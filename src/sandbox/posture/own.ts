import { SECCOMP_PROFILE } from '../seccomp.ts'
import { type Control, eachProcess, isGvisor, mountAt, onlySockets, securityOpt, when, SOCKET_DIRS } from './control.ts'

/** Names of `Ulimits` → rows of /proc/<pid>/limits. */
const LIMIT_ROWS: Readonly<Record<string, string>> = {
  core: 'core file size',
  nofile: 'open files',
  fsize: 'file size',
  memlock: 'locked memory',
  sigpending: 'pending signals',
  msgqueue: 'msgqueue size',
}
/** Everything that is mounted writable: the code may write only /tmp, the rest belongs to root. */
const WRITABLE = new Set(['/proc', '/dev', '/dev/pts', '/dev/mqueue', '/sys/fs/cgroup', '/tmp'])
const PUBLIC_ENV = new Set(['NODE_ENV', 'HOME', 'TZ', 'PATH', 'HOSTNAME'])

/** What neither benchmark asks for and `spec.ts` promises. */
export const OWN: readonly Control[] = [
  {
    id: 'webtask 1',
    title: 'The seccomp profile is ours, alone, on every process',
    wrong: (facts) => [
      ...when(securityOpt(facts.inspected, 'seccomp') !== SECCOMP_PROFILE, 'the profile is another'),
      ...eachProcess(facts, ({ status }) => when(status.Seccomp !== '2', `Seccomp is ${status.Seccomp ?? 'unknown'}`)),
    ],
  },
  {
    id: 'webtask 2',
    title: "Its uid is nobody else's on the engine",
    wrong: ({ inspected, host }) => when(host.otherUsers.includes(inspected.Config.User), `${inspected.Config.User} is used by another container`),
  },
  {
    id: 'webtask 3',
    title: 'Root within a sandbox would not be root outside: user namespaces are remapped',
    wrong: (facts) =>
      when(!isGvisor(facts) && !facts.host.securityOptions.some((option) => option.includes('userns')), 'uids are those of the machine'),
  },
  {
    id: 'webtask 4',
    title: 'No network but a loopback, no shared memory, a cgroup namespace of its own',
    wrong: ({ inspected: { HostConfig } }) => [
      ...when(HostConfig.NetworkMode !== 'none', `NetworkMode is "${HostConfig.NetworkMode}"`),
      ...when(HostConfig.IpcMode !== 'none', `IpcMode is "${HostConfig.IpcMode}"`),
      ...when(HostConfig.CgroupnsMode !== 'private', `CgroupnsMode is "${HostConfig.CgroupnsMode}"`),
    ],
  },
  {
    id: 'webtask 5',
    title: 'Two mounts, the read-only directories of its sockets, by configuration and alive',
    wrong: (facts) => [
      ...when(!onlySockets(facts), `mounts are ${facts.inspected.Mounts.map((mount) => mount.Destination).join(', ')}`),
      ...(isGvisor(facts)
        ? []
        : eachProcess(facts, (process) => SOCKET_DIRS.flatMap((each) => when(!mountAt(process, each)?.options.has('ro'), `${each} is writable`)))),
    ],
  },
  {
    id: 'webtask 6',
    title: 'Only /tmp can be written: small, few files, nothing executable',
    wrong(facts) {
      const asked = Object.entries(facts.inspected.HostConfig.Tmpfs)
      const wanted = ['noexec', 'nosuid', 'nodev'] as const
      return [
        ...when(asked.length !== 1 || asked[0]![0] !== '/tmp', `temporary file systems at ${asked.map(([target]) => target).join(', ')}`),
        ...asked.flatMap(([, options]) =>
          [...wanted, 'size=', 'nr_inodes='].flatMap((option) =>
            when(!options.split(',').some((word) => word.startsWith(option)), `/tmp lacks ${option}`),
          ),
        ),
        ...(isGvisor(facts)
          ? []
          : eachProcess(facts, (process) => {
              const tmp = mountAt(process, '/tmp')
              return [
                ...wanted.flatMap((option) => when(!tmp?.options.has(option), `/tmp is not ${option}`)),
                ...['size=', 'nr_inodes='].flatMap((option) =>
                  when(![...(tmp?.superOptions ?? [])].some((word) => word.startsWith(option)), `/tmp has no ${option}`),
                ),
                ...process.mounts
                  .filter(
                    ({ target, options, root }) => options.has('rw') && !WRITABLE.has(target) && !(root === '/null' && target.startsWith('/proc/')),
                  )
                  .map(({ target }) => `${target} is mounted writable`),
              ]
            })),
      ]
    },
  },
  {
    id: 'webtask 7',
    title: 'No swap: secrets stay in memory, and running out is prompt',
    wrong: ({ inspected: { HostConfig }, cgroup }) => [
      ...when(HostConfig.MemorySwap !== HostConfig.Memory, 'MemorySwap differs from Memory'),
      ...when(cgroup.swapBytes !== 0, `the kernel allows ${cgroup.swapBytes} bytes of swap`),
      ...when(HostConfig.OomKillDisable, 'running out of memory does not kill'),
    ],
  },
  {
    id: 'webtask 8',
    title: 'The limits of processes are in force',
    wrong(facts) {
      const { Ulimits, OomScoreAdj } = facts.inspected.HostConfig
      return [
        ...Object.keys(LIMIT_ROWS).flatMap((name) => when(!Ulimits.some((limit) => limit.Name === name), `no limit of ${name}`)),
        ...eachProcess(facts, ({ pid, limits, oomScoreAdj }) => [
          // gVisor keeps those of the code itself, and its first process holds the memory of them all.
          ...(isGvisor(facts)
            ? []
            : Ulimits.flatMap(({ Name, Hard }) => {
                const hard = limits[LIMIT_ROWS[Name] ?? '']?.hard
                return when(hard !== Hard, `its limit of ${Name} is ${hard ?? 'unknown'}, not ${Hard}`)
              })),
          ...when(
            (oomScoreAdj < OomScoreAdj || OomScoreAdj <= 0) && (!isGvisor(facts) || pid === facts.inspected.State.Pid),
            `it is not the first to go when the machine is out of memory: ${oomScoreAdj}`,
          ),
        ]),
      ]
    },
  },
  {
    id: 'webtask 9',
    title: 'An init process, no terminal, no engine log, no restart, none but public variables',
    wrong: ({ inspected: { HostConfig, Config } }) => [
      ...when(!HostConfig.Init, 'no init process'),
      ...when(Config.Tty, 'it has a terminal'),
      ...when(HostConfig.LogConfig.Type !== 'none', `its output goes to "${HostConfig.LogConfig.Type}"`),
      ...when(HostConfig.RestartPolicy.Name !== 'no', `it restarts "${HostConfig.RestartPolicy.Name}"`),
      ...when(HostConfig.GroupAdd.length > 0, 'it is in more groups'),
      ...Config.Env.map((variable) => variable.split('=')[0]!)
        .filter((name) => !PUBLIC_ENV.has(name))
        .map((name) => `it has the variable ${name}`),
    ],
  },
]
