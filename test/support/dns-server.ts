/** A name server that knows what it is told, for A, AAAA, SRV and TXT; everything else does not exist. */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'

type Zone = Readonly<Record<string, readonly Answer[] | (() => readonly Answer[])>>
export type Answer =
  | { readonly type: 'A'; readonly address: string }
  | { readonly type: 'SRV'; readonly name: string; readonly port: number }
  | { readonly type: 'TXT'; readonly text: string }

const TYPES: Record<number, string> = { 1: 'A', 16: 'TXT', 28: 'AAAA', 33: 'SRV' }
const NUMBERS = { A: 1, TXT: 16, SRV: 33 } as const

export interface DnsServer extends AsyncDisposable {
  readonly address: string
  /** Names that were asked about. */
  readonly asked: string[]
}

export async function startDns(zone: Zone): Promise<DnsServer> {
  const asked: string[] = []
  const socket = createSocket('udp4')
  socket.on('message', (query, from) => {
    const { name, type, end } = question(query)
    asked.push(`${type} ${name}`)
    const known = zone[name]
    const answers = (typeof known === 'function' ? known() : (known ?? [])).filter((answer) => answer.type === type)
    const header = Buffer.alloc(12)
    query.copy(header, 0, 0, 2)
    header.writeUInt16BE(known === undefined ? 0x81_83 : 0x81_80, 2)
    header.writeUInt16BE(1, 4)
    header.writeUInt16BE(answers.length, 6)
    socket.send(Buffer.concat([header, query.subarray(12, end), ...answers.map(record)]), from.port, from.address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return {
    address: `127.0.0.1:${socket.address().port}`,
    asked,
    [Symbol.asyncDispose]: () => new Promise((resolve) => socket.close(() => resolve())),
  }
}

function question(query: Buffer): { name: string; type: string; end: number } {
  const labels: string[] = []
  let at = 12
  for (let length = query[at]!; length > 0; length = query[at]!) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  return { name: labels.join('.').toLowerCase(), type: TYPES[query.readUInt16BE(at + 1)] ?? 'other', end: at + 5 }
}

function record(answer: Answer): Buffer {
  const data = dataOf(answer)
  const head = Buffer.alloc(12)
  head.writeUInt16BE(0xc0_0c, 0)
  head.writeUInt16BE(NUMBERS[answer.type], 2)
  head.writeUInt16BE(1, 4)
  head.writeUInt32BE(1, 6)
  head.writeUInt16BE(data.length, 10)
  return Buffer.concat([head, data])
}

function dataOf(answer: Answer): Buffer {
  if (answer.type === 'A') return Buffer.from(answer.address.split('.').map(Number))
  if (answer.type === 'TXT') return Buffer.concat([Buffer.of(answer.text.length), Buffer.from(answer.text)])
  const head = Buffer.alloc(6)
  head.writeUInt16BE(answer.port, 4)
  return Buffer.concat([head, ...answer.name.split('.').map((label) => Buffer.concat([Buffer.of(label.length), Buffer.from(label)])), Buffer.of(0)])
}
