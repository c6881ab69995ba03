import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { docker } from '../support/docker.ts'

const run = promisify(execFile)
const IMAGE = 'webtask-bench-tools'

/** Builds the image with nginx and wrk, once. */
export async function prepareTools(): Promise<void> {
  const base = process.env.BENCH_BASE
  await run(
    'docker',
    ['build', '-q', '-t', IMAGE, ...(base === undefined ? [] : ['--build-arg', `BASE=${base}`]), path.join(import.meta.dirname, 'tools')],
    { maxBuffer: 1 << 26 },
  )
}

/** nginx on a loopback port in front of a unix socket, with as many kept-alive connections as the load has. */
export async function startNginx(options: { port: number; socket: string }): Promise<AsyncDisposable> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'wt-nginx-'))
  const config = `worker_processes 1; daemon off; error_log stderr crit; pid /tmp/nginx.pid;
events { worker_connections 1024; }
http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  keepalive_requests 100000000;
  upstream plain { server unix:${options.socket}; keepalive 64; keepalive_requests 100000000; }
  server { listen 127.0.0.1:${options.port}; location / { proxy_pass http://plain; proxy_http_version 1.1; proxy_set_header Connection ""; } } }`
  await writeFile(path.join(directory, 'nginx.conf'), config)
  const container = await docker.createContainer({
    Image: IMAGE,
    Cmd: ['nginx', '-c', '/etc/bench/nginx.conf'],
    HostConfig: { NetworkMode: 'host', Binds: [`${directory}:/etc/bench:ro`, `${path.dirname(options.socket)}:${path.dirname(options.socket)}`] },
  })
  await container.start()
  return {
    async [Symbol.asyncDispose]() {
      await container.remove({ force: true })
      await rm(directory, { recursive: true, force: true })
    },
  }
}

export interface Load {
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly failed: number
}

/** A closed loop of `connections` for `seconds`. */
export async function load(url: string, options: { connections: number; seconds: number; headers?: Record<string, string> }): Promise<Load> {
  const headers = Object.entries(options.headers ?? {}).flatMap(([name, value]) => ['-H', `${name}: ${value}`])
  const { stdout } = await run(
    'docker',
    ['run', '--rm', '--network=host', IMAGE, 'wrk', '-t1', `-c${options.connections}`, `-d${options.seconds}s`, '--latency', ...headers, url],
    { maxBuffer: 1 << 24 },
  )
  const number = (pattern: RegExp) => Number(pattern.exec(stdout)?.[1] ?? 0)
  const ms = (pattern: RegExp) => {
    const [, value, unit] = pattern.exec(stdout) ?? []
    return Number(value) * (unit === 'us' ? 0.001 : unit === 's' ? 1000 : 1)
  }
  const bad = [
    /Non-2xx or 3xx responses: (\d+)/,
    /Socket errors: connect (\d+)/,
    /Socket errors: .*read (\d+)/,
    /Socket errors: .*timeout (\d+)/,
  ].reduce((sum, pattern) => sum + number(pattern), 0)
  return { perSecond: number(/Requests\/sec:\s+([\d.]+)/), p50Ms: ms(/50%\s+([\d.]+)(us|ms|s)/), p99Ms: ms(/99%\s+([\d.]+)(us|ms|s)/), failed: bad }
}
