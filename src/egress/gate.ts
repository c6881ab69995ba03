/** Lets a few in at once for each key; the rest wait in line. */
export type Gate = {
  /** Resolves when it is this caller's turn; dispose to let the next one in. Rejects with `full()` or the signal's reason. */
  enter(key: string, signal?: AbortSignal): Promise<Disposable>
}

type Line = { inside: number; readonly waiting: Set<() => void> }

/** Makes a gate: `atOnce` inside and `waiting` in line for each key; one more is refused with the error of `full`. */
export function createGate(options: { atOnce: number; waiting: number; full: () => Error }): Gate {
  const lines = new Map<string, Line>()

  function leave(key: string, line: Line): void {
    const [next] = line.waiting
    if (next !== undefined) {
      line.waiting.delete(next)
      next()
      return
    }
    line.inside -= 1
    if (line.inside === 0) lines.delete(key)
  }

  function place(key: string, line: Line): Disposable {
    let held = true
    return {
      [Symbol.dispose]() {
        if (held) leave(key, line)
        held = false
      },
    }
  }

  return {
    async enter(key, signal) {
      signal?.throwIfAborted()
      const line = lines.get(key) ?? { inside: 0, waiting: new Set() }
      lines.set(key, line)
      if (line.inside < options.atOnce) {
        line.inside += 1
        return place(key, line)
      }
      if (line.waiting.size >= options.waiting) throw options.full()
      const turn = Promise.withResolvers<void>()
      const step = () => turn.resolve()
      const giveUp = () => {
        // Whoever was already called has a place to give back; `delete` tells the two apart.
        if (line.waiting.delete(step)) turn.reject(signal?.reason)
      }
      line.waiting.add(step)
      signal?.addEventListener('abort', giveUp, { once: true })
      try {
        await turn.promise
      } finally {
        signal?.removeEventListener('abort', giveUp)
      }
      return place(key, line)
    },
  }
}
