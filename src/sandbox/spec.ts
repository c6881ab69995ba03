import { createHash } from 'node:crypto'
import { EGRESS_DIR } from '../protocol/egress.ts'
import { RENDEZVOUS_DIR } from '../protocol/messages.ts'
import type { ContainerBody } from './driver.ts'
import { SECCOMP_PROFILE } from './seccomp.ts'

/** Labels by which the platform finds what is its own; several deployments may share one engine. */
export const LABEL = {
  deployment: 'webtask.deployment',
  sandbox: 'webtask.sandbox',
  slot: 'webtask.slot',
  part: 'webtask.part',
  spec: 'webtask.spec',
  make: 'webtask.make',
} as const

const MIB = 1024 * 1024
/**
 * Uids of sandboxes, 0x7000_0000 to 0x7ffd_ffff: no distribution gives these to people, services or other containers.
 * Each deployment has a block of them by its name, each slot a uid of its own in it, so that no two tenants of a machine
 * share one. Two names get the same block once in 16376; `npm run posture` would tell.
 */
const UIDS = { first: 0x7000_0000, blocks: 16_376, perBlock: 16_384 } as const

export interface SandboxClass {
  /** By its id: a tag could come to stand for another image. */
  readonly image: string
  readonly runtime: 'runc' | 'runsc'
  readonly memoryMib: number
  readonly cpuMillis: number
  readonly pids: number
  readonly tmpMib: number
  /** Heap of the worker thread that the agent boots ahead of the first webtask (MiB). */
  readonly workerHeapMib: number
}

export interface SpecInput {
  readonly id: string
  readonly deployment: string
  /** Distinct among the live sandboxes of the deployment; decides the uid. */
  readonly slot: number
  /** The sandbox's rendezvous directory as the engine sees it. */
  readonly directory: string
  /** The directory of its way out, likewise. */
  readonly egressDirectory: string
  readonly class: SandboxClass
}

/** The uid, and gid, of a slot. Throws RangeError beyond the deployment's block. */
export function uidOf(deployment: string, slot: number): number {
  if (slot < 0 || slot >= UIDS.perBlock) throw new RangeError(`Slot ${slot} is beyond the ${UIDS.perBlock} uids of a deployment`)
  const block = createHash('sha256').update(deployment).digest().readUInt32BE() % UIDS.blocks
  return UIDS.first + block * UIDS.perBlock + slot
}

/** The parts of a class that a plan decides, as a name: sandboxes of one class stand in for each other. */
export function classKey({ runtime, memoryMib, cpuMillis }: Pick<SandboxClass, 'runtime' | 'memoryMib' | 'cpuMillis'>): string {
  return `${runtime}-${memoryMib}-${cpuMillis}`
}

/** The class of that name, in all else like `base`. Throws RangeError for what no plan can ask for: names come over Redis. */
export function classOf(key: string, base: SandboxClass): SandboxClass {
  const [, runtime, memory, cpu] = /^(runc|runsc)-(\d{3,5})-(\d{2,5})$/.exec(key) ?? []
  const [memoryMib, cpuMillis] = [Number(memory), Number(cpu)]
  if (runtime === undefined || memoryMib < 128 || memoryMib > 65_536 || cpuMillis < 50 || cpuMillis > 64_000)
    throw new RangeError(`There is no class "${key.slice(0, 64)}"`)
  return { ...base, runtime: runtime as SandboxClass['runtime'], memoryMib, cpuMillis }
}

/** What two sandboxes of one kind have in common, as a digest: those that an earlier version made carry another. */
export function specDigest(limits: SandboxClass): string {
  return createHash('sha256')
    .update(JSON.stringify(template({ id: '', deployment: '', slot: 0, directory: '', egressDirectory: '', class: limits })))
    .digest('hex')
    .slice(0, 16)
}

/**
 * The create body of a sandbox: a closed template. Nothing in it comes from a tenant; the inputs are our own ids,
 * paths and numbers.
 */
export function sandboxSpec(input: SpecInput): ContainerBody {
  const { Labels, ...body } = template(input)
  return { ...body, Labels: { ...Labels, [LABEL.spec]: specDigest(input.class), [LABEL.make]: classKey(input.class) } }
}

/**
 * Reasons for the fields that are not obvious stand beside them. Left at the engine's default on purpose:
 * - everything that adds: capabilities, groups, devices, ports, sysctls, volumes, names of hosts;
 * - `MemorySwappiness`: only cgroup v1 has it, and there is no swap to begin with;
 * - `CpusetCpus`: which processors the platform wants is the machine's matter; shares let it go first everywhere;
 * - `CgroupParent`: its limits cannot be set through the engine, and systemd wants another name for it;
 * - `Blkio…`: the engine does not tell which device holds the images, and a sandbox writes to none;
 * - AppArmor and SELinux: the engine applies its own profile where the kernel has them.
 */
