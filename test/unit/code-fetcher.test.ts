import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createServer as createNetServer } from 'node:net'
import { spawn } from 'node:child_process'
import os from 'node:os'
import path from 'node:path'
import test from 'node:test'
import type { TestContext } from 'node:test'
import type { FetchCode } from '../../src/egress/fetch-code.ts'
import { parseAllowList } from '../../src/egress/rules.ts'
import { listenEgress } from '../../src/egress/server.ts'
import { WebtaskError } from '../../src/errors.ts'
import { createCodeClient } from '../../src/gateway/code/fetcher.ts'

async function socketIn(t: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'egress-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  return path.join(dir, 'egress.sock')
}

async function post(
  socketPath: string,
  body: string,
  options: { path?: string; method?: string } = {},
): Promise<{ status: number | undefined; body: unknown }> {
  const request = httpRequest({ socketPath, path: options.path ?? '/code', method: options.method ?? 'POST', agent: false })
  request.on('error', () => {})
  request.end(body)
  const [response] = await once(request, 'response')
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk)
  return { status: response.statusCode, body: JSON.parse(Buffer.concat(chunks).toString()) }
}

function coded(code: string, says: RegExp) {
  return (error: unknown) => {
    assert(error instanceof WebtaskError, String(error))
    assert.equal(error.code, code)
    assert.match(error.message, says)
    return true
  }
}

test('code travels from a host through the egress role to the gateway, with ETag and 304', async (t) => {
  const host = createServer((request, response) => {
    if (request.headers['if-none-match'] === '"v1"') response.writeHead(304).end()
    else response.setHeader('etag', '"v1"').end('// "grüß" \u2028')
  }).listen(0, '127.0.0.1')
  await once(host, 'listening')
  t.after(() => (host.closeAllConnections(), host.close()))
  const place = `127.0.0.1:${(host.address() as AddressInfo).port}`
  const events: unknown[] = []
  const log = { info: (fields: object, event: string) => void events.push([event, fields]), warn: () => assert.fail('warned') }
  await using egress = await listenEgress({ socketPath: await socketIn(t), rules: { allow: parseAllowList(place) }, log })
  await using client = createCodeClient({ socketPath: egress.socketPath })
  assert.equal((await stat(egress.socketPath)).mode & 0o777, 0o666)
  const first = await client.fetch({ url: `http://${place}/x.js?key=secret` })
  assert(first.status === 'fetched')
  assert.equal(first.code, '// "grüß" \u2028')
  assert.deepEqual(await client.fetch({ url: `http://${place}/x.js`, etag: first.etag ?? '' }), { status: 'unchanged' })
  await assert.rejects(client.fetch({ url: `http://${place}/x.js`, maxBytes: 5 }), coded('code_unavailable', /larger than 5 bytes/))
  await assert.rejects(client.fetch({ url: 'http://example.com/' }), coded('bad_request', /only https/))
  await assert.rejects(client.fetch({ url: `https://example.com/${'x'.repeat(20_000)}` }), coded('bad_request', /2048/))
  assert.equal(events.length, 4)
  assert.doesNotMatch(JSON.stringify(events), /secret|grüß/)
})

test('whether trying again makes sense crosses the socket', async (t) => {
  const socketPath = await socketIn(t)
  const failures = [new WebtaskError('code_unavailable', 'gone'), new WebtaskError('code_unavailable', 'down', { retryAfterSeconds: 2 })]
  await using _egress = await listenEgress({ socketPath, rules: { allow: [] }, fetchCode: () => Promise.reject(failures.shift()) })
  await using client = createCodeClient({ socketPath })
  await assert.rejects(client.fetch({ url: 'https://a.example/' }), { code: 'code_unavailable', message: 'gone', retryAfterSeconds: undefined })
  await assert.rejects(client.fetch({ url: 'https://a.example/' }), { code: 'code_unavailable', message: 'down', retryAfterSeconds: 2 })
})

test('a failure of the egress role itself tells the gateway nothing and the log everything', async (t) => {
  const socketPath = await socketIn(t)
  const warned: string[] = []
  const log = { info: () => {}, warn: (_: object, event: string) => void warned.push(event) }
  await using _egress = await listenEgress({ socketPath, rules: { allow: [] }, log, fetchCode: () => Promise.reject(new Error('/etc/inner detail')) })
  await using client = createCodeClient({ socketPath })
  await assert.rejects(client.fetch({ url: 'https://a.example/' }), coded('unavailable', /makes no sense/))
  assert.deepEqual(await post(socketPath, '{"url":"https://a.example/"}'), {
    status: 500,
    body: { code: 'internal', message: 'The egress role failed' },
  })
  assert.deepEqual(warned, ['platform.failed', 'platform.failed'])
})

