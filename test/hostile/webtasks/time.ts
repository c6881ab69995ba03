import type { WebtaskCase } from '../webtask-case.ts'

/** Code that lasts: before its answer, in it and after it. */
export const TIME: readonly WebtaskCase[] = [
  { name: 'never answering', code: 'module.exports = cb => {}', hears: ['invocation_timeout'] },
  {
    name: 'a promise that never settles',
    code: 'module.exports = async () => new Promise(() => setInterval(() => {}, 1000))',
    hears: ['invocation_timeout'],
  },
  {
    name: 'never finishing to load',
    code: 'await new Promise(() => setInterval(() => {}, 1000)); export default cb => cb()',
    hears: ['invocation_timeout'],
  },
  {
    name: 'answering and then spinning',
    code: 'module.exports = cb => { cb(null, "answered"); setTimeout(() => { for (;;); }, 20) }',
    hears: [/answered/],
    lasting: true,
  },
  {
    name: 'answering and then burning in turns',
    code: 'module.exports = cb => { cb(null, "answered"); (function burn() { const end = Date.now() + 20; while (Date.now() < end); setImmediate(burn) })() }',
    hears: [/answered/],
    lasting: true,
  },
  {
    name: 'timers for ever',
    code: 'module.exports = cb => { for (let i = 0; i < 20000; i++) setInterval(() => {}, 1); cb(null, "ticking") }',
    hears: [/ticking/],
    lasting: true,
  },
  {
    name: 'work to wait for that never ends',
    code: 'export default { fetch(request, env, ctx) { for (let i = 0; i < 1000; i++) ctx.waitUntil(new Promise(() => {})); ctx.waitUntil((async () => { for (;;) await new Promise(setImmediate) })()); return new Response("waiting") } }',
    hears: [/waiting/],
    lasting: true,
  },
  {
    name: 'an answer that drips',
    code: 'module.exports = (ctx, req, res) => { res.write("."); setInterval(() => res.write("."), 100) }',
    hears: ['cut'],
  },
  {
    name: 'a header that drips',
    code: `module.exports = (ctx, req, res) => { req.socket.write('HTTP/1.1 200 OK\\r\\n'); setInterval(() => req.socket.write('x: y\\r\\n'), 100) }`,
    hears: ['invocation_timeout', 'cut', 'response_invalid'],
  },
  {
    name: 'growing after the answer',
    code: 'module.exports = cb => { cb(null, "answered"); const all = []; setInterval(() => all.push(Buffer.alloc(2 ** 25, 1)), 5) }',
    hears: [/answered/],
    lasting: true,
  },
  {
    name: 'throwing after the answer, again and again',
    code: 'module.exports = cb => { cb(null, "answered"); process.on("uncaughtException", () => setImmediate(() => { throw new Error("again") })); setImmediate(() => { throw new Error("first") }) }',
    hears: [/answered/],
    lasting: true,
  },
]
