import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { containersOf, docker, eventually } from '../support/docker.ts'
import { onlyColdRefused, pass, type Drill } from './case.ts'

const run = promisify(execFile)

/** An image that differs from the given one in a label alone, under a name of its own. */
async function imageLike(image: string): Promise<{ name: string } & AsyncDisposable> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'wt-image-'))
  const name = `webtask-test-image:${path.basename(directory).toLowerCase()}`
  await writeFile(path.join(directory, 'Dockerfile'), `FROM ${image}\nLABEL webtask.test=${Date.now()}\n`)
  await run('docker', ['build', '-q', '-t', name, directory])
  return {
    name,
    async [Symbol.asyncDispose]() {
      await run('docker', ['rmi', '-f', name]).catch(() => {})
      await rm(directory, { recursive: true, force: true })
    },
  }
}

/** Changes that operators make on purpose: nobody may notice. */
export const UPGRADE_DRILLS: readonly Drill[] = [
  {
    name: 'two gateways restarted in turn, ten times',
    gateways: 2,
    perSecond: 250,
    async fault({ roles, load }) {
      for (let i = 0; i < 10; i += 1) {
        const gateway = roles.gateways[i % 2]!
        if ((await gateway.stop('SIGTERM')) !== 0) throw new Error(`${gateway.name} did not end well:\n${gateway.output().slice(-2000)}`)
        await gateway.start()
      }
      while (load.soFar.asked.warm < 10_000) await pass(100)
    },
  },
  {
    name: 'the orchestrator restarted with a new agent image',
    settings: { WEBTASK_PREWARMED: '2' },
    allows: onlyColdRefused,
    async fault({ roles, tenants }) {
      await using image = await imageLike(process.env['WEBTASK_AGENT_IMAGE'] ?? 'webtask-agent')
      const { Id } = await docker.getImage(image.name).inspect()
      await roles.orchestrator.stop('SIGTERM')
      await roles.orchestrator.start({ WEBTASK_AGENT_IMAGE: image.name })
      await eventually(
        'every sandbox is of the new image',
        async () => {
          const all = await containersOf(roles.id, 'sandbox')
          return all.length >= tenants.length && all.every(({ ImageID }) => ImageID === Id)
        },
        90_000,
      )
    },
  },
]
