import { parseInspected, type ProcessFacts, type SandboxFacts } from '../../src/sandbox/posture/facts.ts'
import { parseLimits, parseMounts, parseStatus } from '../../src/sandbox/posture/parse.ts'
import { sandboxSpec } from '../../src/sandbox/spec.ts'

const IMAGE = `sha256:${'a'.repeat(64)}`
const MIB = 1024 * 1024
const USER = '100001:100001'

/** What the kernel showed of a process in a sandbox under runc, cgroup v1. */
export const STATUS = `Name:	node-MainThread
Umask:	0022
State:	S (sleeping)
Uid:	100001	100001	100001	100001
Gid:	100001	100001	100001	100001
Groups:	100001 
NSpid:	6654	7
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	0000000000000000
CapAmb:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
Seccomp_filters:	1
`
export const LIMITS = `Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max file size             33554432             33554432             bytes     
Max core file size        0                    0                    bytes     
Max open files            1024                 1024                 files     
Max locked memory         65536                65536                bytes     
Max pending signals       128                  128                  signals   
Max msgqueue size         0                    0                    bytes     
Max nice priority         0                    0                    
`
export const MOUNTS = `242 121 0:43 / / ro,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/I3
247 242 0:75 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
248 242 0:78 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
249 248 0:84 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666
250 242 0:85 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
251 250 0:87 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
270 248 0:60 / /dev/mqueue rw,nosuid,nodev,noexec,relatime - mqueue mqueue rw
272 242 254:0 /usr/bin/tini-static /sbin/docker-init ro,relatime - ext4 /dev/vda rw,discard
273 242 0:92 / /tmp rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=32768k,nr_inodes=2048,mode=700,uid=100001,gid=100001
274 242 254:0 /run/webtask/d/s/1 /run/wt ro,relatime - ext4 /dev/vda rw,discard
275 242 254:0 /run/webtask/d/e/1 /run/wt-egress ro,relatime - ext4 /dev/vda rw,discard
137 247 0:78 /null /proc/interrupts rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
`

/** The engine's answer about a container that it made from our create body; `change` alters the body first. */
function inspectedFrom(change: (body: any) => void): unknown {
  const body = sandboxSpec({
    id: '0123456789ab',
    deployment: 'test',
    slot: 1,
    directory: '/run/webtask/d/s/1',
    egressDirectory: '/run/webtask/d/e/1',
    class: { image: IMAGE, runtime: 'runc', memoryMib: 512, cpuMillis: 1000, pids: 128, tmpMib: 32, workerHeapMib: 96 },
  }) as any
  body.User = USER
  change(body)
  const { HostConfig, ...Config } = structuredClone(body)
  return {
    Id: 'c'.repeat(64),
    Name: '/webtask-test-0123456789ab',
    Image: IMAGE,
    ExecIDs: null,
    AppArmorProfile: '',
    ProcessLabel: '',
    State: { Pid: 4242 },
    Mounts: HostConfig.Mounts.map((mount: any) => ({
      Type: mount.Type,
      Source: mount.Source,
      Destination: mount.Target,
      RW: mount.ReadOnly !== true,
      Propagation: mount.BindOptions?.Propagation ?? '',
    })),
    NetworkSettings: { Ports: {} },
    Config,
    // As the engine fills in what it was not told.
    HostConfig: {
      CapAdd: null,
      GroupAdd: null,
      PidMode: '',
      UTSMode: '',
      UsernsMode: '',
      CgroupParent: '',
      Devices: [],
      Sysctls: null,
      ...HostConfig,
    },
  }
}

const namespaces = (at: number) =>
  Object.fromEntries(['mnt', 'net', 'ipc', 'uts', 'pid', 'user', 'cgroup'].map((kind, i) => [kind, `${kind}:[${at + i}]`]))

/** A live sandbox that is as it should be, or what `change` makes of it. */
export function sandboxFacts(
  change: { body?: (body: any) => void; process?: Partial<ProcessFacts>; status?: Record<string, string>; facts?: Partial<SandboxFacts> } = {},
): SandboxFacts {
  const machine = namespaces(100)
  const process: ProcessFacts = {
    pid: 4242,
    name: 'node-MainThread',
    status: { ...parseStatus(STATUS), ...change.status },
    limits: parseLimits(LIMITS),
    mounts: parseMounts(MOUNTS),
    // Without remapping all share the machine's user namespace.
    namespaces: { ...namespaces(200), user: machine.user! },
    oomScoreAdj: 600,
    ...change.process,
  }
  return {
    inspected: parseInspected(inspectedFrom(change.body ?? (() => {}))),
    processes: [process],
    cgroup: { version: 1, memoryBytes: 512 * MIB, swapBytes: 0, pids: 128, cpus: 1 },
    host: { namespaces: machine, securityOptions: ['name=seccomp,profile=builtin'], swarm: false, otherUsers: ['100002:100002'] },
    ...change.facts,
  }
}
