import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EXCEPTIONS } from '../../src/sandbox/posture/exceptions.ts'
import { judge, type Finding } from '../../src/sandbox/posture/judge.ts'
import { parseCgroup, parseCgroupPaths, parseLimits, parseMounts, parseStatus } from '../../src/sandbox/posture/parse.ts'
import { hasFailed, reportText } from '../../src/sandbox/posture/report.ts'
import { LIMITS, MOUNTS, sandboxFacts, STATUS } from '../support/posture-facts.ts'

const failed = (findings: readonly Finding[]) => findings.filter(({ verdict }) => verdict === 'FAIL').map(({ control }) => control)
const excepted = (findings: readonly Finding[]) => findings.filter(({ verdict }) => verdict === 'EXCEPTION').map(({ control }) => control)

test('a sandbox as we make it fails nothing, and every exception that it needs is documented', () => {
  const findings = judge(sandboxFacts())
  assert.deepEqual(failed(findings), [])
  assert.deepEqual(excepted(findings), [
    'PSS baseline: HostPath volumes',
    'PSS restricted: volume types',
    'CIS 5.2',
    'CIS 5.3',
    'CIS 5.27',
    'webtask 3',
  ])
  for (const { verdict, wrong, reason } of findings) {
    assert.equal(wrong.length === 0, verdict === 'PASS')
    assert.equal(reason === undefined, verdict !== 'EXCEPTION')
  }
})

test('every control of the standards is there, once', () => {
  const ids = judge(sandboxFacts()).map(({ control }) => control)
  assert.equal(new Set(ids).size, ids.length)
  for (let item = 1; item <= 32; item += 1) assert.ok(ids.includes(`CIS 5.${item}`), `CIS 5.${item}`)
  for (const { control } of EXCEPTIONS) assert.ok(ids.includes(control), control)
})

const host = (change: object) => ({ facts: { host: { ...sandboxFacts().host, ...change } } })
const cgroup = (change: object) => ({ facts: { cgroup: { ...sandboxFacts().cgroup, ...change } } })
const mounts = (from: string, to: string) => ({ process: { mounts: parseMounts(MOUNTS.replace(from, to)) } })

