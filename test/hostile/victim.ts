import { Worker } from 'node:worker_threads'

export interface VictimOrder {
  readonly url: string
  readonly expected: string
  readonly everyMs: number
  readonly giveUpMs: number
}

/** One request of the victim: when it was sent (Unix ms), how long it took, what was wrong with its answer. */
export interface Sample {
  readonly index: number
  readonly at: number
  readonly ms: number
  readonly problem?: string
}

/** A tenant that does nothing wrong, asked all the time. */
export interface Victim extends AsyncDisposable {
  /** The samples sent from a moment on (Unix ms), when at least `least` of them and all that were sent before now are answered. */
  since(at: number, least: number): Promise<readonly Sample[]>
}

const GIVE_UP_MS = 5_000
/** No case lasts for more samples than this. */
const KEPT = 5_000

/** Nearest rank: of 100 samples the second slowest. */
export function percentile(samples: readonly Sample[], share: number): number {
  const sorted = samples.map((sample) => sample.ms).toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN
}

export function startVictim(options: { url: string; expected: string; everyMs: number }): Victim {
  const workerData: VictimOrder = { ...options, giveUpMs: GIVE_UP_MS }
  const thread = new Worker(new URL('./victim-thread.ts', import.meta.url), { workerData })
  const samples: Sample[] = []
  const waiting = new Set<() => void>()
  thread.on('message', (sample: Sample) => {
    samples.push(sample)
    if (samples.length > 2 * KEPT) samples.splice(0, KEPT)
    for (const look of waiting) look()
  })

  function since(at: number, least: number): Promise<readonly Sample[]> {
    const asked = Date.now()
    const { promise, resolve, reject } = Promise.withResolvers<readonly Sample[]>()
    // Each request settles by itself in its time; silence beyond it means that the thread is gone.
    const deadline = setTimeout(() => settle(() => reject(new Error('The victim is not asked any more'))), 4 * GIVE_UP_MS)
    const settle = (act: () => void) => {
      clearTimeout(deadline)
      waiting.delete(look)
      act()
    }
    const look = () => {
      const mine = samples.filter((sample) => sample.at >= at)
      const last = mine.find((sample) => sample.at > asked)
      // Answers come in any order: one sent later than now says that all before it were sent, not that they were answered.
      const isWhole = last !== undefined && mine.filter((sample) => sample.index < last.index).length >= last.index - firstIndex(mine)
      if (mine.length >= least && isWhole) settle(() => resolve(mine))
    }
    waiting.add(look)
    look()
    return promise
  }

  return {
    since,
    async [Symbol.asyncDispose]() {
      await thread.terminate()
    },
  }
}

function firstIndex(samples: readonly Sample[]): number {
  return samples.reduce((least, sample) => Math.min(least, sample.index), Number.POSITIVE_INFINITY)
}
