import { EGRESS_DIR } from '../../protocol/egress.ts'
import { RENDEZVOUS_DIR } from '../../protocol/messages.ts'
import type { Inspected, MountPoint, ProcessFacts, SandboxFacts } from './facts.ts'

/** One thing that must hold of a sandbox. What it finds wrong is said in words; nothing wrong is a PASS. */
export interface Control {
  readonly id: string
  readonly title: string
  wrong(facts: SandboxFacts): readonly string[]
}

/** "says" when it holds, nothing otherwise: controls are lists of these. */
export function when(holds: boolean, says: string): readonly string[] {
  return holds ? [says] : []
}

/** The same question to every process, each answer with the process's name. */
export function eachProcess(facts: SandboxFacts, ask: (process: ProcessFacts) => readonly string[]): readonly string[] {
  if (facts.processes.length === 0) return ['no live process can be seen']
  return facts.processes.flatMap((process) => ask(process).map((problem) => `process ${process.pid} (${process.name}): ${problem}`))
}

/** Under gVisor the processes of the code exist only inside its kernel; the machine sees that kernel's own. */
export function isGvisor({ inspected }: SandboxFacts): boolean {
  return inspected.HostConfig.Runtime === 'runsc'
}

/** The value of the last security option with this name, as in `seccomp=…`. */
export function securityOpt({ HostConfig }: Inspected, name: string): string | undefined {
  const found = HostConfig.SecurityOpt.findLast((option) => option.startsWith(`${name}=`) || option.startsWith(`${name}:`))
  return found?.slice(name.length + 1)
}

/** What is mounted at a place now: a later mount covers an earlier one. */
export function mountAt(process: ProcessFacts, target: string): MountPoint | undefined {
  return process.mounts.findLast((mount) => mount.target === target)
}

/** Where the sandbox sees the machine: the directories of its own sockets. */
export const SOCKET_DIRS: readonly string[] = [RENDEZVOUS_DIR, EGRESS_DIR]

/** Whether the sandbox sees those of the machine, read-only, and nothing else. */
export function onlySockets({ inspected }: SandboxFacts): boolean {
  const targets = inspected.Mounts.filter((mount) => mount.Type === 'bind' && !mount.RW).map((mount) => mount.Destination)
  return inspected.Mounts.length === SOCKET_DIRS.length && SOCKET_DIRS.every((each) => targets.includes(each))
}
