import http from 'node:http'
import { mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { parseConfig } from '../../src/config.ts'
import { sandboxSpec } from '../../src/sandbox/spec.ts'
import { docker } from '../support/docker.ts'

const SERVER = `require('http').createServer((q, s) => { s.setHeader('content-type', 'application/json'); s.end('"hello"') }).listen('/run/wt/plain.sock', () => require('fs').chmodSync('/run/wt/plain.sock', 0o777))`
const RUN_DIR = '/tmp/wt-bench'

const config = parseConfig({})
const sandboxClass = {
  image: process.env.WEBTASK_AGENT_IMAGE ?? 'webtask-agent',
  runtime: config.WEBTASK_RUNTIME,
  memoryMib: config.WEBTASK_SANDBOX_MEMORY_MIB,
  cpuMillis: config.WEBTASK_SANDBOX_CPU_MILLIS,
  pids: config.WEBTASK_SANDBOX_PIDS,
  tmpMib: config.WEBTASK_SANDBOX_TMP_MIB,
  workerHeapMib: config.WEBTASK_WORKER_HEAP_MIB,
}

export interface PlainContainer extends AsyncDisposable {
  readonly socket: string
  /** What was asked for took this long (ms). */
  readonly ms: number
}

/**
 * A bare Node server in a container equal to a sandbox: what nobody who starts containers can be faster than. Resolves when it has
 * answered once, or, `until` started, as soon as the engine has started it.
 */
export async function startPlain({ until }: { until: 'answer' | 'started' } = { until: 'answer' }): Promise<PlainContainer> {
  const id = `plain${Math.random().toString(16).slice(2, 10)}`
  const directory = path.join(RUN_DIR, id)
  await mkdir(directory, { recursive: true, mode: 0o777 })
  const body = sandboxSpec({ id, deployment: 'bench', slot: 16_000, directory, egressDirectory: directory, class: sandboxClass }) as {
    Cmd: string[]
    User: string
    HostConfig: { Mounts: { ReadOnly: boolean }[] }
  }
  const flags = body.Cmd.slice(
    0,
    body.Cmd.findIndex((word) => word.endsWith('main.js')),
  )
  body.Cmd = [...flags, '-e', SERVER]
  // It listens where a sandbox would dial, so its directory is writable.
  body.HostConfig.Mounts[0]!.ReadOnly = false
  body.User = '0:0'
  const began = performance.now()
  const container = await docker.createContainer({ ...body, name: `webtask-bench-${id}` } as never)
  await container.start()
  const socket = path.join(directory, 'plain.sock')
  if (until === 'answer') while (!(await answers(socket))) await new Promise((resolve) => setTimeout(resolve, 1))
  const ms = performance.now() - began
  return {
    socket,
    ms,
    async [Symbol.asyncDispose]() {
      await container.remove({ force: true })
      await rm(directory, { recursive: true, force: true })
    },
  }
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = http.get({ socketPath, path: '/' }, (response) => response.resume().once('end', () => resolve(true)))
    request.once('error', () => resolve(false))
  })
}
