import http from 'node:http'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { docker } from './docker.ts'

export interface EngineProxy extends AsyncDisposable {
  /** A DOCKER_HOST. */
  readonly host: string
}

/** The engine that the tests use; the library looks for it only when no DOCKER_HOST names one. */
export async function engineSocket(): Promise<string> {
  const { socketPath } = docker.modem as { socketPath?: string | (() => Promise<string>) }
  return typeof socketPath === 'function' ? socketPath() : (socketPath ?? '/var/run/docker.sock')
}

/** The real engine behind a socket of ours, but for what it says of itself: `change` alters its answers to /info and /version. */
export async function startEngineProxy(change: { info?: (info: any) => void; version?: (version: any) => void }): Promise<EngineProxy> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'wt-engine-'))
  const file = path.join(directory, 'docker.sock')
  const socketPath = await engineSocket()
  const server = http.createServer((request, response) => {
    const asked = http.request({ socketPath, path: request.url, method: request.method, headers: request.headers }, (answer) => {
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
  })
  await new Promise<void>((resolve) => server.listen(file, resolve))
  return {
    host: `unix://${file}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      await rm(directory, { recursive: true, force: true })
    },
  }
}
