import { PROCESSES } from '../tools.ts'
import type { WebtaskCase } from '../webtask-case.ts'

const SPIN = 'for (;;) {}'
/** A WebAssembly module with one exported function that never returns. */
const WASM_LOOP = '[0,97,115,109,1,0,0,0,1,4,1,96,0,0,3,2,1,0,7,5,1,1,102,0,0,10,9,1,7,0,3,64,12,0,11,11]'
const LATE: WebtaskCase['hears'] = ['invocation_timeout']
/** Many times what libuv's pool has threads. */
const MANY = 64

/** Code that takes the processor, in all the ways that do not give it back by themselves. */
export const CPU: readonly WebtaskCase[] = [
  { name: 'a loop', code: `module.exports = cb => { ${SPIN} }`, hears: LATE },
  { name: 'a loop while loading', code: `${SPIN}; module.exports = cb => cb()`, hears: LATE },
  { name: 'endless microtasks', code: 'module.exports = cb => { (async () => { for (;;) await null })() }', hears: LATE },
  { name: 'endless ticks', code: 'module.exports = cb => { const again = () => process.nextTick(again); again() }', hears: LATE },
  {
    name: 'endless immediates',
    code: 'module.exports = cb => { const again = () => { for (let i = 0; i < 1e6; i++); setImmediate(again) }; again() }',
    hears: LATE,
  },
  { name: 'a regular expression', code: `module.exports = cb => cb(null, /^(a+)+$/.test('a'.repeat(60) + 'b'))`, hears: LATE },
  {
    name: 'a sleep that never ends',
    code: 'module.exports = cb => { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) }',
    hears: LATE,
  },
  {
    name: 'many threads',
    code: `const { Worker } = require('worker_threads'); module.exports = cb => { for (let i = 0; i < 6; i++) new Worker('${SPIN}', { eval: true }).on('error', () => {}) }`,
    hears: LATE,
  },
  {
    name: 'child processes that spin',
    code: `${PROCESSES}; module.exports = cb => { for (let i = 0; i < 4; i++) spawnNode('${SPIN}') }`,
    hears: LATE,
  },
  {
    name: 'a WebAssembly loop',
    code: `module.exports = cb => { new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(${WASM_LOOP}))).exports.f() }`,
    hears: LATE,
  },
  { name: 'a power of a BigInt', code: 'module.exports = cb => { let n = 3n; for (;;) n = (n ** 2n) % (2n ** 4000000n) }', hears: LATE },
  {
    name: 'parsing JSON for ever',
    code: `const text = JSON.stringify(Array(2e5).fill({ a: [1, { b: 2 }] })); module.exports = cb => { for (;;) JSON.parse(text) }`,
    hears: LATE,
  },
  { name: 'a result that loops when it is written', code: 'module.exports = cb => cb(null, { toJSON() { for (;;); } })', hears: LATE },
  {
    name: 'a sort that never agrees',
    code: 'module.exports = cb => { for (;;) Array.from({ length: 3e5 }, (_, i) => i).sort(() => Math.random() - 0.5) }',
    hears: LATE,
  },
  {
    name: 'a replacement over a long text',
    code: `module.exports = cb => { let text = 'a'.repeat(3e5); for (;;) text.replace(/(?=(a+))b/g, '') }`,
    hears: LATE,
  },
  {
    name: 'key derivations that fill the thread pool',
    code: `const { pbkdf2 } = require('crypto'); module.exports = cb => { for (let i = 0; i < ${MANY}; i++) pbkdf2('p', 's', 1e9, 64, 'sha512', () => {}) }`,
    hears: LATE,
  },
  {
    name: 'a key derivation that does not return',
    code: `module.exports = cb => { require('crypto').pbkdf2Sync('p', 's', 2 ** 31 - 1, 64, 'sha512'); cb() }`,
    hears: LATE,
  },
  {
    name: 'scrypt with all the memory it may have',
    code: `const { scrypt } = require('crypto'); module.exports = cb => { for (let i = 0; i < ${MANY}; i++) scrypt('p', 's', 64, { N: 2 ** 16, r: 8, p: 64, maxmem: 2 ** 28 }, () => {}) }`,
    hears: ['invocation_timeout', 'memory_limit'],
  },
  {
    name: 'compression that never ends',
    code: `const zlib = require('zlib'), bytes = require('crypto').randomBytes(4e6); module.exports = cb => { for (let i = 0; i < ${MANY / 2}; i++) zlib.brotliCompress(bytes, () => {}) }`,
    hears: ['invocation_timeout', 'memory_limit'],
  },
  {
    name: 'a loop on the way out',
    code: `module.exports = cb => { process.on('exit', () => { ${SPIN} }); process.exit(0) }`,
    hears: ['invocation_timeout', 'sandbox_crashed'],
  },
  {
    name: 'a trap in the stack of an error',
    code: `module.exports = cb => { Error.prepareStackTrace = () => { ${SPIN} }; throw new Error('trap') }`,
    hears: LATE,
  },
]
