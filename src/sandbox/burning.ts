/** Pause between two looks at the processor time of all sandboxes (ms). */
const LOOK_MS = 250
/** A sandbox with nothing to do uses less of one processor than this. gVisor's kernel alone takes 3 to 4 %, also while the code is paused. */
const IDLE_SHARE = { runc: 0.01, runsc: 0.06 } as const
/** So many looks in a row: what a runtime does for itself comes in short bursts. */
const IN_A_ROW = 3

export interface BurningOptions {
  /** `make` begins with the runtime. */
  running(): readonly { id: string; container: string; make: string }[]
  /** Nanoseconds of processor time so far. */
  cpuNanos(container: string): Promise<number | undefined>
  /** This sandbox used more than an idle one does since the last look. */
  burning(id: string): void
}

/** Tells of every sandbox that uses the processor; whether it may, those know who have requests there. */
export function watchBurning(options: BurningOptions): AsyncDisposable {
  let seen = new Map<string, { nanos: number; at: number; times: number }>()
  let timer: NodeJS.Timeout
  let stopped = false

  async function look(): Promise<void> {
    const now = new Map<string, { nanos: number; at: number; times: number }>()
    for (const { id, container, make } of options.running()) {
      const nanos = await options.cpuNanos(container)
      if (nanos === undefined) continue
      const at = performance.now()
      const before = seen.get(id)
      const burns = before !== undefined && nanos - before.nanos > (at - before.at) * 1e6 * IDLE_SHARE[make.startsWith('runsc-') ? 'runsc' : 'runc']
      const times = burns ? before.times + 1 : 0
      now.set(id, { nanos, at, times })
      if (times >= IN_A_ROW) options.burning(id)
    }
    seen = now
  }

  function later(): void {
    timer = setTimeout(() => {
      running = look()
        // The engine is away: reconciliation says so.
        .catch(() => {})
        .finally(() => !stopped && later())
    }, LOOK_MS)
  }
  let running: Promise<unknown> = Promise.resolve()
  later()
  return {
    async [Symbol.asyncDispose]() {
      stopped = true
      clearTimeout(timer)
      await running
    },
  }
}
