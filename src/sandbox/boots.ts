/** Containers that were started and whose agents have not dialled in yet: while they boot they take all the processor there is. */
export interface Boots {
  /** Resolves when the agent of that container has dialled in, or after a while. */
  over(container: string): Promise<void>
  dialledIn(container: string): void
}

/** Longest that a boot is waited for (ms). */
const BOOT_MS = 1_500

export function createBoots(): Boots {
  const waiting = new Map<string, () => void>()
  return {
    over(container) {
      return new Promise((resolve) => {
        const settle = () => {
          clearTimeout(timer)
          waiting.delete(container)
          resolve()
        }
        const timer = setTimeout(settle, BOOT_MS)
        timer.unref()
        waiting.set(container, settle)
      })
    },
    dialledIn: (container) => waiting.get(container)?.(),
  }
}
