import type { Log } from '../log.ts'
import type { ContainerDriver, EngineInfo } from './driver.ts'

/** What is asked of an engine beyond its having the runtime, and what an operator may do without at their own risk. */
export const ENGINE_CHECKS = ['runc', 'seccomp', 'architecture', 'memory', 'swap', 'pids', 'cpu'] as const
export type EngineCheck = (typeof ENGINE_CHECKS)[number]

export interface EngineProblem {
  /** `runtime` is not to be overridden: nothing would start. */
  readonly check: EngineCheck | 'runtime'
  readonly says: string
}

/** The first of each line of releases without the escapes of 2025 (CVE-2025-31133, 52565, 52881); older lines were not mended. */
const RUNC_FLOORS = [
  [1, 2, 8],
  [1, 3, 3],
  [1, 4, 0],
] as const
/** `seccomp.ts` is written for these. */
const ARCHITECTURES = ['x86_64', 'aarch64']

const LIMITS = {
  memory: 'The kernel cannot limit memory',
  swap: 'The kernel cannot limit swap, so memory could reach a disk: on cgroup v1 it takes the kernel parameter swapaccount=1',
  pids: 'The kernel cannot limit the number of processes',
  cpu: 'The kernel cannot limit processor time (CONFIG_CFS_BANDWIDTH)',
} as const

/** Whether a runc has the fixes; undefined where its version cannot be read. A candidate of a release is older than it. */
export function isFixedRunc(version: string | undefined): boolean | undefined {
  const [, major, minor, patch, candidate] = /^v?(\d+)\.(\d+)\.(\d+)(-rc)?/.exec(version ?? '') ?? []
  if (major === undefined) return undefined
  const found = [Number(major), Number(minor), Number(patch) - (candidate === undefined ? 0 : 0.5)] as const
  const newest = RUNC_FLOORS.at(-1)!
  const floor = RUNC_FLOORS.find(([a, b]) => a === found[0] && b === found[1])
  if (floor !== undefined) return found[2] >= floor[2]
  return found[0] > newest[0] || (found[0] === newest[0] && found[1] > newest[1])
}

/** Everything that keeps this engine from holding tenants as the settings promise. */
export function engineProblems(info: EngineInfo, runtime: 'runc' | 'runsc'): EngineProblem[] {
  const problems: EngineProblem[] = []
  if (!info.runtimes.includes(runtime))
    problems.push({
      check: 'runtime',
      says: `The container engine has no runtime "${runtime}" (it has: ${info.runtimes.join(', ')}). Install it, or set WEBTASK_RUNTIME`,
    })
  // gVisor is a filter and a kernel of its own.
  if (runtime === 'runc') {
    if (isFixedRunc(info.runcVersion) !== true)
      problems.push({
        check: 'runc',
        says: `${info.runcVersion === undefined ? 'The engine does not say which runc it has' : `runc ${info.runcVersion} has known ways out of a container`}: use 1.2.8, 1.3.3, 1.4.0 or newer, or WEBTASK_RUNTIME=runsc`,
      })
    if (!info.securityOptions.some((option) => option.startsWith('name=seccomp')))
      problems.push({ check: 'seccomp', says: 'The engine cannot filter system calls: it, or the kernel, was built without seccomp' })
    if (!ARCHITECTURES.includes(info.architecture))
      problems.push({
        check: 'architecture',
        says: `The seccomp profile is for ${ARCHITECTURES.join(' and ')}, and the machine is "${info.architecture}"`,
      })
  }
  for (const [check, says] of Object.entries(LIMITS) as [keyof typeof LIMITS, string][]) if (!info.limits[check]) problems.push({ check, says })
  return problems
}

/** Those that stop the start, and those that the operator chose to live with. */
export function withOverrides(
  problems: readonly EngineProblem[],
  allowed: readonly EngineCheck[],
): { stopping: readonly EngineProblem[]; overridden: readonly EngineProblem[] } {
  const isAllowed = ({ check }: EngineProblem) => check !== 'runtime' && allowed.includes(check)
  return { stopping: problems.filter((problem) => !isAllowed(problem)), overridden: problems.filter(isAllowed) }
}

/** One message for all that stops the start, with what to do. */
export function stopMessage(stopping: readonly EngineProblem[]): string {
  const checks = stopping.map(({ check }) => check).filter((check) => check !== 'runtime')
  const override = checks.length === 0 ? [] : [`To run tenants all the same, at your own risk: WEBTASK_ALLOW_UNSAFE_ENGINE=${checks.join(',')}`]
  return ['Cannot start, the container engine cannot hold tenants safely:', ...stopping.map(({ says }) => `  ${says}`), ...override].join('\n')
}

/**
 * Waits for the engine and resolves with the id of the sandbox image and the runtimes there are. Throws one Error with everything that is wrong
 * with the engine; what the settings override is logged instead.
 */
export async function checkEngine(
  driver: ContainerDriver,
  options: {
    runtime: 'runc' | 'runsc'
    image: string
    allowed: readonly EngineCheck[]
    log: Log
    signal: AbortSignal
    waiting: (reason: string) => void
  },
): Promise<{ agentImage: string; runtimes: readonly string[] }> {
  const { runtime, image, allowed, log } = options
  const info = await waitForEngine(driver, options)
  const { stopping, overridden } = withOverrides(engineProblems(info, runtime), allowed)
  if (stopping.length > 0) throw new Error(stopMessage(stopping))
  for (const { check, says } of overridden) log.warn({ check, reason: says }, 'engine.unsafe')
  const agentImage = await driver.imageId(image)
  if (agentImage === undefined) throw new Error(`The sandbox image "${image}" is not there: "npm start" builds it`)
  return { agentImage, runtimes: info.runtimes }
}

async function waitForEngine(
  driver: ContainerDriver,
  { signal, waiting }: { signal: AbortSignal; waiting: (reason: string) => void },
): Promise<EngineInfo> {
  for (let waited = 0; ; waited += 1) {
    signal.throwIfAborted()
    try {
      return await driver.info()
    } catch (error) {
      if (waited % 5 === 0) waiting((error as Error).message)
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
  }
}
