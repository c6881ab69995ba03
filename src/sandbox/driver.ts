/** What we need of a container engine, in plain data. Docker's types stay behind `docker.ts`. */

/** The engine did not answer: it is away, hangs or lost the connection. What it was asked may be done or not. */
export class EngineFailure extends Error {}

/** The engine's create body; `spec.ts` makes it and nothing else does. */
export type ContainerBody = Readonly<Record<string, unknown>>

export interface Container {
  readonly id: string
  readonly labels: Readonly<Record<string, string>>
  /** Started and not ended; also while it is paused. */
  readonly running: boolean
  readonly paused: boolean
}

/** How a container ended, as the engine tells it. */
export interface ContainerExit {
  readonly id: string
  readonly labels: Readonly<Record<string, string>>
  readonly exitCode: number
  readonly oomKilled: boolean
}

export interface EngineInfo {
  readonly version: string
  readonly runtimes: readonly string[]
  /** Of the machine, as the engine calls it: `x86_64`, `aarch64` … */
  readonly architecture: string
  /** Of the engine's own runc; undefined where the engine does not say. */
  readonly runcVersion: string | undefined
  /** `name=seccomp,profile=builtin`, `name=apparmor`, `name=userns` … */
  readonly securityOptions: readonly string[]
  /** What the machine's kernel can limit for a container. */
  readonly limits: { readonly memory: boolean; readonly swap: boolean; readonly pids: boolean; readonly cpu: boolean }
  readonly swarm: boolean
}

/** Every verb has a time limit; a refused one throws Error with the engine's own words, one without an answer EngineFailure. */
export interface ContainerDriver {
  info(): Promise<EngineInfo>
  /** The id that a name or tag stands for now; undefined when there is no such image. */
  imageId(image: string): Promise<string | undefined>
  create(name: string, body: ContainerBody): Promise<string>
  start(id: string): Promise<void>
  /** Freezes it; one that is frozen or gone is a success, as it is for `unpause` the other way. */
  pause(id: string): Promise<void>
  unpause(id: string): Promise<void>
  /** Nanoseconds of processor time that it has used since it started; undefined when it is gone. */
  cpuNanos(id: string): Promise<number | undefined>
  /** Ends all its processes at once, past the engine, where the kernel lets us: an engine that hangs keeps nobody running. Never throws. */
  kill(id: string): Promise<void>
  /** Kills and removes, whatever state it is in; a container that is gone is a success. */
  remove(id: string): Promise<void>
  /** All containers, or those with this label, running or not. */
  list(label?: string): Promise<readonly Container[]>
  /** All that the engine says of it, as it says it; undefined when it is gone. */
  inspect(id: string): Promise<unknown>
  exitOf(id: string): Promise<ContainerExit | undefined>
  /** Calls back for every container with this label that dies, until disposed; re-subscribes after a lost connection and then calls `onGap`. */
  watch(label: string, on: { died: (id: string) => void; gap: () => void; lost: (reason: string) => void }): AsyncDisposable
}
