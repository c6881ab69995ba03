import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import type Docker from 'dockerode'
import { uidOf } from '../../src/sandbox/spec.ts'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { containersOf, docker } from '../support/docker.ts'

const SECRET = 'sentinel-4f1d9c'
let deployment: Deployment
let inspected: Docker.ContainerInspectInfo

before(async () => {
  deployment = await startDeployment({ WEBTASK_PREWARMED: '0' })
  const token = await deployment.issue({ ten: 'acme', code: 'module.exports = (ctx, cb) => cb(null, ctx.secrets.S.length)', ectx: { S: SECRET } })
  assert.equal((await deployment.ask('/api/run/acme', { token })).text, String(SECRET.length))
  const [container] = await containersOf(deployment.id, 'sandbox')
  inspected = await docker.getContainer(container!.Id).inspect()
})
after(() => deployment.stop())

/** Runs code in the tenant's container and gives back its result. */
async function inside(body: string): Promise<any> {
  const answer = await deployment.run('acme', `module.exports = async () => { ${body} }`)
  assert.equal(answer.status, 200, answer.text)
  return answer.json()
}

/** One field of /proc/<pid>/status of the live agent, seen from the host. */
function status(field: string): string {
  const init = inspected.State.Pid
  const child = readFileSync(`/proc/${init}/task/${init}/children`, 'utf8').trim().split(' ')[0]
  return new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${child}/status`, 'utf8'))![1]!
}

test('a sandbox has no network interface but the loopback, which no socket reaches', async () => {
  assert.equal(inspected.HostConfig.NetworkMode, 'none')
  const names = await inside(
    'return { up: Object.keys(require("os").networkInterfaces()), all: require("fs").readFileSync("/proc/net/dev", "utf8").split("\\n").slice(2).filter(Boolean).map(l => l.split(":")[0].trim()) }',
  )
  assert.deepEqual(
    names.all.filter((name: string) => !/^(lo|tunl0|sit0|ip6tnl0|gre0|gretap0|erspan0|ip_vti0|ip6_vti0|ip6gre0|dummy0)$/.test(name)),
    [],
  )
  assert.deepEqual(names.up, [])
  const refused = await inside(`
    const tried = (act) => new Promise((resolve) => { try { act(resolve) } catch (e) { resolve(e.code) } })
    return {
      listen: await tried((done) => require('net').createServer().on('error', (e) => done(e.code)).listen(0, () => done('listening'))),
      udp: await tried((done) => require('dgram').createSocket('udp4').on('error', (e) => done(e.code)).bind(0, () => done('bound'))),
    }`)
  // What needs no socket to be refused says so as a policy; whoever gets around that meets the filter of the kernel.
  assert.deepEqual(refused, { listen: 'EPERM', udp: 'EACCES' })
})

test('the live process has no capability, no way to new privileges, a seccomp filter and a uid of its own', () => {
  assert.equal(status('CapEff'), '0000000000000000')
  assert.equal(status('CapBnd'), '0000000000000000')
  assert.equal(status('NoNewPrivs'), '1')
  assert.equal(status('Seccomp'), '2')
  const uid = uidOf(deployment.id, Number(inspected.Config.Labels['webtask.slot']))
  assert.equal(status('Uid'), [uid, uid, uid, uid].join('\t'))
  assert.equal(status('Gid'), [uid, uid, uid, uid].join('\t'))
})

test('it runs the image that was meant, by its id, and says which template made it', async () => {
  const image = await docker.getImage(process.env.WEBTASK_AGENT_IMAGE ?? 'webtask-agent').inspect()
  assert.equal(inspected.Config.Image, image.Id)
  assert.equal(inspected.Image, image.Id)
  assert.match(inspected.Config.Labels['webtask.spec']!, /^[0-9a-f]{16}$/)
})

test('the root and the rendezvous are read-only; only a small /tmp can be written, and nothing there be executed', async () => {
  const tried = await inside(`
    const fs = require('fs'); const out = {}
    for (const file of ['/x', '/app/x', '/packages/x', '/run/wt/x', '/run/wt-egress/x', '/etc/x', '/tmp/x']) { try { fs.writeFileSync(file, ''); out[file] = 'written' } catch (e) { out[file] = e.code } }
    fs.writeFileSync('/tmp/run.sh', '#!/bin/sh\\n', { mode: 0o755 })
    try { require('child_process').execFileSync('/tmp/run.sh'); out.exec = 'ran' } catch (e) { out.exec = e.code }
    return out`)
  assert.equal(tried['/tmp/x'], 'written')
  for (const file of ['/x', '/app/x', '/packages/x', '/run/wt/x', '/run/wt-egress/x', '/etc/x'])
    assert.match(tried[file], /^(EROFS|EACCES|EPERM)$/, file)
  assert.equal(tried.exec, 'EACCES')
})

test('memory with swap, processor, processes, files and cores are bounded', () => {
  const { HostConfig } = inspected
  assert.equal(HostConfig.Memory, 512 * 1024 * 1024)
  assert.equal(HostConfig.MemorySwap, HostConfig.Memory)
  assert.equal(HostConfig.NanoCpus, 1e9)
  assert.equal(HostConfig.PidsLimit, 128)
  assert.deepEqual(
    HostConfig.Ulimits?.find((limit) => limit.Name === 'core'),
    { Name: 'core', Hard: 0, Soft: 0 },
  )
  assert.equal(HostConfig.ReadonlyRootfs, true)
  assert.equal(HostConfig.IpcMode, 'none')
  assert.equal(HostConfig.Privileged, false)
  assert.equal(HostConfig.RestartPolicy?.Name, 'no')
  assert.equal(HostConfig.LogConfig?.Type, 'none')
  assert.equal(HostConfig.Binds, null)
})

test('two mounts, the read-only directories of its sockets, and no Docker socket anywhere', async () => {
  assert.deepEqual(inspected.Mounts.map((mount) => [mount.Destination, mount.RW]).toSorted(), [
    ['/run/wt', false],
    ['/run/wt-egress', false],
  ])
  const sockets = await inside(`
    const { readdirSync } = require('fs'); const found = []
    const walk = (dir) => { for (const e of readdirSync(dir || '/', { withFileTypes: true })) { const p = dir + '/' + e.name; if (e.isSocket()) found.push(p); else if (e.isDirectory() && !['/proc', '/sys'].includes(p)) try { walk(p) } catch {} } }
    walk(''); return found`)
  assert.ok(sockets.length >= 1)
  assert.deepEqual(
    sockets.filter((file: string) => !/^\/run\/wt(-egress)?\//.test(file)),
    [],
  )
})

test('the secret of a request is in no label, variable, argument or mount of the container', () => {
  assert.ok(!JSON.stringify(inspected).includes(SECRET))
})

test("the code sees none of the host's environment, and of ours only what is public", async () => {
  assert.deepEqual(await inside('return Object.keys(process.env).sort()'), ['HOME', 'NODE_ENV', 'TZ'])
})

test('the container is one that this deployment owns, by its labels', () => {
  const labels = inspected.Config.Labels
  assert.equal(labels['webtask.deployment'], deployment.id)
  assert.equal(labels['webtask.part'], 'sandbox')
  assert.match(labels['webtask.sandbox']!, /^[0-9a-f]{12}$/)
})
