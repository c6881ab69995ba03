/** Work that outlives its response: what code hands to `ctx.waitUntil`. */
import { describe } from './describe.ts'
import { logLine } from './capture.ts'
import { NativePromise } from './natives.ts'

let open = 0
let onQuiet: () => void = () => {}

export function keepAlive(promise: unknown): void {
  open++
  NativePromise.resolve(promise)
    .then(undefined, (error: unknown) => {
      const { stack, message } = describe(error)
      logLine('error', `waitUntil: ${stack ?? message}`)
    })
    .finally(() => {
      if (--open === 0) onQuiet()
    })
}

export const backgroundWork = (): number => open

export function whenBackgroundEnds(action: () => void): void {
  onQuiet = action
}
