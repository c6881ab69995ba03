/** What the code of several cases needs, as text to be put before it. */

/** `spawnNode(code, options)`: a process of its own that runs code; `inNode(code)`: its standard output, when it ends in time. */
export const PROCESSES = `
const { spawn, spawnSync } = require('child_process')
const spawnNode = (code, options) => { const child = spawn(process.execPath, ['-e', code], { stdio: 'ignore', ...options }); child.on('error', () => {}); return child }
const inNode = (code, ms) => { const child = spawnSync(process.execPath, ['-e', code], { timeout: ms || 3000, encoding: 'utf8' }); return child.stdout || '' }
`

/** `tried(list of [name, function])`: the names of those that did not throw; async ones have 300 ms. */
export const TRIES = `
const tried = async (attempts) => {
  const worked = []
  for (const [name, attempt] of attempts) try { if (await Promise.race([attempt(), new Promise((_, no) => setTimeout(no, 300, new Error('late')))]) !== false) worked.push(name) } catch {}
  return worked
}
`

/** `dial()`: a connection to the gateway; `frame(value)`: a message as the agent would send it. */
export const FRAMES = `
const net = require('net'), fs = require('fs')
const frame = (value) => { const body = Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)); const head = Buffer.alloc(4); head.writeUInt32BE(body.length); return Buffer.concat([head, body]) }
const sockets = () => fs.readdirSync('/run/wt').filter((name) => name.endsWith('.sock')).map((name) => '/run/wt/' + name)
const dial = (path) => new Promise((resolve) => { const socket = net.connect(path || sockets()[0]); socket.on('error', () => {}); socket.once('connect', () => resolve(socket)); socket.once('close', () => resolve(socket)) })
const control = async () => { const socket = await dial(); socket.write(frame({ kind: 'hello', role: 'control', version: 1 })); return socket }
`

/**
 * `native(calls)`, in a process of its own: makes system calls that Node has no name for, by writing machine code over a
 * function of the C library through /proc/self/mem, as anybody's native code could. Each call is `[name, number, ...up to five
 * arguments]`, where `'@text'` is the address of that text. Answers with the names of those that did not fail, or `none` where
 * not even that can be done.
 */
export const NATIVE = `
const native = () => {
  const fs = require('fs')
  if (process.arch !== 'x64') return 'none'
  const maps = fs.readFileSync('/proc/self/maps', 'utf8').split('\\n')
  const first = maps.find((line) => / 00000000 .*libc\\.so\\.6$/.test(line))
  if (first === undefined) return 'none'
  const file = fs.readFileSync(first.slice(first.indexOf('/')))
  const sections = Array.from({ length: file.readUInt16LE(60) }, (_, i) => { const at = Number(file.readBigUInt64LE(40)) + i * 64; return { type: file.readUInt32LE(at + 4), at: Number(file.readBigUInt64LE(at + 24)), size: Number(file.readBigUInt64LE(at + 32)), link: file.readUInt32LE(at + 40) } })
  const symbols = sections.find(({ type }) => type === 11)
  const strings = sections[symbols.link].at
  let target
  for (let at = symbols.at; at < symbols.at + symbols.size; at += 24) { const name = strings + file.readUInt32LE(at); if (file.toString('latin1', name, name + 8) === 'getppid\\0') target = Number.parseInt(first, 16) + Number(file.readBigUInt64LE(at + 8)) }
  let memory
  try { memory = fs.openSync('/proc/self/mem', 'r+') } catch { return 'none' }
  const TEXT = 96
  const run = ([, number, ...args]) => {
    const code = Buffer.alloc(160)
    let at = 0
    const values = [number, ...args, 0, 0, 0, 0, 0].slice(0, 6).map((value) => { if (typeof value !== 'string') return BigInt(value); code.write(value.slice(1) + '\\0', TEXT, 'latin1'); return BigInt(target + TEXT) })
    for (const [i, op] of [[0x48, 0xb8], [0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba], [0x49, 0xb8]].entries()) { code.set(op, at); code.writeBigUInt64LE(BigInt.asUintN(64, values[i]), at + 2); at += 10 }
    code.set([0x0f, 0x05, 0xc3], at)
    fs.writeSync(memory, code, 0, code.length, target)
    return process.ppid
  }
  try { if (run(['getpid', 39]) !== process.pid) return 'none' } catch { return 'none' }
  return JSON.stringify(CALLS.filter((call) => run(call) >= 0).map(([name]) => name))
}
process.stdout.write(native())
`
