import { spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { startDeployment } from '../support/deployment.ts'
import { median, round } from './percentiles.ts'
import type { BenchOptions, Row } from './row.ts'

/** Answers each piece with itself; a piece that begins with "give N" with N bytes, and with "take" by one byte at the end. */
const FAR = `const net = require('net'); const block = Buffer.alloc(65536)
const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (s) => { s.on('error', () => {}); s.once('data', (first) => {
  const [word, size] = String(first.subarray(0, 32)).split(' ')
  if (word === 'take') return s.resume().on('end', () => s.end('.'))
  if (word !== 'give') { s.write(first); return s.on('data', (c) => s.write(c)) }
  let left = Number(size); const more = () => { while (left > 0) { left -= block.length; if (!s.write(block)) return s.once('drain', more) } s.end() }; more() }) })
server.listen(0, '127.0.0.1', () => console.log(server.address().port))`

/** Measures on whatever socket it is given; the same text runs here and in a sandbox. */
const PING = `async (socket, count) => { const times = []; socket.setNoDelay(true); await new Promise(r => socket.once('connect', r))
  for (let i = 0; i < count; i++) { const began = performance.now(); socket.write('x'); await new Promise(r => socket.once('data', r)); times.push(performance.now() - began) }
  socket.destroy(); times.sort((a, b) => a - b); return times[count >> 1] * 1000 }`
const GIVE = `async (socket, bytes) => { await new Promise(r => socket.once('connect', r)); const began = performance.now(); let got = 0; socket.on('data', (c) => { got += c.length }); socket.write('give ' + bytes); await new Promise(r => socket.once('end', r)); socket.destroy(); return got / 1e3 / (performance.now() - began) }`
const TAKE = `async (socket, bytes) => { await new Promise(r => socket.once('connect', r)); const block = Buffer.alloc(65536, 'take '); const began = performance.now(); for (let left = bytes; left > 0; left -= block.length) if (!socket.write(block)) await new Promise(r => socket.once('drain', r)); socket.end(); await new Promise(r => socket.once('data', r)); socket.destroy(); return bytes / 1e3 / (performance.now() - began) }`

interface EgressFigures {
  /** Round trips of one byte, medians of each round (µs). */
  readonly through: readonly number[]
  readonly direct: readonly number[]
  /** Through one connection (MB/s). */
  readonly download: readonly number[]
  readonly upload: readonly number[]
}

/** A connection of a webtask beside one that is made here, to the same server in another process, in turn. */
async function measureEgress(options: { rounds: number; trips: number; bytes: number; progress: (text: string) => void }): Promise<EgressFigures> {
  const far = spawn(process.execPath, ['-e', FAR], { stdio: ['ignore', 'pipe', 'inherit'] })
  try {
    const port = Number(String((await once(far.stdout, 'data'))[0]))
    await using deployment = await startDeployment({ WEBTASK_EGRESS_ALLOW: `127.0.0.1:${port}`, WEBTASK_EGRESS_MIB_PER_HOUR: '1000000' })
    const inside = async (work: string, amount: number): Promise<number> => {
      const answer = await deployment.run(
        'bench',
        `module.exports = async () => { const work = ${work}; return work(require('net').connect(${port}, '127.0.0.1'), ${amount}) }`,
      )
      if (answer.status !== 200) throw new Error(`The webtask failed: ${answer.text}`)
      return Number(answer.text)
    }
    // oxlint-disable-next-line no-eval
    const ping = (0, eval)(`(${PING})`) as (socket: net.Socket, count: number) => Promise<number>
    const figures = { through: [] as number[], direct: [] as number[], download: [] as number[], upload: [] as number[] }
    await inside(PING, 200)
    for (let round = 0; round < options.rounds; round += 1) {
      options.progress(`egress: round ${round + 1} of ${options.rounds}`)
      figures.direct.push(await ping(net.connect(port, '127.0.0.1'), options.trips))
      figures.through.push(await inside(PING, options.trips))
      figures.download.push(await inside(GIVE, options.bytes))
      figures.upload.push(await inside(TAKE, options.bytes))
    }
    return figures
  } finally {
    far.kill()
  }
}

export async function egress({ quick, progress }: BenchOptions): Promise<Row[]> {
  const { through, direct, download, upload } = await measureEgress({
    rounds: quick ? 3 : 5,
    trips: 2000,
    bytes: quick ? 250e6 : 500e6,
    progress,
  })
  const ratio = median(through.map((one, index) => one / direct[index]!))
  const rate = median(download)
  return [
    {
      what: 'round trip of a webtask through egress ÷ direct on loopback',
      figure: `${round(ratio)} × (${round(median(through), 0)} µs ÷ ${round(median(direct), 0)} µs)`,
      target: '≤ 3 ×',
      met: ratio <= 3,
      detail: { through, direct },
    },
    {
      what: 'bytes through one connection of a webtask',
      figure: `${round(rate, 0)} MB/s in, ${round(median(upload), 0)} MB/s out`,
      target: '≥ 150 MB/s in',
      met: rate >= 150,
      detail: { download, upload },
    },
  ]
}
