import { PROCESSES } from '../tools.ts'
import type { WebtaskCase } from '../webtask-case.ts'

/** On a busy machine the time is over before the memory is. */
const FULL: WebtaskCase['hears'] = ['memory_limit', 'invocation_timeout']

/** Code that takes memory of every kind that is counted somewhere else. */
export const MEMORY: readonly WebtaskCase[] = [
  { name: 'the heap', code: 'module.exports = cb => { const all = []; for (;;) all.push(new Array(1e6).fill(all.length)) }', hears: FULL },
  { name: 'the heap while loading', code: 'const all = []; for (;;) all.push({ all: new Array(1e5).fill(1.5) })', hears: FULL },
  { name: 'buffers', code: 'module.exports = cb => { const all = []; setInterval(() => all.push(Buffer.alloc(2 ** 26, 1)), 1) }', hears: FULL },
  {
    name: 'shared buffers',
    code: 'module.exports = cb => { const all = []; setInterval(() => { const b = new SharedArrayBuffer(2 ** 26); new Uint8Array(b).fill(1); all.push(b) }, 1) }',
    hears: FULL,
  },
  {
    name: 'WebAssembly',
    code: 'module.exports = cb => { const all = []; setInterval(() => { const m = new WebAssembly.Memory({ initial: 1000 }); new Uint8Array(m.buffer).fill(1); all.push(m) }, 1) }',
    hears: FULL,
  },
  {
    name: 'strings',
    code: `module.exports = cb => { const all = []; for (;;) all.push(Buffer.alloc(2 ** 24, 97 + all.length % 26).toString('latin1')) }`,
    hears: FULL,
  },
  {
    name: 'a map',
    code: 'module.exports = cb => { const all = new Map(); for (let i = 0; ; i++) all.set({ i }, [i]) }',
    hears: [...FULL, 'script_exception'],
  },
  {
    name: 'holes of arrays',
    code: 'module.exports = cb => { const all = []; for (;;) { const a = []; a[2 ** 25 - 1] = 1; a.fill(0.5); all.push(a) } }',
    hears: FULL,
  },
  {
    name: 'an answer that nobody drains',
    code: `module.exports = (ctx, req, res) => { const { Readable } = require('stream'); const all = []; const source = new Readable({ read() {} }); const more = () => { for (let i = 0; i < 20; i++) source.push(Buffer.alloc(2 ** 20, 1)); setImmediate(more) }; more() }`,
    hears: FULL,
  },
  {
    name: 'messages that nobody reads',
    code: 'module.exports = cb => { const { port1 } = new MessageChannel(); const more = () => { port1.postMessage(new Uint8Array(2 ** 24).fill(1)); setImmediate(more) }; more() }',
    hears: FULL,
  },
  {
    name: 'files in memory beside buffers',
    code: `module.exports = cb => { const fs = require('fs'); for (let i = 0; i < 30; i++) fs.writeFileSync('/tmp/m' + i, Buffer.alloc(2 ** 20, 1)); const all = []; setInterval(() => all.push(Buffer.alloc(2 ** 25, 1)), 1) }`,
    hears: FULL,
  },
  {
    name: 'child processes that eat',
    code: `${PROCESSES}; module.exports = cb => { for (let i = 0; i < 3; i++) spawnNode('const all = []; setInterval(() => all.push(Buffer.alloc(2 ** 25, 1)), 1)') }`,
    hears: ['invocation_timeout', 'memory_limit', 'sandbox_crashed'],
  },
  {
    name: 'a pipe that fills',
    code: `module.exports = cb => { const child = require('child_process').spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']); const more = () => { for (let i = 0; i < 8; i++) child.stdin.write(Buffer.alloc(2 ** 22, 1)); setImmediate(more) }; more() }`,
    hears: FULL,
  },
  {
    name: 'decompression of a bomb',
    code: `const zlib = require('zlib'); module.exports = cb => { const bomb = zlib.gzipSync(Buffer.alloc(2 ** 27)); const all = []; const next = () => zlib.gunzip(bomb, (e, b) => { all.push(b); next() }); next(); next() }`,
    hears: FULL,
  },
]
