/** Makes the network of a worker: what its code connects to and looks up goes over the egress socket, and no driver notices. */
import { installConnect } from './connect.ts'
import { installDatagrams } from './datagrams.ts'
import { installLookup } from './lookup.ts'
import { installRecords } from './records.ts'

export function installEgress(socketPath: string): void {
  installConnect(socketPath)
  installRecords(socketPath)
  installLookup(socketPath)
  installDatagrams()
}
