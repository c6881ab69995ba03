/** A real agent process, as the sandbox runs it, beside a fake gateway. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { FakeGateway, makeRendezvous } from './fake-gateway.ts'

const MAIN = fileURLToPath(new URL('../../src/agent/main.ts', import.meta.url))
const ROOT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')

export interface AgentProcess extends AsyncDisposable {
  readonly process: ChildProcess
  readonly stderr: () => string
  rssMib(): number
}

export function startAgent(rendezvousDir: string, { packagesDir = ROOT, spareHeapMib = 0, egressDir = '/nowhere' } = {}): AgentProcess {
  const child = spawn(process.execPath, [MAIN, rendezvousDir, packagesDir, String(spareHeapMib), egressDir], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: {},
  })
  let stderr = ''
  child.stderr.on('data', (chunk) => (stderr += String(chunk)))
  return {
    process: child,
    stderr: () => stderr,
    rssMib: () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))![1]) / 1024,
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGKILL')
      await gone
    },
  }
}

/** One agent and one gateway, which know each other. */
export async function startPair(
  options: { packagesDir?: string; spareHeapMib?: number; egressDir?: string } = {},
): Promise<{ agent: AgentProcess; gateway: FakeGateway; dir: string } & AsyncDisposable> {
  const stack = new AsyncDisposableStack()
  const { dir } = stack.use(makeRendezvous())
  const gateway = stack.use(await FakeGateway.listen(dir))
  const agent = stack.use(startAgent(dir, options))
  await gateway.frame('hello')
  return { agent, gateway, dir, [Symbol.asyncDispose]: () => stack.disposeAsync() }
}
