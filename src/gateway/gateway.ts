import { randomBytes } from 'node:crypto'
import path from 'node:path'
import type { Config } from '../config.ts'
import type { Log } from '../log.ts'
import { connectRedis, redisPlace, waitForRedis } from '../redis.ts'
import { openLifecycleQueue } from '../sandbox/lifecycle.ts'
import { createPool } from '../sandbox/pool.ts'
import { createSandboxStore, type SandboxNews } from '../sandbox/store.ts'
import { createAdmission } from '../tenant/admission.ts'
import { assertFresh, isFresh } from '../token/fresh.ts'
import { watchKeyring } from '../token/key-watch.ts'
import { openRevocationFile } from '../token/revocation-file.ts'
import { createRevocations } from '../token/revocations.ts'
import { createVerifiedTokens } from '../token/verified-cache.ts'
import { authenticateToken } from '../token/verify.ts'
import { createAdminApp } from './admin.ts'
import { createApp } from './app.ts'
import { createCodeCache } from './code/cache.ts'
import { createCodeClient } from './code/fetcher.ts'
import { createInvocations } from './invocations.ts'
import { createInvoke, type Invoke } from './invoke.ts'
import { ensureMasterToken } from './master-token.ts'
import { createMetrics } from './metrics.ts'
import { createPlanBook } from './plan-book.ts'
import { createRequestIds } from './request-id.ts'
import { listenHttp } from './server.ts'
import { createTargets } from './target.ts'
import { createTokenService } from './tokens.ts'
import { createWayOutClient } from './way-out.ts'
import { createWebtaskStore } from './webtasks.ts'
import { WebtaskError } from '../errors.ts'

export interface GatewayOptions {
  readonly config: Config
  readonly log: Log
  readonly redisUrl: string
  readonly deployment: string
  readonly runDir: string
  readonly signal: AbortSignal
  /** A line for the person at the terminal. */
  readonly say: (line: string) => void
}

export interface Gateway extends AsyncDisposable {
  readonly url: string
  readonly adminUrl: string
  readonly masterTokenFile: string
  /** Reads changed keys now; by itself the gateway looks for them several times a second. */
  reloadKeys(): Promise<void>
  /** Takes no new requests, lets the running ones end, within the configured time. */
  drain(): Promise<void>
}

/** Verified tokens that are remembered. */
const TOKENS_REMEMBERED = 50_000
/** All sandbox records are read again this often, in case news was lost (ms). */
const RESYNC_MS = 5_000

const seconds = () => Math.floor(Date.now() / 1000)

