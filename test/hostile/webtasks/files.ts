import type { WebtaskCase } from '../webtask-case.ts'

/** Puts /tmp back, so that the tenant's next request finds room. */
const CLEAR = `try { for (const name of fs.readdirSync('/tmp')) fs.rmSync('/tmp/' + name, { recursive: true, force: true }) } catch {}`

/** Calls `act` until it throws, and answers with the error's code. */
const until = (act: string) =>
  `const fs = require('fs'); module.exports = cb => { let i = 0; try { for (; i < 1e6; i++) { ${act} } cb(null, 'no limit') } catch (error) { const { code } = error; ${CLEAR}; cb(null, code) } }`

/** Code that fills, floods and twists what little of a file system there is. */
export const FILES: readonly WebtaskCase[] = [
  {
    name: 'bytes in /tmp',
    code: until(`fs.writeFileSync('/tmp/b' + i, Buffer.alloc(2 ** 20, 1))`),
    underGvisor: ['invocation_timeout'],
    hears: [/ENOSPC/],
  },
  { name: 'files in /tmp', code: until(`fs.writeFileSync('/tmp/f' + i, '')`), underGvisor: ['invocation_timeout'], hears: [/ENOSPC/] },
  {
    name: 'hard links',
    code: until(`if (i === 0) fs.writeFileSync('/tmp/one', ''); else fs.linkSync('/tmp/one', '/tmp/l' + i)`),
    underGvisor: ['invocation_timeout'],
    hears: [/ENOSPC|EMLINK|EPERM/],
  },
  { name: 'symbolic links', code: until(`fs.symlinkSync('x'.repeat(4000), '/tmp/s' + i)`), underGvisor: ['invocation_timeout'], hears: [/ENOSPC/] },
  {
    name: 'directories within directories',
    code: until(`fs.mkdirSync('/tmp/' + 'd/'.repeat(i + 1))`),
    underGvisor: ['invocation_timeout'],
    hears: [/ENAMETOOLONG|ENOSPC|EMFILE/],
    lasting: true,
  },
  {
    name: 'a file with a hole of a terabyte',
    code: `const fs = require('fs'); module.exports = cb => { const fd = fs.openSync('/tmp/large', 'w'); const failed = []; for (const act of [() => fs.ftruncateSync(fd, 2 ** 40), () => fs.writeSync(fd, 'x', 2 ** 40)]) try { act() } catch (e) { failed.push(e.code) } fs.closeSync(fd); fs.rmSync('/tmp/large'); cb(null, failed) }`,
    hears: [/^\["EFBIG","EFBIG"\]$/],
  },
  {
    name: 'open files',
    code: `const fs = require('fs'); module.exports = cb => { const all = []; try { for (;;) all.push(fs.openSync('/dev/null')) } catch (e) { for (const fd of all) fs.closeSync(fd); cb(null, e.code) } }`,
    underGvisor: ['invocation_timeout'],
    hears: [/EMFILE/],
  },
  {
    name: 'open files that stay open',
    code: `const fs = require('fs'); module.exports = cb => { try { for (;;) fs.openSync('/dev/null') } catch (e) { cb(null, e.code) } }`,
    hears: [/EMFILE/, 'sandbox_crashed', 'invocation_timeout'],
  },
  {
    name: 'sockets that stay open',
    code: `const net = require('net'), fs = require('fs'); module.exports = cb => { const path = '/run/wt/' + fs.readdirSync('/run/wt').find((n) => n.endsWith('.sock')); let n = 0; const more = () => { for (let i = 0; i < 50; i++) net.connect(path).on('error', () => {}); if (++n < 40) setImmediate(more); else cb(null, 'open') }; more() }`,
    hears: [/open/, 'sandbox_crashed', 'invocation_timeout'],
    lasting: true,
  },
  {
    name: 'a file that never ends',
    code: `const fs = require('fs'); module.exports = cb => { const all = []; fs.createReadStream('/dev/zero').on('data', (chunk) => all.push(chunk)).on('error', (e) => cb(null, e.code)) }`,
    hears: ['memory_limit', 'invocation_timeout', /ENOENT|EACCES/],
  },
  {
    name: 'a file that never ends, as the answer',
    code: `module.exports = (ctx, req, res) => { require('fs').createReadStream('/dev/zero').pipe(res) }`,
    hears: ['cut'],
  },
  {
    name: 'a file read in one piece that is never whole',
    code: `module.exports = cb => { for (let i = 0; i < 8; i++) require('fs').promises.readFile('/dev/zero').catch(() => {}) }`,
    hears: ['memory_limit', 'invocation_timeout'],
  },
  {
    name: 'watchers without end',
    code: `const fs = require('fs'); module.exports = cb => { const all = []; try { for (let i = 0; i < 20000; i++) { fs.writeFileSync('/tmp/w' + i % 100, ''); all.push(fs.watch('/tmp/w' + i % 100).on('error', () => {})) } cb(null, 'all') } catch (e) { for (const w of all) w.close(); ${CLEAR}; cb(null, e.code) } }`,
    hears: [/EMFILE|ENOSPC|ENOSYS|EPERM|all/, 'invocation_timeout', 'memory_limit'],
  },
  {
    name: 'writing everywhere but in /tmp',
    code: `const fs = require('fs'); module.exports = cb => { const written = []; for (const dir of ['/', '/app', '/app/agent', '/packages', '/run', '/run/wt', '/etc', '/dev', '/usr/local/bin', '/proc', '/sys', '/var', '/lib']) for (const act of [(f) => fs.writeFileSync(f, 'x'), (f) => fs.mkdirSync(f), (f) => fs.symlinkSync('/tmp', f)]) try { act(dir + '/written'); written.push(dir) } catch {} cb(null, written) }`,
    hears: [/^\[\]$/],
  },
  {
    name: 'running a file that it wrote',
    code: `const fs = require('fs'); module.exports = cb => { fs.copyFileSync(process.execPath, '/tmp/program'); fs.chmodSync('/tmp/program', 0o7777); const { error } = require('child_process').spawnSync('/tmp/program', ['--version']); fs.rmSync('/tmp/program'); cb(null, error ? error.code : 'ran') }`,
    hears: [/EACCES/, 'code_invalid', 'script_exception'],
  },
]
