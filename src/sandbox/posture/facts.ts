import { z } from 'zod'

/** The engine leaves out, or answers null for, whatever was not asked for. */
const texts = z
  .array(z.string())
  .nullish()
  .transform((list) => list ?? [])
const things = z
  .array(z.unknown())
  .nullish()
  .transform((list) => list ?? [])
const text = z
  .string()
  .nullish()
  .transform((value) => value ?? '')
const count = z
  .number()
  .nullish()
  .transform((value) => value ?? 0)
const flag = z
  .boolean()
  .nullish()
  .transform((value) => value ?? false)
const table = z
  .record(z.string(), z.unknown())
  .nullish()
  .transform((value) => value ?? {})

const mount = z.object({ Type: text, Source: text, Destination: text, RW: flag, Propagation: text })
const ulimit = z.object({ Name: z.string(), Soft: z.number(), Hard: z.number() })

const inspected = z.object({
  Id: z.string(),
  Name: text,
  Image: text,
  ExecIDs: texts,
  AppArmorProfile: text,
  ProcessLabel: text,
  State: z.object({ Pid: z.number() }),
  Mounts: z
    .array(mount)
    .nullish()
    .transform((list) => list ?? []),
  NetworkSettings: z
    .object({ Ports: table })
    .nullish()
    .transform((value) => value ?? { Ports: {} }),
  Config: z.object({
    Image: text,
    User: text,
    Tty: flag,
    Env: texts,
    Labels: z
      .record(z.string(), z.string())
      .nullish()
      .transform((value) => value ?? {}),
    Healthcheck: z.object({ Test: texts }).nullish(),
  }),
  HostConfig: z.object({
    Runtime: text,
    Privileged: flag,
    CapAdd: texts,
    CapDrop: texts,
    GroupAdd: texts,
    SecurityOpt: texts,
    NetworkMode: text,
    PidMode: text,
    IpcMode: text,
    UTSMode: text,
    UsernsMode: text,
    CgroupnsMode: text,
    CgroupParent: text,
    ReadonlyRootfs: flag,
    Binds: texts,
    VolumesFrom: texts,
    Tmpfs: z
      .record(z.string(), z.string())
      .nullish()
      .transform((value) => value ?? {}),
    Devices: things,
    DeviceRequests: things,
    DeviceCgroupRules: texts,
    PortBindings: table,
    PublishAllPorts: flag,
    Sysctls: table,
    MaskedPaths: texts,
    ReadonlyPaths: texts,
    Memory: count,
    MemorySwap: count,
    NanoCpus: count,
    CpuQuota: count,
    CpuShares: count,
    PidsLimit: count,
    OomKillDisable: flag,
    OomScoreAdj: count,
    Ulimits: z
      .array(ulimit)
      .nullish()
      .transform((list) => list ?? []),
    RestartPolicy: z.object({ Name: text, MaximumRetryCount: count }),
    LogConfig: z.object({ Type: text }),
    Init: flag,
    AutoRemove: flag,
  }),
})

/** What the engine says of a container, as far as its posture is concerned. */
export type Inspected = z.infer<typeof inspected>

/** Throws where the engine's answer is not that of a container. */
export function parseInspected(answer: unknown): Inspected {
  return inspected.parse(answer)
}

export interface MountPoint {
  readonly target: string
  /** What of the file system is mounted: a path within it. */
  readonly root: string
  readonly type: string
  /** Options of this mount and of the file system under it. */
  readonly options: ReadonlySet<string>
  readonly superOptions: ReadonlySet<string>
}

/** One live process of a sandbox, as the machine's kernel sees it. */
export interface ProcessFacts {
  readonly pid: number
  readonly name: string
  /** Fields of /proc/<pid>/status. */
  readonly status: Readonly<Record<string, string>>
  /** Rows of /proc/<pid>/limits; `unlimited` is Infinity. */
  readonly limits: Readonly<Record<string, { readonly soft: number; readonly hard: number }>>
  readonly mounts: readonly MountPoint[]
  /** Kind → the namespace's number. */
  readonly namespaces: Readonly<Record<string, string>>
  readonly oomScoreAdj: number
}

/** What the kernel enforces for the whole container; no limit is Infinity. */
export interface CgroupFacts {
  readonly version: 1 | 2
  readonly memoryBytes: number
  /** Beyond memory. */
  readonly swapBytes: number
  readonly pids: number
  /** Of one processor's time; 0.5 is half of one. */
  readonly cpus: number
}

export interface SandboxFacts {
  readonly inspected: Inspected
  /** Every process of the container. Under runsc these are gVisor's own: the code's processes exist only within them. */
  readonly processes: readonly ProcessFacts[]
  readonly cgroup: CgroupFacts
  readonly host: {
    readonly namespaces: Readonly<Record<string, string>>
    /** Of the engine: `name=seccomp,profile=…`, `name=apparmor`, `name=userns` … */
    readonly securityOptions: readonly string[]
    readonly swarm: boolean
    /** `User` of every other running container of the engine. */
    readonly otherUsers: readonly string[]
  }
}