/** The front door: everything between a caller's request and a sandbox, and the management API. It has no access to Docker and no way out. */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { config, log, deployment, runDir, signal } = options
  await using starting = new AsyncDisposableStack()
  const prefix = `webtask:${deployment}`
  const issuer = `webtask:${deployment}`

  const redis = connectRedis(options.redisUrl, log)
  starting.defer(() => redis.disconnect())
  await waitForRedis(redis, {
    signal,
    waiting: (waited) => options.say(`Waiting for Redis at ${redisPlace(options.redisUrl)}, ${waited} s: start it, or set REDIS_URL …`),
  })
  const subscriber = connectRedis(options.redisUrl, log)
  starting.defer(() => subscriber.disconnect())
  await waitForRedis(subscriber, { signal, waiting: () => {} })

  const keys = starting.use(
    await watchKeyring(path.join(config.WEBTASK_DATA_DIR, 'keys'), {
      create: true,
      now: seconds,
      onChange: () => keysChanged(),
      onError: (error) => log.error({ reason: (error as Error).message }, 'keys.failed'),
    }),
  )
  const { keyring } = keys
  const masterToken = () => ensureMasterToken({ keyring, issuer, dataDir: config.WEBTASK_DATA_DIR, now: seconds })
  const masterTokenFile = await masterToken()
  const metrics = createMetrics()
  const invocations = createInvocations({ log, metrics })
  const requestIds = createRequestIds()

  const staleMaxSeconds = config.WEBTASK_REVOCATION_STALE_SECONDS
  const revocations = starting.use(
    await createRevocations({
      redis,
      subscriber,
      file: starting.use(await openRevocationFile(path.join(config.WEBTASK_DATA_DIR, 'revocations'), { now: seconds })),
      prefix,
      now: seconds,
      staleMaxSeconds,
      ownerMax: config.WEBTASK_REVOCATIONS_MAX,
      onError: (error) => log.warn({ reason: (error as Error).message }, 'revocations.failed'),
    }),
  )
  const tokens = createVerifiedTokens({
    authenticate: (text) => authenticateToken(text, { keyring, issuer }),
    isRevoked(claims) {
      assertFresh(keys.staleSeconds(), { max: staleMaxSeconds, what: 'the ring of keys' })
      return revocations.isRevoked(claims)
    },
    now: seconds,
    max: TOKENS_REMEMBERED,
  })
  const egressSocket = path.join(runDir, 'g', 'egress.sock')
  const codeClient = starting.use(createCodeClient({ socketPath: egressSocket }))
  const codes = starting.use(
    createCodeCache({
      fetch: codeClient.fetch,
      dir: path.join(config.WEBTASK_DATA_DIR, 'code'),
      log,
      limits: { codeBytes: config.WEBTASK_CODE_BYTES },
    }),
  )
  const webtasks = createWebtaskStore(redis, prefix)
  const store = createSandboxStore(redis, prefix)
  const queue = starting.use(openLifecycleQueue({ redisUrl: options.redisUrl, prefix }))

  const book = createPlanBook({ redis, prefix, config, engine: () => store.engine(), changed: () => pool.plansChanged() })
  const { plans, rulesOf } = book
  const egress =
    config.WEBTASK_EGRESS === 'on' ? starting.use(createWayOutClient({ socketPath: egressSocket, rulesOf, log, used: metrics.egress })) : undefined
  const pool = starting.use(
    createPool({
      store,
      queue,
      log,
      gateway: randomBytes(4).toString('hex'),
      runDir,
      waitMs: config.WEBTASK_SANDBOX_WAIT_MS,
      pauseMs: config.WEBTASK_SANDBOX_PAUSE_SECONDS * 1000,
      idleMs: config.WEBTASK_SANDBOX_IDLE_SECONDS * 1000,
      usesMax: config.WEBTASK_SANDBOX_USES,
      admission: createAdmission({ most: config.WEBTASK_CONCURRENCY, waitMs: config.WEBTASK_SANDBOX_WAIT_MS }),
      plans: { of: plans.of, kept: book.keptNow },
      now: Date.now,
      egress,
      link: {
        workersMax: config.WEBTASK_WORKERS_MAX,
        maxHeaderBytes: config.WEBTASK_RESPONSE_HEADER_BYTES,
        loadMs: config.WEBTASK_INVOCATION_MS,
        workerLimits: {
          heapMib: config.WEBTASK_WORKER_HEAP_MIB,
          connections: config.WEBTASK_WORKER_CONCURRENCY,
          parsedBodyBytes: config.WEBTASK_PARSED_BODY_BYTES,
          logLinesPerSecond: 1000,
        },
      },
      on: {
        output(tenant, output) {
          if (output.kind === 'output') log.info({ tenant, requestId: output.request, stream: output.level, line: output.line }, 'webtask.output')
          else log.warn({ tenant, dropped: output.lines }, 'webtask.output')
        },
        async call(call, token) {
          if (token === null)
            throw new WebtaskError(
              'forbidden',
              'The code was not given the token that runs it: the token must fix its code, or the request must carry webtask_share_token',
            )
          return (await service.issue(await tokens.get(token), call.claims)).token
        },
        ended: metrics.sandboxEnded,
      },
    }),
  )
  metrics.watch(() => pool.size)

  await follow()

  let port = 0
  const publicUrl = () => (config.WEBTASK_PUBLIC_URL ?? `http://localhost:${port}`).replace(/\/+$/, '')
  const bodyTimes = { idleMs: config.WEBTASK_INVOCATION_MS, totalMs: config.WEBTASK_STREAM_MS }
  const service = createTokenService({
    keyring,
    issuer,
    revocations,
    webtasks,
    codes,
    codeMaxBytes: config.WEBTASK_CODE_BYTES,
    bodyTimes,
    publicUrl,
    log,
    now: seconds,
  })
  const targets = createTargets({ tokens, keyring, webtasks, codes, codeMaxBytes: config.WEBTASK_CODE_BYTES, bodyTimes })
  const invoke = createInvoke({ config, pool, targets, invocations, wayOut: egress, publicUrl })
  // Nobody waits for a run to end: what should never be thrown must not end the process either.
  const runAlone: Invoke = (incoming, outgoing, requestId, host) =>
    invoke(incoming, outgoing, requestId, host).catch((error: Error) => {
      log.error({ requestId, reason: error.stack }, 'platform.failed')
      outgoing.destroy()
    })
  const app = createApp({ tokens, service, plans, invoke: runAlone, domain: config.WEBTASK_DOMAIN, newRequestId: requestIds, bodyTimes })
  let draining = false

  const stale = () => !isFresh(Math.max(revocations.staleSeconds(), keys.staleSeconds()), staleMaxSeconds)
  const ready = () => [...(draining ? ['draining'] : []), ...(redis.status === 'ready' ? [] : ['redis']), ...(stale() ? ['revocations'] : [])]
  const admin = starting.use(
    await listenHttp(createAdminApp({ metrics, ready }), {
      host: config.WEBTASK_ADMIN_HOST,
      port: config.WEBTASK_ADMIN_PORT,
      headerMaxBytes: 16_384,
      newRequestId: requestIds,
    }),
  )
  const server = starting.use(
    await listenHttp(app, {
      host: config.WEBTASK_HOST,
      port: config.WEBTASK_PORT,
      reusePort: config.WEBTASK_REUSE_PORT === 'on',
      headerMaxBytes: config.WEBTASK_HEADER_BYTES,
      newRequestId: requestIds,
    }),
  )
  port = server.port
  log.info({ host: config.WEBTASK_HOST, port, adminPort: admin.port }, 'gateway.listening')

  /** What was verified or refused by the old keys has to be judged anew. */
  function keysChanged(): void {
    tokens.clear()
    log.info({ signing: keyring.signing.header.kid, sealing: keyring.sealing }, 'keys.changed')
    masterToken().catch((error: Error) => log.error({ reason: error.message }, 'keys.failed'))
  }

  /** Keeps the pool and the webtasks' memory in step with what other processes say. */
  async function follow(): Promise<void> {
    const resync = () => {
      webtasks.heard(null)
      plans.refresh().catch(() => {})
      pool.resync().catch((error: Error) => log.debug({ reason: error.message }, 'platform.failed'))
    }
    subscriber.on('message', (channel, message) => {
      if (channel === store.channel) pool.heard(JSON.parse(message) as SandboxNews)
      if (channel === webtasks.channel) webtasks.heard(message)
      if (channel === plans.channel) plans.refresh().catch((error: Error) => log.warn({ reason: error.message }, 'platform.failed'))
    })
    await subscriber.subscribe(store.channel, webtasks.channel, plans.channel)
    // After a lost connection ioredis subscribes again; what was said meanwhile is gone.
    subscriber.on('ready', resync)
    await plans.refresh()
    await pool.resync()
    const timer = setInterval(() => {
      pool.resync().catch(() => {})
      plans.refresh().catch(() => {})
    }, RESYNC_MS)
    starting.defer(() => clearInterval(timer))
  }

  const parts = starting.move()
  return {
    url: publicUrl(),
    adminUrl: `http://${config.WEBTASK_ADMIN_HOST === '0.0.0.0' ? 'localhost' : config.WEBTASK_ADMIN_HOST}:${admin.port}`,
    masterTokenFile,
    reloadKeys: keys.reload,
    async drain() {
      draining = true
      log.info({}, 'gateway.draining')
      await server.drain(config.WEBTASK_DRAIN_SECONDS * 1000)
      log.info({}, 'gateway.stopped')
    },
    [Symbol.asyncDispose]: () => parts.disposeAsync(),
  }
}
