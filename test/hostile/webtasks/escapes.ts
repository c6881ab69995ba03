import { FRAMES, NATIVE, PROCESSES, TRIES } from '../tools.ts'
import type { WebtaskCase } from '../webtask-case.ts'

const NOTHING: WebtaskCase['hears'] = [/^\[\]$/]

/** Answers with the names of the attempts that worked. */
const attempts = (list: string, before = '') => `const fs = require('fs'); ${TRIES}; ${before}; module.exports = async () => tried([${list}])`

/** One attempt for each file: to read, or to write to it. */
const readsOf = (files: readonly string[]) => attempts(`...${JSON.stringify(files)}.map((file) => [file, () => fs.readFileSync(file).length > 0])`)
const writesOf = (files: readonly string[]) => attempts(`...${JSON.stringify(files)}.map((file) => [file, () => fs.writeFileSync(file, '1')])`)

const NEW_USER = 0x1000_0000
const SIGCHLD = 17
const BLOCK_DEVICE = 0o060600
/** System calls that would be a way out, or the begin of one, with arguments with which they would succeed where they are allowed. */
const CALLS = [
  ['unshare user', 272, NEW_USER],
  ['unshare mount', 272, 0x2_0000],
  ['unshare network', 272, 0x4000_0000],
  ['clone user', 56, NEW_USER | SIGCHLD],
  ['ptrace', 101, 0],
  ['mount', 165, 0, '@/', 0, 0x4_4000],
  ['umount', 166, '@/proc', 2],
  ['pivot_root', 155, '@/', '@/'],
  ['chroot', 161, '@/'],
  ['mknod', 133, '@/tmp/disk', BLOCK_DEVICE, 0xfe00],
  ['socket inet', 41, 2, 1, 0],
  ['socket inet6', 41, 10, 1, 0],
  ['socket netlink', 41, 16, 3, 0],
  ['socket packet', 41, 17, 3, 0],
  ['socket alg', 41, 38, 5, 0],
  ['socket vsock', 41, 40, 1, 0],
  ['setuid', 105, 0],
  ['setgid', 106, 0],
  ['setgroups', 116, 0, 0],
  ['keyctl', 250, 0, -3, 1],
  ['userfaultfd', 323, 1],
  ['fanotify_init', 300, 0, 0],
  ['memory of the init', 310, 1, 0, 0, 0, 0],
  ['personality', 135, 0x004_0000],
  ['iopl', 172, 3],
  ['acct', 163, 0],
  ['syslog', 103, 10],
  ['sethostname', 170, '@owned', 5],
  ['swapoff', 168, '@/swap'],
  ['open_by_handle_at', 304, -100, '@xxxxxxxxxxxx', 0],
  ['setpriority', 141, 0, 0, -20],
  ['sched_setscheduler', 144, 0, 1, '@\u0001\u0000\u0000\u0000'],
  ['securebits', 157, 28, 1],
  ['ambient capability', 157, 47, 2, 0],
] as const

