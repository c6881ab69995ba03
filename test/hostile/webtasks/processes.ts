import { PROCESSES } from '../tools.ts'
import type { WebtaskCase } from '../webtask-case.ts'

/** Code of a process that starts two of itself, and so on. */
const FORKS = `const code = process.argv[1]; const start = () => { for (let i = 0; i < 2; i++) require('child_process').spawn(process.execPath, ['-e', code, code], { stdio: 'ignore', detached: true }).on('error', () => {}) }; start(); setInterval(start, 100)`

/** Code that starts processes and threads, and sends signals to all it can name. */
export const PROCESS_CASES: readonly WebtaskCase[] = [
  {
    name: 'a fork bomb',
    code: `const { spawn } = require('child_process'); const code = ${JSON.stringify(FORKS)}; module.exports = cb => { spawn(process.execPath, ['-e', code, code], { stdio: 'ignore' }).on('error', () => {}) }`,
    hears: ['invocation_timeout', 'sandbox_crashed', 'memory_limit'],
    lasting: true,
  },
  {
    name: 'a daemon that was forked twice and spins',
    code: `${PROCESSES}; module.exports = cb => { spawnNode("require('child_process').spawn(process.execPath, ['-e', 'for (;;) {}'], { stdio: 'ignore', detached: true }).unref()", { detached: true }).on('exit', () => cb(null, 'forked')) }`,
    hears: [/forked/, 'invocation_timeout'],
    lasting: true,
  },
  {
    name: 'a daemon in a session of its own that starts daemons',
    code: `${PROCESSES}; module.exports = cb => { const code = "setInterval(() => require('child_process').spawn(process.execPath, ['-e', 'setTimeout(() => {}, 5000)'], { stdio: 'ignore', detached: true }).on('error', () => {}).unref(), 50)"; spawnNode(code, { detached: true }).unref(); setTimeout(cb, 200, null, 'left') }`,
    hears: [/left/, 'sandbox_crashed', 'memory_limit', 'invocation_timeout'],
    lasting: true,
  },
  {
    name: 'zombies whose parent stands still',
    code: `${PROCESSES}; module.exports = cb => { const parent = spawnNode("for (let i = 0; i < 30; i++) require('child_process').spawn(process.execPath, ['--version'], { stdio: 'ignore' }).on('error', () => {}); process.kill(process.pid, 'SIGSTOP')"); setTimeout(cb, 500, null, 'stopped') }`,
    hears: [/stopped/, 'invocation_timeout', 'sandbox_crashed', 'memory_limit'],
    lasting: true,
  },
  {
    name: 'threads until there are no more',
    code: `const { Worker } = require('worker_threads'); module.exports = cb => { const more = () => { try { for (let i = 0; i < 4; i++) new Worker('setInterval(() => {}, 1000)', { eval: true }).on('error', () => {}) } catch {} setImmediate(more) }; more() }`,
    hears: ['invocation_timeout', 'memory_limit', 'sandbox_crashed'],
  },
  {
    name: 'stopping the agent with itself',
    code: `module.exports = cb => { process.kill(process.pid, 'SIGSTOP'); setTimeout(cb, 100) }`,
    hears: ['invocation_timeout', 'sandbox_crashed'],
  },
  {
    name: 'a child that stops the agent after the answer',
    code: `${PROCESSES}; module.exports = cb => { spawnNode("setTimeout(() => process.kill(process.ppid, 'SIGSTOP'), 100)"); cb(null, 'soon') }`,
    hears: [/soon/],
    lasting: true,
  },
  {
    name: 'signals to the init and to everybody',
    code: `module.exports = cb => { for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2', 'SIGSTOP', 'SIGKILL']) for (const pid of [1, process.ppid]) try { process.kill(pid, signal) } catch {} setTimeout(cb, 100, null, 'sent') }`,
    hears: [/sent/, 'sandbox_crashed'],
  },
  {
    name: 'killing everything that can be named',
    code: `module.exports = cb => { for (let pid = 2; pid < 4096; pid++) if (pid !== process.pid) try { process.kill(pid, 'SIGKILL') } catch {} try { process.kill(-1, 'SIGKILL') } catch {} setTimeout(cb, 100, null, 'alive') }`,
    hears: [/alive/, 'sandbox_crashed'],
  },
  { name: 'killing itself', code: `module.exports = cb => process.kill(process.pid, 'SIGKILL')`, hears: ['sandbox_crashed'] },
  {
    name: 'ignoring the signals that ask it to end',
    code: `module.exports = cb => { for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGPIPE']) try { process.on(signal, () => {}) } catch {} for (;;); }`,
    hears: ['invocation_timeout'],
  },
  {
    name: 'a process put in its own place',
    code: `module.exports = cb => { try { process.execve(process.execPath, ['node', '-e', 'setInterval(() => {}, 1000)'], {}) } catch (error) { return cb(null, 'refused') } }`,
    hears: [/refused/, 'sandbox_crashed'],
  },
]
