import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import test from 'node:test'
import type { TestContext } from 'node:test'
import { createCodeFetcher } from '../../src/egress/fetch-code.ts'
import { createResolve, resolveSystem } from '../../src/egress/resolve.ts'
import { WebtaskError } from '../../src/errors.ts'

const A = 1
const AAAA = 28
const OK = 0
const SERVFAIL = 2
const NXDOMAIN = 3

type Reply = { code: number; records?: number[][] } | undefined

/** A name server on loopback: one question in, the given records out. */
async function nameServer(t: TestContext, reply: (name: string, type: number) => Reply) {
  const asked: string[] = []
  const server = createSocket('udp4', (packet, from) => {
    const labels: string[] = []
    let at = 12
    for (let size = packet[at] ?? 0; size > 0; size = packet[at] ?? 0) {
      labels.push(packet.toString('latin1', at + 1, at + 1 + size))
      at += 1 + size
    }
    const question = packet.subarray(12, at + 5)
    const type = packet.readUInt16BE(at + 1)
    asked.push(labels.join('.'))
    const answer = reply(labels.join('.').toLowerCase(), type)
    if (answer === undefined) return
    const records = (answer.records ?? []).map((data) => Buffer.from([0xc0, 0x0c, 0, type, 0, 1, 0, 0, 0, 0, 0, data.length, ...data]))
    const head = Buffer.from([packet[0] ?? 0, packet[1] ?? 0, 0x81, 0x80 | answer.code, 0, 1, 0, records.length, 0, 0, 0, 0])
    server.send(Buffer.concat([head, question, ...records]), from.port, from.address)
  })
  server.bind(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return { resolve: createResolve([`127.0.0.1:${server.address().port}`]), asked }
}

const never = () => new AbortController().signal
const V6 = [0x26, 0x06, 0x50, 0xc0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x53]

test('both kinds of address are asked for, all records come back, and no search domain is added', async (t) => {
  const dns = await nameServer(t, (_, type) => ({
    code: OK,
    records:
      type === A
        ? [
            [93, 184, 215, 14],
            [10, 0, 0, 1],
          ]
        : [V6],
  }))
  assert.deepEqual((await dns.resolve('code.example.com', never())).toSorted(), ['10.0.0.1', '2606:50c0:8000::153', '93.184.215.14'])
  assert.deepEqual([...new Set(dns.asked.map((name) => name.toLowerCase()))], ['code.example.com'])
})

test('one kind of address is enough, whatever happens to the other', async (t) => {
  for (const other of [{ code: NXDOMAIN }, { code: SERVFAIL }, { code: OK }]) {
    const dns = await nameServer(t, (_, type) => (type === A ? { code: OK, records: [[93, 184, 215, 14]] } : other))
    assert.deepEqual(await dns.resolve('code.example.com', never()), ['93.184.215.14'])
    const six = await nameServer(t, (_, type) => (type === AAAA ? { code: OK, records: [V6] } : other))
    assert.deepEqual(await six.resolve('code.example.com', never()), ['2606:50c0:8000::153'])
  }
})

test('a name that does not exist has no addresses, a broken name server is an error', async (t) => {
  const none = await nameServer(t, () => ({ code: NXDOMAIN }))
  assert.deepEqual(await none.resolve('code.example.com', never()), [])
  const broken = await nameServer(t, () => ({ code: SERVFAIL }))
  await assert.rejects(broken.resolve('code.example.com', never()), { code: 'ESERVFAIL' })
})

test('the hosts file is not read for public names', async (t) => {
  const dns = await nameServer(t, () => ({ code: NXDOMAIN }))
  assert.deepEqual(await dns.resolve('ip6-loopback', never()), [])
})

test('a name server that says nothing is given up, and the fetch says so', async (t) => {
  const dns = await nameServer(t, () => undefined)
  const fetch = createCodeFetcher({ rules: { allow: [] }, resolve: dns.resolve, limits: { lookupMs: 100 }, dial: () => assert.fail('dialled') })
  const started = performance.now()
  await assert.rejects(
    fetch({ url: 'https://code.example.com/' }),
    (error) => error instanceof WebtaskError && /could not be looked up in time/.test(error.message),
  )
  assert(performance.now() - started < 1500)
})

test('a private record from a real name server is refused before any connection', async (t) => {
  const dns = await nameServer(t, (_, type) =>
    type === A
      ? {
          code: OK,
          records: [
            [93, 184, 215, 14],
            [192, 168, 1, 1],
          ],
        }
      : { code: OK },
  )
  const fetch = createCodeFetcher({ rules: { allow: [] }, resolve: dns.resolve, dial: () => assert.fail('dialled') })
  await assert.rejects(
    fetch({ url: 'https://code.example.com/' }),
    (error) => error instanceof WebtaskError && error.code === 'code_unavailable' && /not public/.test(error.message),
  )
})

test('listed names are found as the system finds them', async () => {
  assert((await resolveSystem('localhost', never())).some((address) => address === '127.0.0.1' || address === '::1'))
})
