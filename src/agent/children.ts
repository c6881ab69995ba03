/**
 * The processes that tenant code started: they end with the worker that started them. Only descendants of this process
 * are ever touched. One that slips away to the init counts against the sandbox's limit of processes, and goes with it.
 */

const { readdirSync, readFileSync, readlinkSync } = process.getBuiltinModule('node:fs')

/** Looks again while there are any: what is being killed may still fork. */
const PASSES = 5

/** The kernel's number of the calling thread, or 0 where there is no such thing. */
export function currentTask(): number {
  try {
    return Number(readlinkSync('/proc/thread-self').split('/').at(-1))
  } catch {
    return 0
  }
}

/** Kills every descendant of this process but those of the threads that live on. */
export function killChildren(livingTasks: ReadonlySet<number>): void {
  for (let pass = 0; pass < PASSES; pass += 1) {
    // The children of a thread that ended belong to any other, hence to none of the living or to the main thread.
    const strays = tasksOf('self')
      .filter((task) => !livingTasks.has(task))
      .flatMap((task) => descendantsOf('self', task))
    for (const pid of strays) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // Gone by itself.
      }
    }
    if (strays.length === 0) return
  }
}

/** The running ones: dead ones that nobody collects have no tasks left to show. */
function descendantsOf(process: number | 'self', task: number): number[] {
  const children = read(`/proc/${process}/task/${task}/children`).split(' ').filter(Boolean).map(Number)
  const running = children.filter((pid) => !/^State:\s+[ZX]/m.test(read(`/proc/${pid}/status`)))
  return running.flatMap((pid) => [pid, ...tasksOf(pid).flatMap((each) => descendantsOf(pid, each))])
}

function tasksOf(process: number | 'self'): number[] {
  try {
    return readdirSync(`/proc/${process}/task`).map(Number)
  } catch {
    return []
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
