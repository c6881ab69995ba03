/** Only TCP goes out: code that sends datagrams is told so, where it would learn of any other failure. */
import { dgram } from './natives.ts'

type Done = (error: Error) => void

export function installDatagrams(): void {
  const proto = dgram.Socket.prototype as unknown as Record<string, unknown>
  for (const syscall of ['bind', 'connect', 'send']) {
    proto[syscall] = function (this: InstanceType<typeof dgram.Socket>, ...args: unknown[]) {
      const error = Object.assign(new Error(`${syscall} EACCES: a webtask has no datagrams (UDP), only TCP connections`), {
        code: 'EACCES',
        errno: -13,
        syscall,
      })
      const done = args.findLast((arg): arg is Done => typeof arg === 'function')
      // The callback of `bind` hears of success alone.
      process.nextTick(() => (done && syscall !== 'bind' ? done(error) : this.emit('error', error)))
      return this
    }
  }
}