function template({ id, deployment, slot, directory, egressDirectory, class: limits }: SpecInput) {
  const uid = uidOf(deployment, slot)
  return {
    Image: limits.image,
    User: `${uid}:${uid}`,
    Entrypoint: ['/usr/local/bin/node'],
    // The young generation is small and V8 starts few helper threads: an idle sandbox costs 19 MB instead of 27.
    Cmd: [
      '--max-semi-space-size=4',
      '--v8-pool-size=1',
      '--disable-sigusr1',
      '--no-addons',
      '--unhandled-rejections=strict',
      '--disable-warning=ExperimentalWarning',
      '/app/agent/main.js',
      RENDEZVOUS_DIR,
      '/packages',
      String(limits.workerHeapMib),
    ],
    WorkingDir: '/',
    Hostname: 'wt',
    Tty: false,
    OpenStdin: false,
    AttachStdin: false,
    AttachStdout: false,
    AttachStderr: false,
    Env: ['NODE_ENV=production', 'HOME=/tmp', 'TZ=UTC'],
    Labels: { [LABEL.deployment]: deployment, [LABEL.sandbox]: id, [LABEL.slot]: String(slot), [LABEL.part]: 'sandbox' },
    // A health check would be a periodic exec into a hostile container; health is seen on the data path.
    Healthcheck: { Test: ['NONE'] },
    StopTimeout: 1,
    NetworkDisabled: true,
    HostConfig: {
      Runtime: limits.runtime,
      NetworkMode: 'none',
      IpcMode: 'none',
      // On cgroup v1 the default is the host's: /proc/self/cgroup would show host paths.
      CgroupnsMode: 'private',
      Privileged: false,
      CapDrop: ['ALL'],
      // The profile itself, not a path: the engine's API takes no files. runsc ignores it.
      SecurityOpt: ['no-new-privileges:true', `seccomp=${SECCOMP_PROFILE}`],
      ReadonlyRootfs: true,
      Tmpfs: { '/tmp': `rw,noexec,nosuid,nodev,size=${limits.tmpMib * MIB},nr_inodes=2048,mode=0700,uid=${uid},gid=${uid}` },
      // Read-only: a container that owned its socket could put a link to docker.sock in its place.
      Mounts: [readOnlyMount(directory, RENDEZVOUS_DIR), readOnlyMount(egressDirectory, EGRESS_DIR)],
      // Memory and swap together: secrets never reach a disk, and running out is prompt.
      Memory: limits.memoryMib * MIB,
      MemorySwap: limits.memoryMib * MIB,
      OomScoreAdj: 600,
      NanoCpus: limits.cpuMillis * 1_000_000,
      CpuShares: 128,
      PidsLimit: limits.pids,
      Ulimits: [
        { Name: 'core', Soft: 0, Hard: 0 },
        { Name: 'nofile', Soft: 1024, Hard: 1024 },
        { Name: 'fsize', Soft: limits.tmpMib * MIB, Hard: limits.tmpMib * MIB },
        { Name: 'memlock', Soft: 65_536, Hard: 65_536 },
        { Name: 'sigpending', Soft: 128, Hard: 128 },
        { Name: 'msgqueue', Soft: 0, Hard: 0 },
      ],
      // Reaps zombies, and PID 1 is not tenant code.
      Init: true,
      // The exit code and the out-of-memory flag are read before the orchestrator removes it.
      AutoRemove: false,
      RestartPolicy: { Name: 'no' },
      // Output goes through the agent, bounded; the engine's own log would grow without limit.
      LogConfig: { Type: 'none', Config: {} },
      // A list replaces the engine's default, so it holds the default and what older defaults lack.
      MaskedPaths: [
        '/proc/acpi',
        '/proc/asound',
        '/proc/interrupts',
        '/proc/kcore',
        '/proc/keys',
        '/proc/latency_stats',
        '/proc/sched_debug',
        '/proc/scsi',
        '/proc/timer_list',
        '/proc/timer_stats',
        '/sys/devices/virtual/powercap',
        '/sys/firmware',
        '/sys/fs/selinux',
      ],
      ReadonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    },
  }
}

function readOnlyMount(source: string, target: string): object {
  return { Type: 'bind', Source: source, Target: target, ReadOnly: true, BindOptions: { Propagation: 'rprivate', NonRecursive: true } }
}
