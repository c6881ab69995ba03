/** What code is told of network interfaces: there are none, and asking the kernel for them is refused. */
import { syncBuiltinESMExports } from 'node:module'
import os from 'node:os'

export function hideInterfaces(): void {
  os.networkInterfaces = () => ({})
  syncBuiltinESMExports()
}
