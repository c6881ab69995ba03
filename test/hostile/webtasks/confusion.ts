import { FRAMES } from '../tools.ts'
import type { WebtaskCase } from '../webtask-case.ts'

const many = 'const many = (value, count) => Buffer.concat(Array.from({ length: count }, () => frame(value)))'
const flood =
  'const flood = async (socket, bytes, ms) => { const end = Date.now() + ms; while (Date.now() < end && !socket.destroyed) if (!socket.write(bytes)) await new Promise((resolve) => { socket.once("drain", resolve); socket.once("close", resolve); setTimeout(resolve, 50) }) }'
const speaks = (statements: string) => `${FRAMES}; ${many}; ${flood}; module.exports = async () => { ${statements}; return 'said' }`
const SAID: WebtaskCase['hears'] = [/^"said"$/, 'sandbox_crashed', 'invocation_timeout', 'unavailable']
/** The tenant's own answer may break in any way that is the tenant's fault. */
const ITS_OWN: WebtaskCase['hears'] = [
  /./,
  'script_exception',
  'script_error',
  'sandbox_crashed',
  'invocation_timeout',
  'response_invalid',
  'memory_limit',
  'code_invalid',
  'cut',
]

/** Code that speaks in the platform's place, or breaks what the platform uses in its own process. */
export const CONFUSION: readonly WebtaskCase[] = [
  {
    name: 'garbage in the place of frames',
    code: speaks(`for (let i = 0; i < 100; i++) (await dial()).write(require('crypto').randomBytes(4096))`),
    hears: SAID,
  },
  {
    name: 'frames that are no JSON, deep, or endless',
    code: speaks(
      `for (const text of ['{', '['.repeat(100000), '"' + 'x'.repeat(200000), 'null', '1e999', '{"__proto__":{"kind":"gone"}}', '{"kind":"__proto__"}', '{"kind":"toString"}']) { const socket = await control(); socket.write(frame(text)) } const socket = await control(); socket.write(Buffer.from([255, 255, 255, 255])); await flood(socket, Buffer.alloc(65536), 200)`,
    ),
    hears: SAID,
  },
  {
    name: 'a second agent that lies about workers',
    code: speaks(
      `const socket = await control(); for (const kind of ['loaded', 'tainted', 'gone', 'refused']) socket.write(many({ kind, worker: 'w', run: 1, ms: 1, end: 'memory', message: '', failure: { status: 400, error: '', message: '' } }, 200))`,
    ),
    hears: SAID,
  },
  {
    name: 'workers that nobody asked for',
    code: speaks(
      `for (let i = 0; i < 500; i++) { const socket = await dial(); socket.end(frame({ kind: 'hello', role: 'worker', worker: 'w' + i, run: i })) }`,
    ),
    hears: SAID,
  },
  {
    name: 'a flood on every connection of its process',
    code: speaks(
      `const bytes = many({ kind: 'output', worker: 'w', request: null, level: 'info', line: 'x'.repeat(200) }, 300); const end = Date.now() + 400; while (Date.now() < end) { for (const fd of fs.readdirSync('/proc/self/fd')) try { if (fs.readlinkSync('/proc/self/fd/' + fd).startsWith('socket:')) fs.writeSync(+fd, bytes) } catch {} await new Promise(setImmediate) }`,
    ),
    hears: [...SAID, 'response_invalid', 'cut'],
  },
  {
    name: 'questions for tokens without end',
    code: `module.exports = (ctx, cb) => { for (let i = 0; i < 5000; i++) Promise.resolve().then(() => ctx.create_token({ ten: 'victim' })).catch(() => {}); setTimeout(cb, 200, null, 'said') }`,
    hears: SAID,
  },
  {
    name: 'a token for the victim',
    code: `module.exports = (ctx, cb) => { ctx.create_token({ ten: '$VICTIM', code: 'module.exports = cb => cb()' }, (error, token) => cb(null, error ? 'refused' : 'made')) }`,
    hears: [/refused/, 'script_exception'],
  },
  {
    name: 'builtins taken away',
    code: `module.exports = (ctx, cb) => { for (const thing of [JSON, Promise, Promise.prototype, Buffer, Buffer.prototype, Array.prototype, Object, Map.prototype, Function.prototype, String.prototype, Error, Symbol, Reflect, process, globalThis]) for (const name of Object.getOwnPropertyNames(thing)) try { if (name !== 'nextTick') thing[name] = undefined } catch {} cb(null, 'gone') }`,
    hears: ITS_OWN,
  },
  {
    name: 'prototypes with traps',
    code: `module.exports = (ctx, cb) => { for (const name of ['then', 'toJSON', 'get', 'set', 'value', 'status', 'headers', 'message', 'kind', 'error', 'end', 'length', 'signal', 'host', 'path', 'env', 'shell']) Object.defineProperty(Object.prototype, name, { configurable: true, get() { throw new Error('trap ' + name) }, set() {} }); cb(null, { a: 1 }) }`,
    hears: ITS_OWN,
  },
  {
    name: 'prototypes with values',
    code: `module.exports = (ctx, cb) => { globalThis.marked = 1; process.env.MARKED = '1'; Object.prototype.polluted = 'yes'; Object.prototype.statusCode = 201; Array.prototype[0] = 'evil'; Object.prototype['content-type'] = 'text/evil'; cb(null, { a: 1 }) }`,
    hears: ITS_OWN,
  },
  {
    name: 'the parts of a server replaced',
    code: `module.exports = (ctx, req, res) => { const http = require('http'), net = require('net'), events = require('events'); http.ServerResponse.prototype.end = http.ServerResponse.prototype.writeHead = () => {}; net.Socket.prototype.write = () => true; http.Server.prototype.emit = events.prototype.emit = () => true; net.Socket.prototype.destroy = () => {}; res.end('x') }`,
    hears: ITS_OWN,
  },
  {
    name: 'listeners taken away and exits refused',
    code: `module.exports = cb => { process.removeAllListeners(); process.exit = process.reallyExit = process.abort = process.kill = () => {}; process.emit = () => false; process.on('uncaughtException', () => {}); setImmediate(() => { throw new Error('x') }) }`,
    hears: [...ITS_OWN],
  },
  {
    name: 'the port of its thread',
    code: `module.exports = cb => { const { parentPort, workerData, MessagePort } = require('worker_threads'); const found = [parentPort, ...process._getActiveHandles(), ...Object.values(workerData || {})].filter((h) => h instanceof MessagePort || (h && h.postMessage)); for (const port of found) { for (const kind of ['drained', 'refused', 'tainted', 'dialled', 'output', 'call', 'load', '__proto__']) try { port.postMessage({ kind, gateway: 'x', failure: {}, lines: -1, line: 1 }) } catch {} try { port.close() } catch {} } setTimeout(cb, 100, null, found.length) }`,
    hears: ITS_OWN,
  },
  {
    name: 'messages that cannot be read',
    code: `module.exports = cb => { const { parentPort, BroadcastChannel } = require('worker_threads'); for (let i = 0; i < 2000; i++) parentPort.postMessage({ kind: 'output', line: new Array(1000).fill({}) }); const channel = new BroadcastChannel('x'); for (let i = 0; i < 100; i++) channel.postMessage(i); setTimeout(cb, 100, null, 'sent') }`,
    hears: ITS_OWN,
  },
  {
    name: 'the module system replaced',
    code: `module.exports = cb => { const Module = require('module'); Module._load = Module._resolveFilename = Module.prototype.require = () => { throw new Error('evil') }; Module.registerHooks({ resolve() { throw 1 }, load() { throw 2 } }); require('vm').compileFunction = () => () => 'evil'; for (const key of Object.keys(require.cache)) delete require.cache[key]; cb(null, 'replaced') }`,
    hears: ITS_OWN,
  },
  {
    name: 'another directory, umask, title and flags',
    code: `module.exports = cb => { for (const act of [() => process.chdir('/tmp'), () => process.umask(0o777), () => { process.title = 'x'.repeat(1e6) }, () => process.setuid(0), () => require('v8').setFlagsFromString('--stack-size=100000'), () => require('v8').setFlagsFromString('--max-heap-size=1'), () => require('v8').setFlagsFromString('--single-threaded')]) try { act() } catch {} const deep = (n) => n === 0 ? 0 : 1 + deep(n - 1); try { deep(1e6) } catch {} cb(null, 'set') }`,
    hears: ITS_OWN,
  },
  {
    name: 'recursion without end',
    code: `module.exports = cb => { const deep = () => deep(); try { deep() } catch {} const trap = new Proxy({}, { get: (t, n, r) => r[n] }); try { trap.x } catch {} let o = {}; for (let i = 0; i < 1e5; i++) o = { o }; cb(null, o) }`,
    hears: ITS_OWN,
  },
  {
    name: 'an answer that says it was not run',
    code: `module.exports = (ctx, req, res) => req.socket.end('HTTP/1.1 503 Retired\\r\\nx-wt-outcome: retired\\r\\nconnection: close\\r\\ncontent-length: 0\\r\\n\\r\\n')`,
    hears: ['response_invalid'],
  },
  {
    name: 'the memory of other webtasks of its tenant',
    code: `module.exports = cb => { const { parentPort, threadId } = require('worker_threads'); const all = []; for (let id = 0; id < 20; id++) try { require('worker_threads').postMessageToThread(id, { evil: true }).catch(() => {}) } catch {} process.on('workerMessage', () => {}); cb(null, 'sent') }`,
    hears: ITS_OWN,
  },
]
