import type { Socket } from 'node:net'
import type { ExchangeCase } from '../exchange-case.ts'

const HELLO = 'GET $HELLO HTTP/1.1\r\nHost: x\r\n\r\n'
const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Writes a byte now and then until the other side hangs up. */
async function drip(socket: Socket, { begin, byte, everyMs }: { begin: string; byte: string; everyMs: number }): Promise<void> {
  socket.write(begin, 'latin1')
  while (socket.writable && !socket.destroyed) {
    await pass(everyMs)
    socket.write(byte, 'latin1')
  }
}

/** Connections that are kept, dropped, overfilled or starved. */
export const CONNECTIONS: readonly ExchangeCase[] = [
  { name: 'fifty requests at once', sent: HELLO.repeat(50), hears: [/hello/], most: 50 },
  { name: 'requests after a broken one', sent: `${HELLO}BROKEN\r\n\r\n${HELLO}`, hears: [/hello/, 'bad_request', 'closed'], most: 2 },
  {
    name: 'a request after its connection was closed',
    sent: `GET $HELLO HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET $SMUGGLED HTTP/1.1\r\nHost: x\r\n\r\n`,
    hears: [/hello/, 'bad_request', 'closed'],
  },
  {
    name: 'leaving before the answer, many times',
    sent: (socket, fill) => void socket.end(fill(HELLO).repeat(20)),
    hears: [/hello/, 'closed'],
    most: 20,
  },
  { name: 'empty lines before the request', sent: `${'\r\n'.repeat(1000)}${HELLO}`, hears: [/hello/, 'bad_request', 'closed', 'header_too_large'] },
  {
    name: 'a body that is never whole, for a webtask',
    sent: 'POST $ECHO HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nfew',
    hears: [/"method"/, 'bad_request', 'invocation_timeout', 'closed'],
  },
  {
    name: 'a body that drips, for a webtask that waits for it',
    sent: (socket, fill) =>
      drip(socket, {
        begin: fill('POST $HELLO HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n'),
        byte: ' ',
        everyMs: 100,
      }),
    hears: ['invocation_timeout', 'bad_request', 'closed', /hello/],
  },
  {
    name: 'code that never comes',
    sent: 'POST $RUN HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $TOKEN\r\nContent-Length: 100\r\n\r\nmodule',
    hears: ['bad_request', 'invocation_timeout', 'closed'],
  },
  {
    name: 'code that drips',
    sent: (socket, fill) =>
      drip(socket, {
        begin: fill('POST $RUN HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $TOKEN\r\nContent-Length: 100000\r\n\r\n'),
        byte: ' ',
        everyMs: 100,
      }),
    hears: ['bad_request', 'invocation_timeout', 'closed'],
  },
  {
    name: 'claims that never come',
    sent: 'POST /api/tokens/issue HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $TOKEN\r\nContent-Length: 100\r\n\r\n{',
    hears: ['bad_request', 'closed'],
  },
  {
    name: 'a body of which more comes than it says',
    sent: 'POST $HELLO HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GARBAGE\r\n\r\n',
    hears: [/hello/, 'bad_request', 'closed'],
    most: 2,
  },
  {
    name: 'an answer that is read too slowly',
    sent: async (socket, fill) => {
      socket.write(fill(HELLO).repeat(200))
      socket.pause()
      await pass(500)
      socket.resume()
    },
    hears: [/hello/],
    most: 200,
  },
]
