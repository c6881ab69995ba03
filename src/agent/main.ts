/**
 * The process in the sandbox. `node main.ts [rendezvous directory] [packages directory] [spare heap MiB] [egress directory]`
 *
 * A spare heap other than 0 makes the agent boot one worker thread before it is asked for, so that the first webtask of
 * a prewarmed sandbox skips that time; it is used when the first `load` asks for exactly that much heap.
 */
import { EGRESS_DIR, EGRESS_SOCKET } from '../protocol/egress.ts'
import { RENDEZVOUS_DIR } from '../protocol/messages.ts'
import { startSupervisor } from './supervisor.ts'

// Every webtask of the tenant hangs on this thread: it outlives whatever a worker makes it throw.
process.on('uncaughtException', (error) => {
  process.stderr.write(`agent: ${error?.stack ?? String(error)}\n`)
})
process.on('SIGTERM', () => process.exit(0))
process.on('SIGINT', () => process.exit(0))

const [rendezvousDir = RENDEZVOUS_DIR, packagesDir = '/packages', spareHeapMib = '0', egressDir = EGRESS_DIR] = process.argv.slice(2)
startSupervisor({ rendezvousDir, packagesDir, spareHeapMib: Number(spareHeapMib) || 0, egressPath: `${egressDir}/${EGRESS_SOCKET}` })
