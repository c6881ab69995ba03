import { PROCESSES } from '../tools.ts'
import type { WebtaskCase } from '../webtask-case.ts'

/** Where nothing from a tenant may come: this machine, its networks, the cloud's own addresses, spelled in many ways. */
const PLACES = `const places = [...$TRAPS, ...['127.0.0.1', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1', '169.254.169.254', '::ffff:169.254.169.254', 'fd00:ec2::254', '168.63.129.16', '100.100.100.200', '10.0.0.1', '172.17.0.1', '192.168.0.1', 'fe80::1', '64:ff9b::7f00:1', '2002:7f00:1::1', 'localhost', 'metadata.google.internal'].flatMap((host) => [{ host, port: 80 }, ...$TRAPS.slice(0, 1).map(({ port }) => ({ host, port }))])]`

/** Answers with the places to which a connection came about in the given time. */
const reached = (connect: string, ms = 400) =>
  `${PLACES}; module.exports = cb => { const reached = []; for (const { host, port } of places) try { (${connect})(host, port, () => reached.push(host + ' ' + port)) } catch {} setTimeout(() => cb(null, reached), ${ms}) }`

/** Code that wants to talk to somebody else. Whether there is a way out or none: none of these may be reached. */
export const NETWORK: readonly WebtaskCase[] = [
  {
    name: 'connections',
    code: reached(`(host, port, done) => require('net').connect({ host, port }).on('connect', done).on('error', () => {})`),
    hears: [/^\[\]$/],
  },
  {
    name: 'connections with TLS',
    code: reached(
      `(host, port, done) => require('tls').connect({ host, port, rejectUnauthorized: false }).on('connect', done).on('error', () => {})`,
    ),
    hears: [/^\[\]$/],
  },
  {
    name: 'requests by http',
    code: reached(`(host, port, done) => require('http').get({ host, port, headers: { 'Metadata-Flavor': 'Google' } }, done).on('error', () => {})`),
    hears: [/^\[\]$/],
  },
  {
    name: 'requests by fetch',
    code: reached(
      `(host, port, done) => fetch('http://' + (host.includes(':') ? '[' + host + ']' : host) + ':' + port).then((r) => r.ok && done(), () => {})`,
    ),
    hears: [/^\[\]$/],
  },
  {
    name: 'datagrams',
    code: reached(
      `(host, port, done) => { const socket = require('dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4'); socket.on('error', () => {}); socket.on('message', done); socket.send('hello', port, host, () => {}) }`,
    ),
    hears: [/^\[\]$/, 'script_exception', 'sandbox_crashed'],
  },
  {
    name: 'name servers of its own choice',
    code: reached(
      `(host, port, done) => { const { Resolver } = require('dns'); const resolver = new Resolver({ timeout: 200, tries: 1 }); resolver.setServers([(host.includes(':') ? '[' + host + ']' : host) + ':' + port]); resolver.resolve4('example.com', (error) => error || done()) }`,
    ),
    hears: [/^\[\]$/],
  },
  {
    name: 'a listener of its own',
    code: `module.exports = cb => { const heard = []; for (const host of ['0.0.0.0', '::', '127.0.0.1']) require('net').createServer().on('error', () => {}).on('listening', () => heard.push(host)).listen(0, host); setTimeout(() => cb(null, heard), 100) }`,
    hears: [/^\[.*\]$/],
  },
  {
    name: 'web sockets and event streams',
    code: reached(
      `(host, port, done) => { const socket = new WebSocket('ws://' + (host.includes(':') ? '[' + host + ']' : host) + ':' + port); socket.onopen = done; socket.onerror = () => {} }`,
    ),
    hears: [/^\[\]$/],
  },
  {
    name: 'connections of a child process',
    code: `${PROCESSES}; module.exports = cb => cb(null, inNode("for (const { host, port } of " + JSON.stringify($TRAPS) + ") require('net').connect({ host, port }).on('connect', () => console.log('reached')).on('error', () => {})", 500) || 'none')`,
    hears: [/^"none"$/],
  },
  {
    name: 'sockets without a file',
    code: `module.exports = cb => { const net = require('net'), fs = require('fs'); const reached = []; let names = []; try { names = fs.readFileSync('/proc/net/unix', 'utf8').split('\\n').map((line) => line.split(' ').at(-1)) } catch {} for (const name of [...names.filter((n) => n.startsWith('@')).map((n) => '\\0' + n.slice(1)), '\\0/containerd-shim', '\\0/tmp/.X11-unix/X0', '\\0/org/freedesktop/systemd1']) net.connect(name).on('connect', () => reached.push(name)).on('error', () => {}); setTimeout(() => cb(null, reached), 200) }`,
    hears: [/^\[\]$/],
  },
]
