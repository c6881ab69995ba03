import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { startDeployment } from '../support/deployment.ts'
import { median, round } from './percentiles.ts'
import { startPlain } from './plain.ts'
import { HELLO, type BenchOptions, type Row } from './row.ts'
import { load, prepareTools, startNginx, type Load } from './tools.ts'

/** Warm throughput beside nginx in front of a plain Node server in an equal container, in turn, so that drift hits both. */
export async function warm({ quick, progress }: BenchOptions): Promise<Row[]> {
  const port = 18_999
  const count = quick ? 3 : 5
  progress('Building the tools image (nginx, wrk)')
  await prepareTools()
  await using plain = await startPlain()
  await using nginx = await startNginx({ port, socket: plain.socket })
  void nginx
  const directory = await mkdtemp(path.join(tmpdir(), 'wt-warm-'))
  await using files = new AsyncDisposableStack()
  files.defer(() => rm(directory, { recursive: true }))
  await using deployment = await startDeployment({ WEBTASK_LOG_LEVEL: 'info' }, undefined, { logFile: path.join(directory, 'log') })
  await deployment.issue({ ten: 'bench', jtn: 'hello', code: HELLO })
  const token = await deployment.issue({ ten: 'bench', code: HELLO })
  const target = { connections: 32, seconds: quick ? 2 : 4 }
  const runs: Record<'nginx' | 'named' | 'token', () => Promise<Load>> = {
    nginx: () => load(`http://127.0.0.1:${port}/`, target),
    named: () => load(`${deployment.url.replace('localhost', '127.0.0.1')}/api/run/bench/hello`, target),
    token: () =>
      load(`${deployment.url.replace('localhost', '127.0.0.1')}/api/run/bench`, { ...target, headers: { authorization: `Bearer ${token}` } }),
  }
  for (const run of Object.values(runs)) await run()
  const rounds: Record<'nginx' | 'named' | 'token', Load>[] = []
  for (let i = 0; i < count; i += 1) {
    progress(`warm: round ${i + 1} of ${count}`)
    rounds.push({ nginx: await runs.nginx(), named: await runs.named(), token: await runs.token() })
  }
  return (['named', 'token'] as const).map((kind) => {
    const ratio = median(rounds.map((one) => one[kind].perSecond / one.nginx.perSecond))
    const failed = rounds.reduce((sum, one) => sum + one[kind].failed, 0)
    return {
      what: `warm throughput, 32 connections, ${kind === 'named' ? 'by named URL' : 'by token'}, ÷ nginx → plain Node`,
      figure: `${round(ratio)} × (${failed} failed)`,
      target: '≥ 0.5 ×, 0 failed',
      met: ratio >= 0.5 && failed === 0,
      detail: { ratio, failed, rounds: rounds.map((one) => ({ ours: one[kind], nginx: one.nginx })) },
    }
  })
}