/** One weakness each, and exactly what it fails. */
const WEAKENED: Record<string, [Parameters<typeof sandboxFacts>[0], string[]]> = {
  'a capability that is added': [{ body: (body) => (body.HostConfig.CapAdd = ['NET_RAW']) }, ['PSS restricted: capabilities', 'CIS 5.4']],
  'a capability of a live process': [{ status: { CapBnd: '00000000a80425fb' } }, ['PSS restricted: capabilities']],
  privileged: [{ body: (body) => (body.HostConfig.Privileged = true) }, ['PSS baseline: privileged containers', 'CIS 5.5']],
  'no filter on a live process': [{ status: { Seccomp: '0' } }, ['PSS restricted: seccomp', 'CIS 5.22', 'webtask 1']],
  'another seccomp profile': [
    { body: (body) => (body.HostConfig.SecurityOpt = ['no-new-privileges:true', 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']) },
    ['webtask 1'],
  ],
  'new privileges': [{ status: { NoNewPrivs: '0' } }, ['PSS restricted: privilege escalation', 'CIS 5.26']],
  'root inside': [{ body: (body) => (body.User = '0:0'), status: { Uid: '0\t0\t0\t0' } }, ['PSS restricted: running as non-root', 'webtask 3']],
  'a uid that differs from the configured one': [{ status: { Uid: '100001\t0\t0\t0' } }, ['PSS restricted: running as non-root']],
  "another container's uid": [host({ otherUsers: ['100001:100001'] }), ['webtask 2']],
  "the machine's network": [
    {
      body: (body) => (body.HostConfig.NetworkMode = 'host'),
      process: { namespaces: { ...sandboxFacts().processes[0]!.namespaces, net: 'net:[101]' } },
    },
    ['PSS baseline: host namespaces', 'CIS 5.10', 'webtask 4'],
  ],
  "the engine's bridge": [{ body: (body) => (body.HostConfig.NetworkMode = 'bridge') }, ['CIS 5.30', 'webtask 4']],
  "the machine's processes": [{ body: (body) => (body.HostConfig.PidMode = 'host') }, ['PSS baseline: host namespaces', 'CIS 5.16']],
  'a writable rendezvous': [
    { body: (body) => (body.HostConfig.Mounts[0].ReadOnly = false), ...mounts('/run/wt ro', '/run/wt rw') },
    ['PSS baseline: HostPath volumes', 'PSS restricted: volume types', 'webtask 5', 'webtask 6'],
  ],
  "the engine's socket": [
    { body: (body) => body.HostConfig.Mounts.push({ Type: 'bind', Source: '/var/run/docker.sock', Target: '/s', ReadOnly: true }) },
    ['PSS baseline: HostPath volumes', 'PSS restricted: volume types', 'CIS 5.32', 'webtask 5'],
  ],
  'a writable root': [{ body: (body) => (body.HostConfig.ReadonlyRootfs = false), ...mounts('/ / ro', '/ / rw') }, ['CIS 5.13', 'webtask 6']],
  'a root that was mounted writable again': [mounts('/ / ro', '/ / rw'), ['CIS 5.13', 'webtask 6']],
  'an executable /tmp': [mounts('/tmp rw,nosuid,nodev,noexec', '/tmp rw,nosuid,nodev'), ['webtask 6']],
  'a /tmp without bounds': [mounts(',size=32768k,nr_inodes=2048', ''), ['webtask 6']],
  'no limit of memory in the kernel': [cgroup({ memoryBytes: Infinity }), ['CIS 5.11']],
  swap: [cgroup({ swapBytes: Infinity }), ['webtask 7']],
  'no limit of processor time': [cgroup({ cpus: Infinity }), ['CIS 5.12']],
  'no limit of processes': [cgroup({ pids: Infinity }), ['CIS 5.29']],
  'a process with another limit': [
    { process: { limits: parseLimits(LIMITS.replace('1024                 1024', '1024                 1048576')) } },
    ['webtask 8'],
  ],
  'a health check': [{ body: (body) => (body.Healthcheck = { Test: ['CMD', 'node'] }) }, ['PSS baseline: host probes and lifecycle hooks']],
  'a terminal': [{ body: (body) => (body.Tty = true) }, ['webtask 9']],
  'a variable that is a secret': [{ body: (body) => body.Env.push('SECRET=1') }, ['webtask 9']],
  'a tag instead of an image': [{ body: (body) => (body.Image = 'webtask-agent:latest') }, ['CIS 5.28']],
  'an unmasked /proc': [{ body: (body) => (body.HostConfig.MaskedPaths = []) }, ['PSS baseline: /proc mount type']],
  'AppArmor that is there and not on': [host({ securityOptions: ['name=apparmor', 'name=seccomp'] }), ['CIS 5.2']],
  'no process to be seen': [
    { facts: { processes: [] } },
    [
      'PSS baseline: host namespaces',
      'PSS restricted: capabilities',
      'PSS restricted: privilege escalation',
      'PSS restricted: running as non-root',
      'PSS restricted: seccomp',
      'CIS 5.13',
      'CIS 5.22',
      'CIS 5.26',
      'CIS 5.32',
      'webtask 1',
      'webtask 5',
      'webtask 6',
      'webtask 8',
    ],
  ],
}

for (const [weakness, [change, controls]] of Object.entries(WEAKENED))
  test(`${weakness}: fails ${controls.length === 1 ? controls[0] : 'the right controls'}`, () => {
    assert.deepEqual(failed(judge(sandboxFacts(change))), controls)
  })

test("under gVisor its own processes are judged as its own: not the machine's user namespace, filtered, without new privileges", () => {
  const gvisor = { status: { Uid: '0\t0\t0\t0', CapEff: '000000000008001f' }, body: (body: any) => (body.HostConfig.Runtime = 'runsc') }
  const apart = { mnt: 'mnt:[9]', net: 'net:[9]', ipc: 'ipc:[9]', uts: 'uts:[9]', user: 'user:[9]', pid: 'pid:[104]', cgroup: 'cgroup:[106]' }
  const facts = sandboxFacts({ ...gvisor, process: { namespaces: apart } })
  assert.deepEqual(failed(judge(facts)), [])
  assert.deepEqual(failed(judge(sandboxFacts({ ...gvisor, process: { namespaces: { ...apart, user: 'user:[105]' } } }))), [
    'PSS baseline: host namespaces',
  ])
})

test('a documented exception covers its control alone, and only while its condition holds', () => {
  const findings = judge(sandboxFacts(), [])
  assert.deepEqual(failed(findings), excepted(judge(sandboxFacts())))
})

test('the cgroups of both versions are read alike', () => {
  assert.deepEqual(parseCgroupPaths('9:name=systemd:/docker/x\n4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/docker/x\n'), {
    version: 1,
    paths: {
      memory: { mount: 'memory', path: '/docker/x' },
      cpu: { mount: 'cpu,cpuacct', path: '/docker/x' },
      cpuacct: { mount: 'cpu,cpuacct', path: '/docker/x' },
    },
  })
  assert.deepEqual(parseCgroupPaths('0::/system.slice/docker-x.scope\n'), { version: 2, path: '/system.slice/docker-x.scope' })
  // On a machine with both, version 1 has the controllers.
  assert.equal(parseCgroupPaths('1:name=systemd:/docker/x\n0::/docker/x\n').version, 2)
  const one = {
    'memory.limit_in_bytes': '536870912\n',
    'memory.memsw.limit_in_bytes': '536870912\n',
    'pids.max': '128\n',
    'cpu.cfs_quota_us': '50000\n',
    'cpu.cfs_period_us': '100000\n',
  }
  const two = { 'memory.max': '536870912\n', 'memory.swap.max': '0\n', 'pids.max': '128\n', 'cpu.max': '50000 100000\n' }
  const limits = { memoryBytes: 536_870_912, swapBytes: 0, pids: 128, cpus: 0.5 }
  assert.deepEqual(parseCgroup(1, one), { version: 1, ...limits })
  assert.deepEqual(parseCgroup(2, two), { version: 2, ...limits })
  const none = { memoryBytes: Infinity, swapBytes: Infinity, pids: Infinity, cpus: Infinity }
  const unlimited = {
    'memory.limit_in_bytes': '9223372036854771712\n',
    'memory.memsw.limit_in_bytes': '9223372036854771712\n',
    'pids.max': 'max\n',
    'cpu.cfs_quota_us': '-1\n',
    'cpu.cfs_period_us': '100000\n',
  }
  assert.deepEqual(parseCgroup(1, unlimited), { version: 1, ...none })
  assert.deepEqual(parseCgroup(2, { 'memory.max': 'max\n', 'memory.swap.max': 'max\n', 'pids.max': 'max\n', 'cpu.max': 'max 100000\n' }), {
    version: 2,
    ...none,
  })
  // A file that is not there limits nothing.
  assert.deepEqual(parseCgroup(1, {}), { version: 1, ...none })
  assert.deepEqual(parseCgroup(2, {}), { version: 2, ...none })
})

test("the kernel's tables are read as they are", () => {
  assert.equal(parseStatus(STATUS).Uid, '100001\t100001\t100001\t100001')
  assert.deepEqual(parseLimits(LIMITS)['cpu time'], { soft: Infinity, hard: Infinity })
  assert.deepEqual(parseLimits(LIMITS)['nice priority'], { soft: 0, hard: 0 })
  const [root] = parseMounts(MOUNTS)
  assert.deepEqual([root!.target, root!.type, root!.options.has('ro'), root!.superOptions.has('rw')], ['/', 'overlay', true, true])
  assert.equal(parseMounts('1 2 0:1 / /a\\040b rw shared:1 master:2 - tmpfs none rw\n')[0]!.target, '/a b')
})

test('the report has one row per control, says what fails where, and counts', () => {
  const one = { sandbox: '1', name: 'webtask-a', runtime: 'runc', findings: judge(sandboxFacts()) }
  const two = { ...one, name: 'webtask-b', findings: judge(sandboxFacts({ status: { NoNewPrivs: '0' } })) }
  assert.equal(hasFailed([one]), false)
  assert.equal(hasFailed([one, two]), true)
  const text = reportText([one, two])
  assert.match(text, /^FAIL +CIS 5\.26 +No process gains privileges\n +process \(node-MainThread\): NoNewPrivs is 0: webtask-b$/m)
  assert.match(text, /^EXCEPTION +CIS 5\.27 .*\n +no HEALTHCHECK: webtask-a and 1 more\n +documented: /m)
  assert.match(text, /2 sandboxes \(runc\): \d+ controls passed, 6 documented exceptions, 2 failed$/)
  assert.equal(reportText([]), 'No sandbox is running')
})
