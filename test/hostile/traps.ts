import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import os from 'node:os'

export interface Place {
  readonly host: string
  readonly port: number
}

/** Listeners on addresses of this machine to which nothing from inside may ever come. */
export interface Traps extends AsyncDisposable {
  readonly places: readonly Place[]
  /** Who came, each as `protocol address`; empty as long as all is well. */
  readonly caught: readonly string[]
}

/** Loopback and the machine's own addresses on the engine's bridges: what a container could reach first. */
function ownAddresses(): string[] {
  const bridges = Object.entries(os.networkInterfaces()).filter(([name]) => /^(docker|br-)/.test(name))
  const addresses = bridges.flatMap(([, list = []]) => list.filter(({ family }) => family === 'IPv4').map(({ address }) => address))
  return ['127.0.0.1', '::1', ...addresses]
}

export async function setTraps(): Promise<Traps> {
  const caught: string[] = []
  const places: Place[] = []
  await using setting = new AsyncDisposableStack()
  for (const host of ownAddresses()) {
    const tcp = createServer((socket) => {
      caught.push(`tcp ${host}`)
      socket.destroy()
    })
    tcp.listen(0, host)
    try {
      await once(tcp, 'listening')
    } catch {
      // A machine without IPv6 has no such loopback.
      continue
    }
    setting.defer(() => void tcp.close())
    const { port } = tcp.address() as AddressInfo
    const udp = createSocket({ type: host.includes(':') ? 'udp6' : 'udp4' }, () => caught.push(`udp ${host}`))
    udp.bind(port, host)
    await once(udp, 'listening')
    setting.defer(() => void udp.close())
    places.push({ host, port })
  }
  const held = setting.move()
  return { places, caught, [Symbol.asyncDispose]: () => held.disposeAsync() }
}