/** Code that looks for a way out of its container. */
export const ESCAPES: readonly WebtaskCase[] = [
  {
    name: 'system calls by native code',
    code: `${PROCESSES}; module.exports = cb => cb(null, inNode(${JSON.stringify(`const CALLS = ${JSON.stringify(CALLS)}; ${NATIVE}`)}))`,
    hears: [/^"\[\]"$/, /^"none"$/],
  },
  {
    name: 'files of the machine',
    code: readsOf([
      '/etc/shadow',
      '/etc/passwd',
      '/etc/hostname',
      '/root/.ssh/id_rsa',
      '/var/run/docker.sock',
      '/var/lib/docker',
      '/dev/vda',
      '/dev/sda',
      '/dev/mem',
      '/dev/kmsg',
      '/proc/kcore',
      '/proc/kmsg',
      '/proc/keys',
      '/proc/sched_debug',
      '/proc/timer_list',
      '/sys/kernel/debug',
      '/sys/firmware/dmi/tables/DMI',
      '/proc/1/environ',
      '/proc/1/root/etc/shadow',
      '/proc/1/root/app/agent/main.js',
      '/proc/1/cwd/etc/passwd',
      '/proc/1/mem',
      '/proc/1/maps',
    ]),
    // The names of the container's own host entry and user come from the engine.
    hears: [/^(\[\]|\["\/etc\/hostname"\]|\["\/etc\/[a-z]+"(,"\/proc\/1\/[a-z/.]+")*\]|\[("\/proc\/1\/[a-z/.]+",?)*\])$/],
  },
  {
    name: 'switches of the kernel',
    code: writesOf([
      '/proc/sysrq-trigger',
      '/proc/sys/kernel/core_pattern',
      '/proc/sys/kernel/modprobe',
      '/proc/sys/vm/drop_caches',
      '/proc/sys/vm/panic_on_oom',
      '/proc/sys/fs/binfmt_misc/register',
      '/proc/irq/default_smp_affinity',
      '/proc/bus/pci/00/00.0',
      '/sys/kernel/uevent_helper',
      '/sys/power/state',
      '/sys/kernel/mm/ksm/run',
      '/sys/module/kernel/parameters/panic',
      '/proc/self/setgroups',
      '/proc/self/uid_map',
      '/proc/1/attr/current',
      '/dev/kmsg',
    ]),
    hears: NOTHING,
  },
  {
    name: 'the files of its own limits',
    code: attempts(
      `...['/sys/fs/cgroup', '/sys/fs/cgroup/memory', '/sys/fs/cgroup/pids', '/sys/fs/cgroup/cpu', '/sys/fs/cgroup/devices'].flatMap((dir) => [['memory.limit_in_bytes', '-1'], ['memory.max', 'max'], ['pids.max', 'max'], ['cpu.cfs_quota_us', '-1'], ['cpu.max', 'max'], ['release_agent', '/tmp/x'], ['notify_on_release', '1'], ['cgroup.procs', '0'], ['devices.allow', 'a'], ['freezer.state', 'THAWED']].map(([name, value]) => [dir + '/' + name, () => fs.writeFileSync(dir + '/' + name, value)])), ...['/sys/fs/cgroup/mine', '/sys/fs/cgroup/memory/mine'].map((dir) => [dir, () => fs.mkdirSync(dir)])`,
    ),
    hears: NOTHING,
  },
  {
    name: 'making itself less likely to be killed',
    code: attempts(
      `...['-1000', '-1'].map((value) => ['score ' + value, () => fs.writeFileSync('/proc/self/oom_score_adj', value)]), ['priority', () => { require('os').setPriority(-10) }], ['priority of the init', () => { require('os').setPriority(1, -1) }]`,
    ),
    underGvisor: [/^\[("(score -1|score -1000|priority|priority of the init)",?)*\]$/],
    hears: NOTHING,
  },
  {
    name: 'becoming somebody else',
    code: attempts(
      `['child as root', () => require('child_process').spawnSync(process.execPath, ['--version'], { uid: 0, gid: 0 }).status === 0], ['child as the next tenant', () => require('child_process').spawnSync(process.execPath, ['--version'], { uid: process.getuid() + 1 }).status === 0], ['chown', () => { fs.writeFileSync('/tmp/o', ''); fs.chownSync('/tmp/o', 0, 0) }]`,
    ),
    hears: NOTHING,
  },
  {
    name: 'sockets that are not its own',
    code: `${FRAMES}; module.exports = async () => {
      const found = []
      const walk = (dir, depth) => { let entries = []; try { entries = fs.readdirSync(dir, { withFileTypes: true }) } catch {} for (const entry of entries) { const path = dir + (dir.endsWith('/') ? '' : '/') + entry.name; if (entry.isSocket()) found.push(path); if (entry.isDirectory() && depth < 4 && !/^\\/(proc|sys|packages)/.test(path)) walk(path, depth + 1) } }
      walk('/', 0)
      const named = ['/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/run/webtask', '/run/wt/../../run/docker.sock', '/proc/1/root/run/docker.sock', '/proc/1/root/var/run/docker.sock', '/run/wt/../$VICTIM']
      const reached = []
      await Promise.all(named.map(async (path) => { const socket = await dial(path); if (!socket.destroyed) reached.push(path) }))
      return [...found.filter((path) => !/^\\/run\\/(wt\\/[^/]+|wt-egress\\/egress)\\.sock$/.test(path)), ...reached]
    }`,
    hears: NOTHING,
  },
  {
    name: 'links in the place of the rendezvous',
    code: attempts(
      `['remove', () => fs.rmSync(sockets()[0])], ['rename', () => fs.renameSync(sockets()[0], '/run/wt/old')], ['link', () => fs.symlinkSync('/var/run/docker.sock', '/run/wt/a.sock')], ['hard link', () => fs.linkSync(sockets()[0], '/run/wt/b.sock')], ['link elsewhere', () => fs.linkSync(sockets()[0], '/tmp/b.sock')], ['mode', () => fs.chmodSync(sockets()[0], 0)], ['mode of the directory', () => fs.chmodSync('/run/wt', 0o777)], ['times', () => fs.utimesSync(sockets()[0], 0, 0)], ['write', () => fs.writeFileSync(sockets()[0], 'x')], ['listen', () => new Promise((yes, no) => net.createServer().on('error', no).listen('/run/wt/c.sock', yes))], ['truncate', () => fs.truncateSync(sockets()[0], 0)]`,
      FRAMES.replace(`, fs = require('fs')`, ''),
    ),
    hears: NOTHING,
  },
  {
    name: 'native add-ons',
    code: attempts(
      `['dlopen', () => process.dlopen({ exports: {} }, '/tmp/x.node')], ['dlopen of a library', () => process.dlopen({ exports: {} }, process.execPath)], ['a child that may', () => { fs.writeFileSync('/tmp/x.node', fs.readFileSync(fs.readFileSync('/proc/self/maps', 'utf8').match(/\\/\\S*libc\\.so\\.6/)[0])); const { stdout } = require('child_process').spawnSync(process.execPath, ['-e', "try { process.dlopen({ exports: {} }, '/tmp/x.node'); console.log('loaded') } catch (e) { console.log(/did not self-register/.test(e.message) ? 'loaded' : '') }"], { encoding: 'utf8' }); fs.rmSync('/tmp/x.node'); return stdout.includes('loaded') }]`,
    ),
    underGvisor: [/^\["a child that may"\]$/],
    hears: NOTHING,
  },
  {
    name: 'the inside of Node',
    code: attempts(
      `['binding', () => process.binding('process_wrap').Process && false], ['natives', () => { v8: for (const flag of ['--allow-natives-syntax', '--expose-gc']) require('v8').setFlagsFromString(flag); return false }], ['report', () => { process.report.directory = '/run/wt'; process.report.writeReport('x.json'); return fs.existsSync('/run/wt/x.json') }], ['heap snapshot', () => require('v8').writeHeapSnapshot('/run/wt/x.heapsnapshot')], ['core', () => { const { signal } = require('child_process').spawnSync(process.execPath, ['-e', 'process.chdir("/tmp"); process.abort()']); return fs.readdirSync('/tmp').some((name) => name.startsWith('core')) }]`,
    ),
    hears: NOTHING,
  },
  {
    name: 'the debugger',
    code: `const net = require('net'); module.exports = cb => { const open = []; process.kill(process.pid, 'SIGUSR1'); try { require('inspector').open(0, '0.0.0.0'); open.push(require('inspector').url()) } catch {} require('child_process').spawn(process.execPath, ['--inspect=0.0.0.0:9230', '-e', 'setTimeout(() => {}, 300)'], { stdio: 'ignore' }).on('error', () => {}); setTimeout(() => { for (const port of [9229, 9230]) net.connect(port, '127.0.0.1').on('connect', () => open.push(port)).on('error', () => {}) }, 150); setTimeout(() => cb(null, open.filter(Boolean)), 300) }`,
    underGvisor: [/./],
    hears: [...NOTHING, 'sandbox_crashed'],
  },
  {
    name: 'the supervisor by the inspector of its thread',
    code: `module.exports = cb => { const { Session } = require('inspector'); const session = new Session(); session.connectToMainThread(); session.post('Runtime.evaluate', { expression: 'process.exit(0)' }, () => {}); session.post('Runtime.evaluate', { expression: 'for (;;);' }, () => {}); setTimeout(cb, 300, null, 'done') }`,
    hears: [/done/, 'sandbox_crashed', 'invocation_timeout', 'script_exception', 'memory_limit'],
  },
  {
    name: 'its own memory',
    code: `const fs = require('fs'); module.exports = cb => { const fd = fs.openSync('/proc/self/mem', 'r+'); const [line] = fs.readFileSync('/proc/self/maps', 'utf8').split('\\n').filter((l) => / r-xp .*libc/.test(l)); const [from, to] = line.split(' ')[0].split('-').map((a) => Number.parseInt(a, 16)); fs.writeSync(fd, Buffer.alloc(to - from, 0xcc), 0, to - from, from); setTimeout(cb, 100, null, 'alive') }`,
    hears: [/alive/, 'sandbox_crashed', 'script_exception'],
  },
  {
    name: 'traces of others',
    code: `const fs = require('fs'); module.exports = cb => { const texts = []; for (const pid of fs.readdirSync('/proc').filter((n) => /^\\d+$/.test(n))) for (const file of ['environ', 'cmdline', 'mountinfo', 'cgroup', 'stat']) try { texts.push(fs.readFileSync('/proc/' + pid + '/' + file, 'utf8')) } catch {} for (const file of ['/proc/net/unix', '/proc/mounts', '/proc/self/cgroup']) try { texts.push(fs.readFileSync(file, 'utf8')) } catch {} cb(null, /$VICTIM|master\\.token|REDIS|docker\\.sock|dockerd/.test(texts.join()) ? 'found' : 'nothing') }`,
    hears: [/nothing/],
  },
]
