import os from 'node:os'
import path from 'node:path'
import { z } from 'zod'
import { isIP } from 'node:net'
import { parseOpenedPlaces, parseOutboundRules } from './egress/outbound-rules.ts'
import { parseAllowList } from './egress/rules.ts'
import { ENGINE_CHECKS, type EngineCheck } from './sandbox/engine-check.ts'
import type { Plan } from './tenant/plan.ts'

/** A count or size from the environment: digits only, within [min, max]. */
function integer(min: number, max: number, fallback: number) {
  return z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .refine((value) => value >= min && value <= max, `must be between ${min} and ${max}`)
    .default(fallback)
}

function optionalInteger(min: number, max: number) {
  return integer(min, max, 0).unwrap().optional()
}

/** What an agent and each webtask that does nothing take of a sandbox's memory (MiB): measured 30 and 20, rounded up. */
const AGENT_MIB = 40
const WORKER_MIB = 24

/** A list in a syntax of its own, whose reader throws what is wrong with it. */
function list<T>(form: string, fallback: string, read: (text: string) => T) {
  return z
    .string()
    .default(fallback)
    .transform((given, { addIssue }) => {
      try {
        return read(given)
      } catch (error) {
        addIssue(`must be ${form}; ${(error as Error).message}`)
        return z.NEVER
      }
    })
}

/** `address` or `address:port`, as resolvers take them. */
function parseServers(given: string): readonly string[] {
  const servers = given.split(/[\s,]+/).filter((entry) => entry !== '')
  const bad = servers.filter((entry) => isIP(entry) === 0 && isIP(entry.replace(/^\[(.*)\]:\d{1,5}$/, '$1').replace(/:\d{1,5}$/, '')) === 0)
  if (bad.length > 0) throw new TypeError(`Cannot read ${bad.map((entry) => JSON.stringify(entry)).join(', ')}`)
  return servers
}

const text = z.string().min(1, 'must not be empty')

