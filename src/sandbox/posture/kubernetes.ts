import { type Control, eachProcess, isGvisor, securityOpt, when } from './control.ts'

/** What the profile "restricted" allows to be set; none is needed. */
const SAFE_SYSCTLS = new Set([
  'kernel.shm_rmid_forced',
  'net.ipv4.ip_local_port_range',
  'net.ipv4.ip_unprivileged_port_start',
  'net.ipv4.tcp_syncookies',
  'net.ipv4.ping_group_range',
  'net.ipv4.ip_local_reserved_ports',
  'net.ipv4.tcp_keepalive_time',
  'net.ipv4.tcp_fin_timeout',
  'net.ipv4.tcp_keepalive_intvl',
  'net.ipv4.tcp_keepalive_probes',
])
const CAPABILITY_SETS = ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'] as const

/** Kubernetes' Pod Security Standards, the profile "restricted" with what it takes over from "baseline", in the words of an engine's container. */
export const KUBERNETES: readonly Control[] = [
  {
    id: 'PSS baseline: host namespaces',
    title: 'No namespace is shared with the machine or another container',
    wrong(facts) {
      const { NetworkMode, PidMode, IpcMode, UTSMode, CgroupnsMode } = facts.inspected.HostConfig
      const shared = Object.entries({ NetworkMode, PidMode, IpcMode, UTSMode, CgroupnsMode })
        .filter(([, mode]) => mode === 'host' || mode.startsWith('container:'))
        .map(([name, mode]) => `${name} is "${mode}"`)
      // gVisor's kernel counts processes and cgroups itself, so those of the machine are not within its reach anyway.
      const kinds = isGvisor(facts) ? ['mnt', 'net', 'ipc', 'uts', 'user'] : ['mnt', 'net', 'ipc', 'uts', 'pid', 'cgroup']
      return [
        ...shared,
        ...eachProcess(facts, ({ namespaces }) =>
          kinds.flatMap((kind) =>
            when(namespaces[kind] === undefined || namespaces[kind] === facts.host.namespaces[kind], `its ${kind} namespace is the machine's`),
          ),
        ),
      ]
    },
  },
  {
    id: 'PSS baseline: privileged containers',
    title: 'The container is not privileged',
    wrong: ({ inspected }) => when(inspected.HostConfig.Privileged, 'Privileged is set'),
  },
  {
    id: 'PSS restricted: capabilities',
    title: 'All capabilities are dropped, none is added, no process has one',
    wrong(facts) {
      const { CapAdd, CapDrop } = facts.inspected.HostConfig
      return [
        ...when(!CapDrop.includes('ALL'), 'CapDrop lacks ALL'),
        ...when(CapAdd.length > 0, `CapAdd has ${CapAdd.join(', ')}`),
        // gVisor has some, in a user namespace of its own where they reach nothing of the machine.
        ...(isGvisor(facts)
          ? []
          : eachProcess(facts, ({ status }) =>
              CAPABILITY_SETS.flatMap((set) => when(!/^0+$/.test(status[set] ?? ''), `${set} is ${status[set] ?? 'unknown'}`)),
            )),
      ]
    },
  },
  {
    id: 'PSS baseline: HostPath volumes',
    title: 'No directory of the machine is mounted',
    wrong: ({ inspected }) =>
      inspected.Mounts.filter((mount) => mount.Type === 'bind').map(
        (mount) => `${mount.Source} at ${mount.Destination}, ${mount.RW ? 'writable' : 'read-only'}`,
      ),
  },
  {
    id: 'PSS restricted: volume types',
    title: 'Nothing but temporary memory is mounted',
    wrong: ({ inspected }) => [
      ...inspected.Mounts.filter((mount) => mount.Type !== 'tmpfs').map((mount) => `${mount.Type} at ${mount.Destination}`),
      ...inspected.HostConfig.VolumesFrom.map((name) => `volumes of ${name}`),
    ],
  },
  {
    id: 'PSS baseline: host ports',
    title: 'No port of the machine leads in',
    wrong: ({ inspected }) => [
      ...Object.keys(inspected.HostConfig.PortBindings).map((port) => `port ${port} is bound`),
      ...when(inspected.HostConfig.PublishAllPorts, 'PublishAllPorts is set'),
    ],
  },
  {
    id: 'PSS baseline: host probes and lifecycle hooks',
    title: 'Nothing is probed at an address, and no hook runs',
    wrong: ({ inspected }) =>
      when(inspected.Config.Healthcheck != null && inspected.Config.Healthcheck.Test[0] !== 'NONE', 'a health check runs programs inside'),
  },
  {
    id: 'PSS baseline: AppArmor',
    title: 'AppArmor is not switched off',
    wrong: ({ inspected }) =>
      when(inspected.AppArmorProfile === 'unconfined' || securityOpt(inspected, 'apparmor') === 'unconfined', 'AppArmor is unconfined'),
  },
  {
    id: 'PSS baseline: SELinux',
    title: 'No SELinux label is chosen or switched off',
    wrong: ({ inspected }) =>
      inspected.HostConfig.SecurityOpt.filter((option) => /^label[=:]/.test(option)).map((option) => `SecurityOpt has "${option}"`),
  },
  {
    id: 'PSS baseline: /proc mount type',
    title: 'The default parts of /proc are masked or read-only',
    wrong: ({ inspected }) => [
      ...when(securityOpt(inspected, 'systempaths') === 'unconfined', 'system paths are unconfined'),
      ...['/proc/kcore', '/proc/keys', '/proc/timer_list', '/sys/firmware'].flatMap((path) =>
        when(!inspected.HostConfig.MaskedPaths.includes(path), `${path} is not masked`),
      ),
      ...['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'].flatMap((path) =>
        when(!inspected.HostConfig.ReadonlyPaths.includes(path), `${path} is not read-only`),
      ),
    ],
  },
  {
    id: 'PSS baseline: sysctls',
    title: 'No kernel setting is changed',
    wrong: ({ inspected }) =>
      Object.keys(inspected.HostConfig.Sysctls)
        .filter((name) => !SAFE_SYSCTLS.has(name))
        .map((name) => `sysctl ${name}`),
  },
  {
    id: 'PSS restricted: privilege escalation',
    title: 'No process can gain privileges',
    wrong: (facts) => [
      ...when(!['true', ''].includes(securityOpt(facts.inspected, 'no-new-privileges') ?? 'absent'), 'no-new-privileges is not asked for'),
      ...eachProcess(facts, ({ status }) => when(status.NoNewPrivs !== '1', `NoNewPrivs is ${status.NoNewPrivs ?? 'unknown'}`)),
    ],
  },
  {
    id: 'PSS restricted: running as non-root',
    title: 'The user and the group are numbers other than 0, alive and by configuration',
    wrong(facts) {
      const [, uid, gid] = /^([1-9]\d*):([1-9]\d*)$/.exec(facts.inspected.Config.User) ?? []
      if (uid === undefined || gid === undefined) return [`User is "${facts.inspected.Config.User}"`]
      if (isGvisor(facts)) return []
      return eachProcess(facts, ({ status }) => [
        ...when(status.Uid !== Array(4).fill(uid).join('\t'), `its uids are ${status.Uid ?? 'unknown'}`),
        ...when(status.Gid !== Array(4).fill(gid).join('\t'), `its gids are ${status.Gid ?? 'unknown'}`),
      ])
    },
  },
  {
    id: 'PSS restricted: seccomp',
    title: 'System calls are filtered',
    wrong: (facts) => [
      ...when((securityOpt(facts.inspected, 'seccomp') ?? 'unconfined') === 'unconfined', 'no seccomp profile is asked for'),
      ...eachProcess(facts, ({ status }) => when(status.Seccomp !== '2', `Seccomp is ${status.Seccomp ?? 'unknown'}`)),
    ],
  },
]
