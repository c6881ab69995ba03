/** What of Node is patched here, as it was before. Through `getBuiltinModule`: an `import` would fix its exports for ESM code. */
import type { Socket } from 'node:net'

export type { Socket }
export const net = process.getBuiltinModule('node:net')
export const dns = process.getBuiltinModule('node:dns')
export const dgram = process.getBuiltinModule('node:dgram')
export const connectAsBefore = net.Socket.prototype.connect as (this: Socket, options: unknown) => Socket
