import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import type { Finding } from '../../src/sandbox/posture/judge.ts'
import { sandboxSpec } from '../../src/sandbox/spec.ts'
import { startDeployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const engine = (await docker.info()) as { Runtimes: object }

/** `npm run posture`, as an operator runs it. */
async function posture(settings: Record<string, string>, ...words: string[]): Promise<{ code: number; out: string }> {
  const asked = promisify(execFile)(process.execPath, ['src/posture.ts', ...words], { cwd: ROOT, env: { ...process.env, ...settings } })
  return asked.then(
    ({ stdout }) => ({ code: 0, out: stdout }),
    ({ code, stdout, stderr }) => ({ code, out: stdout + stderr }),
  )
}

const notPassed = (findings: readonly Finding[], verdict: Finding['verdict']) =>
  findings.filter((finding) => finding.verdict === verdict).map(({ control, wrong }) => ({ control, wrong }))

for (const runtime of ['runc', 'runsc'])
  test(
    `every sandbox of a live deployment passes, prewarmed or used: ${runtime}`,
    { skip: !(runtime in engine.Runtimes) && 'the engine lacks it' },
    async () => {
      await using deployment = await startDeployment({ WEBTASK_RUNTIME: runtime, WEBTASK_PREWARMED: '1', WEBTASK_PREWARMED_MAX: '1' })
      for (const tenant of ['acme', 'beta']) assert.equal((await deployment.run(tenant, 'module.exports = cb => cb(null, 1)')).status, 200)
      await eventually(
        'a prewarmed one beside them',
        async () => /webtask_sandboxes\{state="prewarmed"\} 1/.test(await (await fetch(`${deployment.adminUrl}/metrics`)).text()),
        20_000,
      )
      const { code, out } = await posture({ WEBTASK_DATA_DIR: deployment.dataDir }, '--json')
      const judged = JSON.parse(out) as { sandbox: string; findings: Finding[] }[]
      const running = await containersOf(deployment.id, 'sandbox')
      assert.equal(judged.length, 3)
      assert.deepEqual(judged.map(({ sandbox }) => sandbox).toSorted(), running.map(({ Id }) => Id).toSorted())
      for (const { findings } of judged) assert.deepEqual(notPassed(findings, 'FAIL'), [])
      assert.equal(code, 0)
      const text = await posture({ WEBTASK_DEPLOYMENT: deployment.id })
      assert.match(text.out, new RegExp(`^\\d+ sandboxes \\(${runtime}\\): \\d+ controls passed, \\d+ documented exceptions, 0 failed$`, 'm'))
    },
  )

test('a sandbox that was weakened fails on the right controls, and the command says so', async () => {
  const deployment = `weak${randomBytes(4).toString('hex')}`
  const image = (await docker.getImage(process.env.WEBTASK_AGENT_IMAGE ?? 'webtask-agent').inspect()).Id
  const limits = { image, runtime: 'runc', memoryMib: 128, cpuMillis: 500, pids: 32, tmpMib: 1, workerHeapMib: 0 } as const
  const body = sandboxSpec({ id: 'weak', deployment, slot: 0, directory: '/run', egressDirectory: '/run', class: limits }) as any
  body.Cmd = ['-e', 'setInterval(() => {}, 1000)']
  body.HostConfig.CapAdd = ['NET_RAW']
  body.HostConfig.SecurityOpt = ['no-new-privileges:true', 'seccomp=unconfined']
  body.HostConfig.PidsLimit = 0
  const container = await docker.createContainer({ ...body, name: `webtask-${deployment}` })
  try {
    await container.start()
    const { code, out } = await posture({ WEBTASK_DEPLOYMENT: deployment }, '--json')
    const [judged] = JSON.parse(out) as { findings: Finding[] }[]
    assert.deepEqual(
      notPassed(judged!.findings, 'FAIL').map(({ control }) => control),
      ['PSS restricted: capabilities', 'PSS restricted: seccomp', 'CIS 5.4', 'CIS 5.22', 'CIS 5.29', 'webtask 1'],
    )
    assert.equal(code, 1)
  } finally {
    await container.remove({ force: true })
  }
})
