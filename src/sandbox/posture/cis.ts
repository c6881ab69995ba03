import { type Control, eachProcess, isGvisor, mountAt, securityOpt, when } from './control.ts'

/** Directories that give away or change the machine. */
const SENSITIVE = ['/', '/boot', '/dev', '/etc', '/lib', '/proc', '/sys', '/usr', '/var/lib/docker']
const LIMITED = ['core', 'nofile', 'fsize', 'memlock'] as const

/** The CIS Docker benchmark, section 5 "container runtime", by its numbers. */
export const CIS: readonly Control[] = [
  { id: 'CIS 5.1', title: 'Swarm mode is off', wrong: ({ host }) => when(host.swarm, 'the engine is in a swarm') },
  {
    id: 'CIS 5.2',
    title: 'An AppArmor profile is on',
    wrong: ({ inspected }) => when(['', 'unconfined'].includes(inspected.AppArmorProfile), 'no AppArmor profile'),
  },
  { id: 'CIS 5.3', title: 'An SELinux label is on', wrong: ({ inspected }) => when(inspected.ProcessLabel === '', 'no SELinux label') },
  {
    id: 'CIS 5.4',
    title: 'Capabilities are restricted',
    wrong: ({ inspected }) => [
      ...when(!inspected.HostConfig.CapDrop.includes('ALL'), 'CapDrop lacks ALL'),
      ...inspected.HostConfig.CapAdd.map((name) => `${name} is added`),
    ],
  },
  { id: 'CIS 5.5', title: 'Not privileged', wrong: ({ inspected }) => when(inspected.HostConfig.Privileged, 'Privileged is set') },
  {
    id: 'CIS 5.6',
    title: 'No sensitive directory of the machine is mounted',
    wrong: ({ inspected }) =>
      inspected.Mounts.filter((mount) => mount.Type === 'bind' && SENSITIVE.includes(mount.Source.replace(/(?<=.)\/+$/, ''))).map(
        (mount) => `${mount.Source} is mounted`,
      ),
  },
  {
    id: 'CIS 5.7',
    title: 'No sshd runs inside',
    wrong: ({ processes }) =>
      when(
        processes.some(({ name }) => name === 'sshd'),
        'sshd runs',
      ),
  },
  {
    id: 'CIS 5.8',
    title: 'No privileged port is mapped',
    wrong: ({ inspected }) => Object.keys(inspected.NetworkSettings.Ports).flatMap((port) => when(parseInt(port, 10) < 1024, `port ${port}`)),
  },
  {
    id: 'CIS 5.9',
    title: 'Only needed ports are open: none',
    wrong: ({ inspected }) => Object.keys(inspected.NetworkSettings.Ports).map((port) => `port ${port}`),
  },
  {
    id: 'CIS 5.10',
    title: "Not the machine's network",
    wrong: ({ inspected }) => when(inspected.HostConfig.NetworkMode === 'host', 'NetworkMode is host'),
  },
  {
    id: 'CIS 5.11',
    title: 'Memory is limited',
    wrong: ({ inspected: { HostConfig }, cgroup }) => [
      ...when(HostConfig.Memory <= 0, 'Memory is not set'),
      ...when(cgroup.memoryBytes !== HostConfig.Memory, `the kernel enforces ${cgroup.memoryBytes}, not ${HostConfig.Memory}`),
    ],
  },
  {
    id: 'CIS 5.12',
    title: 'Processor time is limited',
    wrong: ({ inspected: { HostConfig }, cgroup }) => [
      ...when(HostConfig.NanoCpus <= 0, 'NanoCpus is not set'),
      ...when(
        Math.abs(cgroup.cpus - HostConfig.NanoCpus / 1e9) > 0.001,
        `the kernel enforces ${cgroup.cpus} processors, not ${HostConfig.NanoCpus / 1e9}`,
      ),
    ],
  },
  {
    id: 'CIS 5.13',
    title: 'The root is read-only',
    wrong: (facts) => [
      ...when(!facts.inspected.HostConfig.ReadonlyRootfs, 'ReadonlyRootfs is not set'),
      ...eachProcess(facts, (process) => when(!mountAt(process, '/')?.options.has('ro'), 'its root is writable')),
    ],
  },
  {
    id: 'CIS 5.14',
    title: 'Ports are bound to one address: there are none',
    wrong: ({ inspected }) => Object.keys(inspected.HostConfig.PortBindings).map((port) => `port ${port} is bound`),
  },
  {
    id: 'CIS 5.15',
    title: 'The engine restarts it at most five times',
    wrong: ({ inspected: { HostConfig } }) => {
      const { Name, MaximumRetryCount } = HostConfig.RestartPolicy
      return when(!(['', 'no'].includes(Name) || (Name === 'on-failure' && MaximumRetryCount <= 5)), `it restarts "${Name}"`)
    },
  },
  {
    id: 'CIS 5.16',
    title: "Not the machine's processes",
    wrong: ({ inspected }) => when(inspected.HostConfig.PidMode === 'host', 'PidMode is host'),
  },
  {
    id: 'CIS 5.17',
    title: "Not the machine's shared memory",
    wrong: ({ inspected }) => when(inspected.HostConfig.IpcMode === 'host', 'IpcMode is host'),
  },
  {
    id: 'CIS 5.18',
    title: 'No device of the machine',
    wrong: ({ inspected: { HostConfig } }) =>
      when(HostConfig.Devices.length + HostConfig.DeviceRequests.length + HostConfig.DeviceCgroupRules.length > 0, 'devices are given'),
  },
  {
    id: 'CIS 5.19',
    title: 'Resource limits of processes are set',
    wrong: ({ inspected }) =>
      LIMITED.flatMap((name) => when(!inspected.HostConfig.Ulimits.some((limit) => limit.Name === name), `no limit of ${name}`)),
  },
  {
    id: 'CIS 5.20',
    title: 'No mount passes on into the machine',
    wrong: ({ inspected }) =>
      inspected.Mounts.filter((mount) => /shared/.test(mount.Propagation)).map((mount) => `${mount.Destination} is ${mount.Propagation}`),
  },
  {
    id: 'CIS 5.21',
    title: "Not the machine's host name",
    wrong: ({ inspected }) => when(inspected.HostConfig.UTSMode === 'host', 'UTSMode is host'),
  },
  {
    id: 'CIS 5.22',
    title: 'Seccomp is not switched off',
    wrong: (facts) => [
      ...when(securityOpt(facts.inspected, 'seccomp') === 'unconfined', 'seccomp is unconfined'),
      ...eachProcess(facts, ({ status }) => when(status.Seccomp !== '2', `Seccomp is ${status.Seccomp ?? 'unknown'}`)),
    ],
  },
  { id: 'CIS 5.23', title: 'No privileged exec', wrong: ({ inspected }) => when(inspected.ExecIDs.length > 0, 'something was executed in it') },
  { id: 'CIS 5.24', title: 'No exec as root', wrong: ({ inspected }) => when(inspected.ExecIDs.length > 0, 'something was executed in it') },
  {
    id: 'CIS 5.25',
    title: 'The default cgroup parent',
    wrong: ({ inspected }) => when(inspected.HostConfig.CgroupParent !== '', `CgroupParent is ${inspected.HostConfig.CgroupParent}`),
  },
  {
    id: 'CIS 5.26',
    title: 'No process gains privileges',
    wrong: (facts) => eachProcess(facts, ({ status }) => when(status.NoNewPrivs !== '1', `NoNewPrivs is ${status.NoNewPrivs ?? 'unknown'}`)),
  },
  {
    id: 'CIS 5.27',
    title: 'Health is checked while it runs',
    wrong: ({ inspected }) => when([undefined, 'NONE'].includes(inspected.Config.Healthcheck?.Test[0]), 'no HEALTHCHECK'),
  },
  {
    id: 'CIS 5.28',
    title: 'The image is the intended one: named by its id, which no tag moves',
    wrong: ({ inspected }) =>
      when(inspected.Config.Image !== inspected.Image || !inspected.Image.startsWith('sha256:'), `the image was named "${inspected.Config.Image}"`),
  },
  {
    id: 'CIS 5.29',
    title: 'Processes are limited',
    wrong: ({ inspected: { HostConfig }, cgroup }) => [
      ...when(HostConfig.PidsLimit <= 0, 'PidsLimit is not set'),
      ...when(cgroup.pids !== HostConfig.PidsLimit, `the kernel enforces ${cgroup.pids}, not ${HostConfig.PidsLimit}`),
    ],
  },
  {
    id: 'CIS 5.30',
    title: "Not the engine's default bridge",
    wrong: ({ inspected }) =>
      when(['', 'default', 'bridge'].includes(inspected.HostConfig.NetworkMode), `NetworkMode is "${inspected.HostConfig.NetworkMode}"`),
  },
  {
    id: 'CIS 5.31',
    title: "Not the machine's user namespace where the engine has one",
    wrong: ({ inspected }) => when(inspected.HostConfig.UsernsMode === 'host', 'UsernsMode is host'),
  },
  {
    id: 'CIS 5.32',
    title: "The engine's socket is not inside",
    wrong: (facts) => [
      ...facts.inspected.Mounts.filter((mount) => mount.Source.endsWith('.sock')).map((mount) => `${mount.Source} is mounted`),
      // gVisor shows the machine nothing of what it mounts.
      ...(isGvisor(facts)
        ? []
        : eachProcess(facts, ({ mounts }) =>
            mounts.filter(({ root }) => /(docker|containerd).*\.sock$/.test(root)).map(({ root }) => `${root} is mounted`),
          )),
    ],
  },
]
