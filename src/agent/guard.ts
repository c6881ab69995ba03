/**
 * Keeps the code of a thread out of the supervisor's, through which the code and the secrets of its tenant's other webtasks come. Runs before
 * any code, in the thread of every webtask and in those that code starts itself.
 */
import { syncBuiltinESMExports } from 'node:module'
import { fileURLToPath } from 'node:url'

const inspector = process.getBuiltinModule('node:inspector')
const workerThreads = process.getBuiltinModule('node:worker_threads')
const file = fileURLToPath(new URL('./guard.ts', import.meta.url))

/** The inspector of a thread can speak to that of the main thread, and run what it likes there. */
delete (inspector.Session.prototype as Partial<typeof inspector.Session.prototype>).connectToMainThread
try {
  const { binding } = process as unknown as { binding(name: string): { MainThreadConnection?: unknown } }
  delete binding('inspector').MainThreadConnection
} catch {
  // This Node gives nobody its inside any more.
}

const { Worker } = workerThreads
const Guarded = new Proxy(Worker, {
  construct(target, [script, options, ...rest]: [string, { execArgv?: readonly string[] }?, ...unknown[]], newTarget) {
    const execArgv = [...(options?.execArgv ?? process.execArgv), '--require', file]
    return Reflect.construct(target, [script, { ...options, execArgv }, ...rest], newTarget) as object
  },
})
Worker.prototype.constructor = Guarded
workerThreads.Worker = Guarded
syncBuiltinESMExports()
