/** Stands where `ctx.storage` will be. */
type Done = (error: Error) => void

function refuse(...args: unknown[]): void {
  const done = args.findLast((arg): arg is Done => typeof arg === 'function')
  if (!done) throw new Error('Storage is not available yet')
  process.nextTick(done, new Error('Storage is not available yet'))
}

export const unavailableStorage = Object.freeze({ get: refuse, set: refuse })
