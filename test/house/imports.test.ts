import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'

const SRC = path.resolve(import.meta.dirname, '../../src')

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => name.split(path.sep).join('/'))

/** Modules that a file imports: paths below src/ for ours, bare names for others. */
function importsOf(file: string): string[] {
  const text = readFileSync(path.join(SRC, file), 'utf8')
  const specifiers = [...text.matchAll(/^(?:import|export)\b[^'"]*?from '([^']+)'|^import '([^']+)'|\bimport\('([^']+)'\)/gm)].map(
    (match) => match[1] ?? match[2] ?? match[3]!,
  )
  return specifiers.map((name) => (name.startsWith('.') ? path.posix.join(path.posix.dirname(file), name) : name))
}

const room = (file: string) => (file.includes('/') ? file.split('/')[0]! : file)

/** Composition roots, each a program of its own. */
const ROOTS = ['main.ts', 'keys.ts', 'posture.ts', 'advise.ts']

/** What each room may import besides itself. A room is a folder of src/ or a file beside them. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  'errors.ts': [],
  'config.ts': ['egress', 'sandbox', 'tenant'],
  'log.ts': [],
  'redis.ts': ['log.ts'],
  'keys.ts': ['config.ts', 'token'],
  'posture.ts': ['config.ts', 'sandbox'],
  'advise.ts': ['config.ts', 'log.ts', 'redis.ts', 'sandbox'],
  protocol: [],
  agent: ['protocol'],
  tenant: ['errors.ts', 'redis.ts'],
  token: ['errors.ts', 'tenant'],
  egress: ['errors.ts', 'log.ts', 'protocol'],
  sandbox: ['errors.ts', 'log.ts', 'redis.ts', 'protocol', 'tenant'],
  gateway: ['errors.ts', 'log.ts', 'redis.ts', 'config.ts', 'protocol', 'tenant', 'token', 'sandbox', 'egress'],
}

/** Each vendor library has one home, so that replacing it is the work of one place. */
const HOMES: Record<string, RegExp> = {
  dockerode: /^sandbox\/docker\.ts$/,
  'cron-parser': /^tenant\/warm-window\.ts$/,
  bullmq: /^sandbox\/lifecycle\.ts$/,
  ioredis: /^redis\.ts$/,
  jose: /^token\//,
  re2js: /^token\//,
  hono: /^gateway\//,
  '@hono/node-server': /^gateway\//,
  pino: /^log\.ts$/,
  'prom-client': /^gateway\/metrics\.ts$/,
  'ipaddr.js': /^egress\//,
  '@peculiar/asn1-schema': /^gateway\/host-certificate\.ts$/,
  '@peculiar/asn1-x509': /^gateway\/host-certificate\.ts$/,
}

test('imports go down only', () => {
  const wrong = files
    .filter((file) => file !== 'main.ts')
    .flatMap((file) =>
      importsOf(file)
        .filter((name) => files.includes(name) && room(name) !== room(file) && !MAY_IMPORT[room(file)]?.includes(room(name)))
        .map((name) => `${file} imports ${name}`),
    )
  assert.deepEqual(wrong, [])
})

test('the agent and the protocol have no dependency but Node', () => {
  const wrong = files
    .filter((file) => room(file) === 'agent' || room(file) === 'protocol')
    .flatMap((file) =>
      importsOf(file)
        .filter((name) => !files.includes(name) && !name.startsWith('node:'))
        .map((name) => `${file} imports ${name}`),
    )
  assert.deepEqual(wrong, [])
})

test('each vendor library is imported in its one home', () => {
  const wrong = files.flatMap((file) =>
    importsOf(file).flatMap((name) => {
      const vendor = Object.keys(HOMES).find((key) => name === key || name.startsWith(`${key}/`))
      return vendor !== undefined && !HOMES[vendor]!.test(file) ? [`${file} imports ${name}`] : []
    }),
  )
  assert.deepEqual(wrong, [])
})

test('the gateway reaches no Docker: nothing it imports leads to the driver', () => {
  const seen = new Set<string>()
  const visit = (file: string): void => {
    if (seen.has(file)) return
    seen.add(file)
    for (const name of importsOf(file)) if (files.includes(name)) visit(name)
  }
  visit('gateway/gateway.ts')
  assert.deepEqual(
    [...seen].filter((file) => ['sandbox/docker.ts', 'sandbox/orchestrator.ts', 'sandbox/redis-container.ts'].includes(file)),
    [],
  )
})

test('the orchestrator reaches no token keys', () => {
  const seen = new Set<string>()
  const visit = (file: string): void => {
    if (seen.has(file)) return
    seen.add(file)
    for (const name of importsOf(file)) if (files.includes(name)) visit(name)
  }
  visit('sandbox/orchestrator.ts')
  assert.deepEqual(
    [...seen].filter((file) => room(file) === 'token'),
    [],
  )
})

test('only config.ts reads the environment', () => {
  const readers = files.filter((file) => /process\.env\b/.test(readFileSync(path.join(SRC, file), 'utf8')))
  // The composition roots hand it over; the agent runs in the sandbox and has no config.
  assert.deepEqual(
    readers.filter((file) => !ROOTS.includes(file) && room(file) !== 'agent'),
    [],
  )
})

test('files are one noun each: no barrels, no drawers, kebab-case, and 250 lines are the exception', () => {
  const names = files.map((file) => path.posix.basename(file, '.ts'))
  assert.deepEqual(
    names.filter((name) => /^(index|utils?|helpers?|common|types|misc|managers?|services?)$/.test(name)),
    [],
  )
  assert.deepEqual(
    names.filter((name) => !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(name)),
    [],
  )
  const long = files.filter((file) => readFileSync(path.join(SRC, file), 'utf8').split('\n').length > 320)
  assert.deepEqual(long, [])
})