test('bad requests to the socket are refused and the role goes on', async (t) => {
  const socketPath = await socketIn(t)
  const fetchCode: FetchCode = async () => ({ status: 'unchanged' })
  await using _egress = await listenEgress({ socketPath, rules: { allow: [] }, fetchCode })
  for (const body of [
    '',
    'x',
    'null',
    '[]',
    '{}',
    '{"url":1}',
    '{"url":""}',
    '{"url":"x","more":1}',
    '{"url":"x","etag":"no quotes"}',
    '{"url":"x","etag":"\\"a\\r\\nb\\""}',
    '{"url":"x","maxBytes":0}',
    '{"url":"x","maxBytes":1e99}',
    '{"url":"x","maxBytes":"5"}',
  ])
    assert.equal((await post(socketPath, body)).status, 400, body)
  assert.equal((await post(socketPath, 'x'.repeat(100_000))).status, 413)
  assert.equal((await post(socketPath, '{}', { path: '/other' })).status, 404)
  assert.equal((await post(socketPath, '', { method: 'GET' })).status, 405)
  await using client = createCodeClient({ socketPath })
  assert.deepEqual(await client.fetch({ url: 'https://a.example/' }), { status: 'unchanged' })
})

test('a missing, dead or senseless egress role is unavailable, and works again when it is back', async (t) => {
  const socketPath = await socketIn(t)
  const fetchCode: FetchCode = async () => ({ status: 'unchanged' })
  await using client = createCodeClient({ socketPath })
  const ask = () => client.fetch({ url: 'https://a.example/' })
  await assert.rejects(ask(), coded('unavailable', /cannot be reached/))
  {
    await using _egress = await listenEgress({ socketPath, rules: { allow: [] }, fetchCode })
    assert.equal((await ask()).status, 'unchanged')
  }
  await assert.rejects(ask(), coded('unavailable', /cannot be reached/))
  await using _egress = await listenEgress({ socketPath, rules: { allow: [] }, fetchCode })
  assert.equal((await ask()).status, 'unchanged')
})

test('a caller who leaves ends the fetch in the egress role', async (t) => {
  const socketPath = await socketIn(t)
  const begun = Promise.withResolvers<void>()
  const ended = Promise.withResolvers<void>()
  const fetchCode: FetchCode = ({ signal }) => {
    begun.resolve()
    return new Promise((_, reject) =>
      signal?.addEventListener('abort', () => {
        ended.resolve()
        reject(signal.reason)
      }),
    )
  }
  await using _egress = await listenEgress({ socketPath, rules: { allow: [] }, fetchCode })
  await using client = createCodeClient({ socketPath })
  const caller = new AbortController()
  const fetching = client.fetch({ url: 'https://a.example/', signal: caller.signal })
  await begun.promise
  caller.abort(new Error('left'))
  await assert.rejects(fetching, { message: 'left' })
  await ended.promise
})

test('the socket of a killed process is taken over; one that lives, and a file, are left alone', async (t) => {
  const socketPath = await socketIn(t)
  const holder = spawn(process.execPath, ['-e', `require('net').createServer().listen(${JSON.stringify(socketPath)}, () => console.log('up'))`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(holder.stdout, 'data')
  await assert.rejects(listenEgress({ socketPath, rules: { allow: [] } }), { message: /another egress listens/ })
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  assert((await stat(socketPath)).isSocket())
  {
    await using egress = await listenEgress({ socketPath, rules: { allow: [] } })
    assert.equal(egress.socketPath, socketPath)
  }
  await assert.rejects(stat(socketPath), { code: 'ENOENT' })
  await writeFile(socketPath, 'precious')
  await assert.rejects(listenEgress({ socketPath, rules: { allow: [] } }), { message: /something else/ })
})

test('answers that are not what was agreed are not code', async (t) => {
  const socketPath = await socketIn(t)
  let answer = ''
  const impostor = createNetServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => socket.end(answer))
  }).listen(socketPath)
  await once(impostor, 'listening')
  t.after(() => impostor.close())
  await chmod(socketPath, 0o600)
  await using client = createCodeClient({ socketPath })
  const reply = (status: string, body: string) => `HTTP/1.1 ${status}\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`
  for (answer of [
    '',
    'garbage',
    reply('200 OK', ''),
    reply('200 OK', '{"code":1}'),
    reply('200 OK', '{"code":"x","etag":null,"sha256":"../x"}'),
    reply('502 x', '{"code":"token_invalid","message":"m"}'),
    reply('302 x', ''),
    'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"',
  ])
    await assert.rejects(client.fetch({ url: 'https://a.example/' }), coded('unavailable', /egress role/), answer)
})
