import type { WebtaskCase } from '../webtask-case.ts'

const FORGED = `'{"level":30,"msg":"token.issued","forged":true}'`

/** Code that prints: too much, in one line, past the console, or lines that pretend to be ours. */
export const OUTPUT: readonly WebtaskCase[] = [
  {
    name: 'a flood of lines',
    code: 'module.exports = cb => { for (let i = 0; i < 50000; i++) console.log("line", i); cb(null, 1) }',
    hears: [/1/, 'invocation_timeout'],
  },
  {
    name: 'a flood of lines that does not end',
    code: 'module.exports = cb => { const more = () => { for (let i = 0; i < 1000; i++) console.error("x".repeat(1000)); setImmediate(more) }; more() }',
    hears: ['invocation_timeout', 'memory_limit'],
  },
  {
    name: 'writes to the descriptors of standard output',
    code: `module.exports = cb => { const fs = require('fs'); for (let i = 0; i < 20000; i++) for (const fd of [1, 2]) try { fs.writeSync(fd, 'direct ' + ${FORGED} + '\\n') } catch {} cb(null, 1) }`,
    hears: [/1/, 'invocation_timeout'],
  },
  {
    name: 'lines that pretend to be the log',
    code: `module.exports = cb => { for (const end of ['\\n', '\\r\\n', '\\r', '\\u2028', '\\u0085', '\\x0b', '\\x0c']) console.log('a' + end + ${FORGED} + end + ${FORGED}); process.stdout.write('\\n' + ${FORGED} + '\\n'); process.stderr.write(Buffer.from(${FORGED} + '\\n')); cb(null, 1) }`,
    hears: [/1/],
  },
  {
    name: 'control characters, broken text and colours',
    code: `module.exports = cb => { console.log('\\x1b[2J\\x1b[H\\x1b]0;title\\x07\\x00\\x08\\x9b31m'); console.log('\\ud800 \\udfff \\ufeff \\u202e'); process.stdout.write(Buffer.from([255, 254, 0, 10, 128, 10])); cb(null, 1) }`,
    hears: [/1/],
  },
  {
    name: 'a line of fifty megabytes',
    code: `module.exports = cb => { console.log('x'.repeat(5e7)); const piece = Buffer.alloc(2 ** 20, 120); for (let i = 0; i < 50; i++) process.stdout.write(piece); cb(null, 1) }`,
    hears: [/1/, 'invocation_timeout', 'memory_limit'],
  },
  {
    name: 'output of children that inherit',
    code: `module.exports = cb => { require('child_process').spawn(process.execPath, ['-e', 'const more = () => { process.stdout.write("child " + "x".repeat(60000) + "\\\\n"); setImmediate(more) }; more()'], { stdio: 'inherit' }).on('error', () => {}) }`,
    hears: ['invocation_timeout', 'memory_limit'],
  },
  {
    name: 'objects that are traps to whoever prints them',
    code: `module.exports = cb => { const inspect = Symbol.for('nodejs.util.inspect.custom'); for (const trap of [{ [inspect]() { throw 1 } }, new Proxy({}, { get() { throw 1 } }), { toString() { throw 1 }, get stack() { throw 1 } }]) try { console.log(trap) } catch {} try { console.log({ [inspect]() { for (;;); } }) } catch {} cb(null, 1) }`,
    hears: ['invocation_timeout'],
  },
]