/** A DNS name that leaves room for one label more, and no address: its last label is not a number. */
const DOMAIN = /^(?=.{1,189}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*(?!\d+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i

/** Every setting the runtime knows, with its unit in its name. README shows this table and a test keeps them equal. */
const SETTINGS = {
  WEBTASK_HOST: text.default('127.0.0.1').describe('Address the front door listens on'),
  WEBTASK_PORT: integer(0, 65_535, 8080).describe('Port of the front door; 0 picks a free one'),
  WEBTASK_REUSE_PORT: z.enum(['on', 'off']).default('off').describe('Whether several gateways of a machine may listen on the same port'),
  WEBTASK_ADMIN_HOST: text.default('127.0.0.1').describe('Address of /healthz, /readyz and /metrics'),
  WEBTASK_ADMIN_PORT: integer(0, 65_535, 8081).describe('Port of /healthz, /readyz and /metrics; 0 picks a free one'),
  WEBTASK_PUBLIC_URL: z
    .url({ protocol: /^https?$/, error: 'must be an http(s) URL' })
    .optional()
    .describe('How callers reach the front door; used in answers. Default: http://localhost:{port}'),
  WEBTASK_DOMAIN: z
    .string()
    .regex(DOMAIN, 'must be a DNS name')
    .transform((name) => name.toLowerCase())
    .optional()
    .describe(
      'Domain below which each tenant has a host of its own, such as `run.example.com`: `https://{container}.run.example.com/{name}` runs a named webtask. Default: no such hosts',
    ),
  WEBTASK_DATA_DIR: text
    .regex(/^(?!\/(?:proc|sys)(?:\/|$))/, 'must be on a disk, not below /proc or /sys')
    .default('data')
    .describe('Keys and code cache; made with mode 0700'),
  WEBTASK_RUN_DIR: text
    .optional()
    .describe('Sockets between the parts. Default: a directory of this deployment under /run/webtask (root) or the temporary directory'),
  WEBTASK_DEPLOYMENT: z
    .string()
    .regex(/^[a-z0-9]{1,16}$/, 'must be 1 to 16 of a-z 0-9')
    .optional()
    .describe('Name that keeps deployments apart on one engine and one Redis. Default: made on first start, kept in the data directory'),
  REDIS_URL: z
    .string()
    .regex(/^(rediss?|unix):\/\//, 'must start with redis://, rediss:// or unix://')
    .optional()
    .describe('A Redis to use. Default: a container that the runtime manages'),
  WEBTASK_REDIS_IMAGE: text.default('redis:8-bookworm').describe('Image of the managed Redis'),
  WEBTASK_AGENT_IMAGE: text.default('webtask-agent').describe('Image of the sandboxes'),
  WEBTASK_RUNTIME: z.enum(['runc', 'runsc']).default('runc').describe('Container runtime of the sandboxes; runsc is gVisor'),
  WEBTASK_ALLOW_UNSAFE_ENGINE: z
    .string()
    .default('')
    .transform((list, { addIssue }) => {
      const words = list
        .split(',')
        .map((word) => word.trim())
        .filter(Boolean)
      const checks = words.filter((word): word is EngineCheck => ENGINE_CHECKS.some((check) => check === word))
      if (checks.length < words.length) addIssue(`must be a list of ${ENGINE_CHECKS.join(', ')}`)
      return checks
    })
    .describe('Checks of the engine that may fail without stopping the start, comma separated; each that fails is logged. Leave it empty'),
  WEBTASK_PREWARMED: integer(0, 1000, 2).describe('Sandboxes kept ready for tenants that have none, at least'),
  WEBTASK_PREWARMED_MAX: optionalInteger(0, 1000).describe('And at most, when recent demand asks for more. Default: four times WEBTASK_PREWARMED'),
  WEBTASK_SANDBOXES_MAX: integer(1, 10_000, 64).describe('Most sandboxes at once'),
  WEBTASK_SANDBOX_MEMORY_MIB: integer(128, 65_536, 512).describe('Memory of one sandbox, swap included (MiB)'),
  WEBTASK_SANDBOX_CPU_MILLIS: integer(50, 64_000, 1000).describe('Processor share of one sandbox (thousandths of a core)'),
  WEBTASK_SANDBOX_PIDS: integer(32, 4096, 128).describe('Processes and threads of one sandbox'),
  WEBTASK_SANDBOX_TMP_MIB: integer(1, 4096, 32).describe('Size of /tmp in one sandbox (MiB, counted as memory)'),
  WEBTASK_SANDBOX_PAUSE_SECONDS: integer(1, 86_400, 60).describe('A sandbox without requests for this long is frozen until the next one'),
  WEBTASK_SANDBOX_IDLE_SECONDS: integer(1, 86_400, 600).describe('A sandbox without requests for this long is retired'),
  WEBTASK_SANDBOX_AGE_SECONDS: integer(10, 604_800, 86_400).describe('A sandbox older than about this is replaced by a fresh one'),
  WEBTASK_SANDBOX_USES: integer(1, Number.MAX_SAFE_INTEGER, 10_000_000).describe('A sandbox with more requests than this behind it is replaced'),
  WEBTASK_SANDBOX_MEMORY_HIGH_PERCENT: integer(10, 100, 90).describe('A sandbox with more of its memory in use is replaced (percent)'),
  WEBTASK_SANDBOX_WAIT_MS: integer(100, 120_000, 8_000).describe('Longest wait of a request for a sandbox, or for its turn (ms)'),
  WEBTASK_WORKERS_MAX: integer(1, 256, 12).describe('Webtasks loaded at once in one sandbox; the least recently used goes first'),
  WEBTASK_WORKER_HEAP_MIB: integer(16, 32_768, 96).describe('JavaScript heap of one webtask (MiB)'),
  WEBTASK_WORKER_CONCURRENCY: integer(1, 1024, 128).describe('Requests at once in one webtask; more wait'),
  WEBTASK_CONCURRENCY: integer(1, 1_000_000, 4096).describe(
    'Requests at once of all tenants in one gateway; more wait, in turn by the weights of their tenants',
  ),
  WEBTASK_TENANT_CONCURRENCY: integer(1, 100_000, 1000).describe('Requests at once of one tenant in one gateway; more wait'),
  WEBTASK_TENANT_QUEUE: integer(0, 100_000, 1000).describe('Requests of one tenant that may wait for their turn in one gateway; more get 429'),
  WEBTASK_TENANT_SANDBOXES: integer(1, 1000, 1).describe('Most sandboxes of one tenant'),
  WEBTASK_TOKEN_CONCURRENCY: integer(1, 100_000, 1000).describe('Requests at once by one token in one gateway, waiting ones included; more get 429'),
  WEBTASK_SANDBOX_REQUESTS: integer(1, 100_000, 64).describe('With more requests at once in each of its sandboxes a tenant gets another, if it may'),
  WEBTASK_INVOCATION_MS: integer(100, 3_600_000, 30_000).describe(
    'Longest time without progress: until the response begins, and between bytes of a stream (ms)',
  ),
  WEBTASK_STREAM_MS: integer(100, 86_400_000, 900_000).describe('Longest time of a whole invocation that streams (ms)'),
  WEBTASK_CODE_BYTES: integer(1024, 5_242_880, 1_048_576).describe('Largest code of a webtask (bytes)'),
  WEBTASK_BODY_BYTES: integer(0, Number.MAX_SAFE_INTEGER, 4_294_967_296).describe('Largest request body that streams to a webtask (bytes)'),
  WEBTASK_PARSED_BODY_BYTES: integer(0, 67_108_864, 2_097_152).describe('Largest request body that is parsed for a webtask (bytes)'),
  WEBTASK_HEADER_BYTES: integer(4096, 65_536, 16_384).describe('Largest request line with headers (bytes)'),
  WEBTASK_RESPONSE_HEADER_BYTES: integer(1024, 65_536, 16_384).describe('Largest header of a webtask response (bytes)'),
  WEBTASK_RESPONSE_BYTES: integer(1024, Number.MAX_SAFE_INTEGER, 4_294_967_296).describe('Largest body of a webtask response (bytes)'),
  WEBTASK_CODE_HOSTS: list('host:port entries', '', parseAllowList).describe(
    'host:port list, comma separated, from which code may come by http or from a private address',
  ),
  WEBTASK_EGRESS: z.enum(['on', 'off']).default('on').describe('Whether webtasks may open connections, through the egress role'),
  WEBTASK_EGRESS_RULES: list('allow and deny entries', 'deny *:25, allow *:*', parseOutboundRules).describe(
    'Where webtasks may connect to, such as `allow *.example.com:443, deny 192.0.2.0/24:1-1023`: the first entry that matches decides, none denies. What is not public is refused in any case. Default: `deny *:25, allow *:*`',
  ),
  WEBTASK_EGRESS_ALLOW: list('host:port entries', '', parseOpenedPlaces).describe(
    'Places that webtasks of all tenants may connect to although their addresses are not public: `10.1.2.3:5432`, `10.0.0.0/8:443`, `db.internal:5432`, comma separated',
  ),
  WEBTASK_EGRESS_DNS: list('addresses with or without ports', '', parseServers).describe(
    'Name servers for the names that webtasks connect to. Default: those of the system',
  ),
  WEBTASK_EGRESS_CA: text
    .optional()
    .describe(
      'File of certificate authorities (PEM) that may vouch for hosts of bound secrets, beside the default ones: for hosts with private ones',
    ),
  WEBTASK_EGRESS_CONNECTIONS: integer(1, 100_000, 256).describe('Open outbound connections of one tenant at once'),
  WEBTASK_EGRESS_PER_SECOND: integer(1, 100_000, 100).describe('Outbound connections and name look-ups that one tenant may begin in a second'),
  WEBTASK_EGRESS_MIB_PER_HOUR: integer(1, 100_000_000, 10_240).describe('Outbound traffic of one tenant in an hour, both ways together (MiB)'),
  WEBTASK_REVOCATION_STALE_SECONDS: integer(1, 3600, 30).describe('While revocations or keys could not be read for longer than this, tokens get 503'),
  WEBTASK_REVOCATIONS_MAX: integer(1, 1_000_000, 1000).describe('Tokens that one tenant may revoke one by one; master tokens may go on'),
  WEBTASK_ON_STOP: z
    .enum(['remove', 'keep'])
    .optional()
    .describe('What a stopping orchestrator does with its sandboxes. Default: remove when all roles run in one process, otherwise keep'),
  WEBTASK_DRAIN_SECONDS: integer(0, 3600, 30).describe('Longest wait for running requests at shutdown'),
  WEBTASK_LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info').describe('Least level that is logged'),
} as const

const schema = z.object(SETTINGS)
export type Config = Readonly<z.infer<typeof schema>>

/** Names, defaults and meanings of all settings, for documentation and its test. */
export function describeSettings(): { name: string; fallback: string; means: string }[] {
  const defaults = schema.parse({}) as Record<string, unknown>
  return Object.entries(SETTINGS).map(([name, type]) => ({
    name,
    fallback: typeof defaults[name] === 'object' ? '' : String(defaults[name] ?? ''),
    means: type.description ?? '',
  }))
}

/**
 * Reads and judges the environment once. An empty value counts as absent.
 * Throws one Error that lists every problem, unknown `WEBTASK_*` names included.
 */
export function parseConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const given = Object.fromEntries(
    Object.entries(env).filter(([name, value]) => (name in SETTINGS || name.startsWith('WEBTASK_')) && value !== undefined && value !== ''),
  )
  const parsed = schema.safeParse(given)
  const unknown = Object.keys(given).filter((name) => !(name in SETTINGS))
  const problems = [
    ...unknown.map((name) => `${name}: no such setting`),
    ...(parsed.error?.issues ?? []).map((issue) => `${issue.path.join('.')}: ${issue.message} (got "${given[String(issue.path[0])]}")`),
  ]
  if (parsed.success) {
    const { WEBTASK_WORKERS_MAX: workers, WEBTASK_SANDBOX_MEMORY_MIB: memory, WEBTASK_WORKER_HEAP_MIB: heap } = parsed.data
    const least = leastMemoryMib(workers)
    if (memory < least)
      problems.push(`WEBTASK_SANDBOX_MEMORY_MIB: ${workers} loaded webtasks (WEBTASK_WORKERS_MAX) need at least ${least} (got "${memory}")`)
    if (heap > memory) problems.push(`WEBTASK_WORKER_HEAP_MIB: must not be over WEBTASK_SANDBOX_MEMORY_MIB (got "${heap}")`)
    const { WEBTASK_PORT: port, WEBTASK_ADMIN_PORT: adminPort, WEBTASK_PREWARMED: ready, WEBTASK_PREWARMED_MAX: most } = parsed.data
    if (port !== 0 && port === adminPort) problems.push(`WEBTASK_ADMIN_PORT: must not be WEBTASK_PORT (got "${adminPort}")`)
    if (most !== undefined && ready > most) problems.push(`WEBTASK_PREWARMED_MAX: must not be below WEBTASK_PREWARMED, ${ready} (got "${most}")`)
    const { WEBTASK_DOMAIN: domain, WEBTASK_PUBLIC_URL: publicUrl } = parsed.data
    if (domain !== undefined && publicUrl !== undefined && new URL(publicUrl).hostname.endsWith(`.${domain}`))
      problems.push(`WEBTASK_PUBLIC_URL: must not be below WEBTASK_DOMAIN, where all hosts are tenants' (got "${publicUrl}")`)
  }
  if (!parsed.success || problems.length > 0)
    throw new Error(`Cannot start, the settings have ${problems.length} problem(s):\n${problems.map((line) => `  ${line}`).join('\n')}`)
  return Object.freeze(parsed.data)
}

/** The least memory of a sandbox with that many loaded webtasks (MiB). */
export function leastMemoryMib(workers: number): number {
  return AGENT_MIB + workers * WORKER_MIB
}

/** The plan of tenants that were given none. */
export function defaultPlan(config: Config): Plan {
  return {
    runtime: config.WEBTASK_RUNTIME,
    isolation: 'tenant',
    memoryMib: config.WEBTASK_SANDBOX_MEMORY_MIB,
    cpuMillis: config.WEBTASK_SANDBOX_CPU_MILLIS,
    sandboxes: config.WEBTASK_TENANT_SANDBOXES,
    sandboxRequests: config.WEBTASK_SANDBOX_REQUESTS,
    concurrency: config.WEBTASK_TENANT_CONCURRENCY,
    tokenConcurrency: config.WEBTASK_TOKEN_CONCURRENCY,
    queue: config.WEBTASK_TENANT_QUEUE,
    weight: 1,
    minWarm: 0,
    warmWindow: null,
    timezone: 'UTC',
    egress: null,
  }
}

/** Where this deployment's sockets live: short, because the path of a unix socket has at most 107 bytes. */
export function runDirectory(config: Config, deployment: string): string {
  if (config.WEBTASK_RUN_DIR !== undefined) return path.resolve(config.WEBTASK_RUN_DIR)
  const uid = os.userInfo().uid
  return path.join(uid === 0 ? '/run/webtask' : path.join(os.tmpdir(), `webtask-${uid}`), deployment)
}
