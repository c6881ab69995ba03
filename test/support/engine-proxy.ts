import http from 'node:http'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { docker } from './docker.ts'

export interface EngineProxy extends AsyncDisposable {
  /** A DOCKER_HOST. */
  readonly host: string
  /**
   * From now on, what happens to each request: it `stalls` until this is set again, its answer is `lost` after the engine did it, the engine
   * is `away`, or `refuses` as it does while somebody else's removal is in progress, without doing it.
   */
  fault: ((method: string, path: string) => 'stall' | 'lose' | 'away' | 'refuse' | undefined) | undefined
}

/** The engine that the tests use; the library looks for it only when no DOCKER_HOST names one. */
export async function engineSocket(): Promise<string> {
  const { socketPath } = docker.modem as { socketPath?: string | (() => Promise<string>) }
  return typeof socketPath === 'function' ? socketPath() : (socketPath ?? '/var/run/docker.sock')
}

/** The real engine behind a socket of ours, but for what it says of itself: `change` alters its answers to /info and /version. */
export async function startEngineProxy(change: { info?: (info: any) => void; version?: (version: any) => void } = {}): Promise<EngineProxy> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'wt-engine-'))
  const file = path.join(directory, 'docker.sock')
  const socketPath = await engineSocket()
  let fault: EngineProxy['fault']
  const stalled = new Set<() => void>()
  const server = http.createServer((request, response) => {
    const broken = fault?.(request.method!, request.url!.replace(/^\/v[\d.]+/, ''))
    if (broken === 'stall') {
      const go = () => pass(request, response)
      stalled.add(go)
      return void response.once('close', () => stalled.delete(go))
    }
    if (broken === 'away') return void response.destroy()
    if (broken === 'refuse') {
      response.writeHead(409, { 'content-type': 'application/json' }).end('{"message":"removal of container is already in progress"}')
      return
    }
    pass(request, response, broken === 'lose')
  })
  function pass(request: http.IncomingMessage, response: http.ServerResponse, loses = false): void {
    const asked = http.request({ socketPath, path: request.url, method: request.method, headers: request.headers }, (answer) => {
      if (loses) {
        answer.resume()
        return void answer.on('end', () => response.destroy())
      }
      const [, what] = /^(?:\/v[\d.]+)?\/(info|version)$/.exec(request.url!) ?? []
      const alter = what === 'info' ? change.info : what === 'version' ? change.version : undefined
      if (alter === undefined) {
        response.writeHead(answer.statusCode!, answer.headers)
        response.flushHeaders()
        answer.pipe(response)
        return
      }
      let text = ''
      answer.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
      answer.on('end', () => {
        const said: unknown = JSON.parse(text)
        alter(said)
        response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(said))
      })
    })
    asked.on('error', () => response.destroy())
    response.on('close', () => asked.destroy())
    request.pipe(asked)
  }
  await new Promise<void>((resolve) => server.listen(file, resolve))
  return {
    host: `unix://${file}`,
    get fault() {
      return fault
    },
    set fault(next) {
      fault = next
      for (const go of stalled) go()
      stalled.clear()
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      await rm(directory, { recursive: true, force: true })
    },
  }
}
