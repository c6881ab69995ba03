import { readdir, readFile } from 'node:fs/promises'
import { containersOf, docker } from '../support/docker.ts'

/** What containers take of the machine's memory. */
export interface Footprint {
  readonly containers: number
  /** Proportional set sizes: what processes share is counted once, in parts (bytes). By the name of the program. */
  readonly bytes: number
  readonly byProgram: Readonly<Record<string, number>>
  /** What the machine could still give, by the kernel's estimate (bytes): tells what processes do not show, such as the kernel's own. */
  readonly available: number
}

/** Programs and their parents, of all processes. */
async function processes(): Promise<Map<number, { parent: number; program: string }>> {
  const found = new Map<number, { parent: number; program: string }>()
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '')
    const [, program, parent] = /^\d+ \((.*)\) \S (\d+)/s.exec(stat) ?? []
    if (program !== undefined) found.set(Number(name), { program, parent: Number(parent) })
  }
  return found
}

async function pssOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '')
  return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024
}

export async function availableBytes(): Promise<number> {
  return Number(/^MemAvailable:\s+(\d+) kB/m.exec(await readFile('/proc/meminfo', 'utf8'))![1]) * 1024
}

/** All processes of a deployment's sandboxes, with the shim that the engine keeps for each: the processes' parents, and all below them. */
export async function footprintOf(deployment: string): Promise<Footprint> {
  const sandboxes = await containersOf(deployment, 'sandbox')
  const all = await processes()
  const children = Map.groupBy([...all.keys()], (pid) => all.get(pid)!.parent)
  const byProgram: Record<string, number> = {}
  const count = async (pid: number): Promise<void> => {
    const { program } = all.get(pid)!
    byProgram[program] = (byProgram[program] ?? 0) + (await pssOf(pid))
    for (const child of children.get(pid) ?? []) await count(child)
  }
  for (const { Id } of sandboxes) {
    const { Pid } = (await docker.getContainer(Id).inspect()).State
    const first = all.get(Pid)
    if (first === undefined) throw new Error(`The engine's processes are not in /proc here: no process ${Pid}`)
    await count(first.parent)
  }
  const bytes = Object.values(byProgram).reduce((sum, one) => sum + one, 0)
  return { containers: sandboxes.length, bytes, byProgram, available: await availableBytes() }
}
