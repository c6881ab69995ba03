import { keysFingerprint, loadKeyring } from './key-file.ts'
import type { Keyring } from './keyring.ts'

export interface WatchedKeys extends Disposable {
  /** Always the ring as it was last read: it may change between two uses, never within one. */
  readonly keyring: Keyring
  /** Looks now instead of at the next turn. */
  reload(): Promise<void>
  /** How long the ring on disk has not been seen to be the one in use, in seconds; moves on with time, not with the clock. */
  staleSeconds(): number
}

/** Longest time until a changed ring is noticed, in milliseconds. The overlap of a rotation must be well above it. */
const CHECK_EVERY_MS = 250

/**
 * Loads the keys in `dir` as `loadKeyring` does, then keeps up with the file. A ring that cannot be read leaves the last good one in use
 * and is reported once; `staleSeconds` grows until it can be. `onChange` is called after each change, with the new ring in place.
 */
export async function watchKeyring(
  dir: string,
  options: { create: boolean; now: () => number; onChange: () => void; onError: (error: unknown) => void },
): Promise<WatchedKeys> {
  let current = await loadKeyring(dir, { create: options.create, now: options.now() })
  let seen = ''
  let checkedAt = performance.now()
  let failed = false
  let running: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined

  async function look(): Promise<void> {
    const started = performance.now()
    try {
      // Taken before the file is read: a change in between is then seen at the next look.
      const found = await keysFingerprint(dir)
      if (found !== seen) {
        const changed = await loadKeyring(dir, { create: false, now: options.now() })
        const first = seen === ''
        current = changed
        seen = found
        if (!first) options.onChange()
      }
      checkedAt = started
      failed = false
    } catch (error) {
      if (!failed) options.onError(error)
      failed = true
    }
  }

  const reload = (): Promise<void> => (running ??= look().finally(() => (running = undefined)))
  const lookLater = (): void => {
    timer = setTimeout(() => void reload().finally(() => timer !== undefined && lookLater()), CHECK_EVERY_MS).unref()
  }

  await reload()
  lookLater()

  return {
    keyring: {
      get signing() {
        return current.signing
      },
      get sealing() {
        return current.sealing
      },
      get opening() {
        return current.opening
      },
      verifying: (segment) => current.verifying(segment),
      wrapping: (kid, tenantText) => current.wrapping(kid, tenantText),
      derive: (kid, purpose) => current.derive(kid, purpose),
    },
    reload,
    staleSeconds: () => (performance.now() - checkedAt) / 1000,
    [Symbol.dispose]() {
      clearTimeout(timer)
      timer = undefined
    },
  }
}
