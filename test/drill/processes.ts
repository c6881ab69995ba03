import { readFile } from 'node:fs/promises'
import { containersOf, docker } from '../support/docker.ts'
import { onlyColdRefused, pass, type Drill, type Scene } from './case.ts'
import type { Failure } from './load.ts'

/** A connection that was broken with whoever held it, or the platform's word that the sandbox is gone. */
const isBroken = ({ what }: Failure) => /^broken: |^502 sandbox_crashed|^503 unavailable/.test(what)
const isBrokenOrRefused = (failure: Failure) => isBroken(failure) || onlyColdRefused(failure)

async function sandboxOf({ roles, tenants }: Scene): Promise<{ tenant: string; container: string; pid: number }> {
  const [first] = await containersOf(roles.id, 'sandbox')
  const { State } = await docker.getContainer(first!.Id).inspect()
  return { tenant: tenants[0]!, container: first!.Id, pid: State.Pid }
}

async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')
  return text.trim().split(' ').filter(Boolean).map(Number)
}

/** Parts of the platform and of sandboxes that are killed without a word. */
export const PROCESS_DRILLS: readonly Drill[] = [
  {
    name: 'kill -9 of one of two gateways',
    gateways: 2,
    allows: isBroken,
    most: 20,
    async fault({ roles }) {
      const before = (await containersOf(roles.id, 'sandbox')).map(({ Id }) => Id)
      await roles.gateways[0]!.stop('SIGKILL')
      await pass(3_000)
      await roles.gateways[0]!.start()
      const after = new Set((await containersOf(roles.id, 'sandbox')).map(({ Id }) => Id))
      if (!before.every((id) => after.has(id))) throw new Error('Sandboxes that ran were replaced')
    },
  },
  {
    name: 'kill -9 of the only gateway, adopted again',
    allows: isBroken,
    most: 2_000,
    async fault({ roles }) {
      const before = (await containersOf(roles.id, 'sandbox')).map(({ Id }) => Id)
      await roles.gateways[0]!.stop('SIGKILL')
      await roles.gateways[0]!.start()
      await pass(500)
      const after = new Set((await containersOf(roles.id, 'sandbox')).map(({ Id }) => Id))
      if (!before.every((id) => after.has(id))) throw new Error('Sandboxes that ran were replaced')
    },
  },
  {
    name: 'kill -9 of the orchestrator for 5 s',
    allows: onlyColdRefused,
    async fault({ roles }) {
      await roles.orchestrator.stop('SIGKILL')
      await pass(5_000)
      await roles.orchestrator.start()
    },
  },
  {
    name: 'kill -9 of the egress role for 3 s',
    async fault({ roles }) {
      await roles.egress.stop('SIGKILL')
      await pass(3_000)
      await roles.egress.start()
    },
  },
  {
    name: 'kill -9 of an agent',
    allows: isBroken,
    most: 10,
    async fault(scene) {
      const { pid } = await sandboxOf(scene)
      for (const child of await childrenOf(pid)) process.kill(child, 'SIGKILL')
    },
  },
  {
    name: 'kill -9 of a container',
    allows: isBroken,
    most: 10,
    async fault(scene) {
      await docker.getContainer((await sandboxOf(scene)).container).kill()
    },
  },
  {
    name: 'kill -9 of everything, started again in any order',
    gateways: 2,
    allows: isBrokenOrRefused,
    most: 5_000,
    async fault({ roles }) {
      const parts = [...roles.gateways, roles.orchestrator, roles.egress]
      await Promise.all([...parts.map((part) => part.stop('SIGKILL')), roles.redis.kill()])
      const starts = [() => roles.redis.start(), ...parts.map((part) => () => part.start())].toSorted(() => Math.random() - 0.5)
      await Promise.all(starts.map((start, index) => pass(index * 200).then(start)))
    },
  },
]
