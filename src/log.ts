import { pino } from 'pino'

/** The closed list of events: noun.verb, one per finished thing. */
export type LogEvent =
  | 'gateway.listening'
  | 'gateway.draining'
  | 'gateway.stopped'
  | 'invocation.done'
  | 'webtask.output'
  | 'token.issued'
  | 'token.revoked'
  | 'tenant.revoked'
  | 'revocations.failed'
  | 'keys.changed'
  | 'keys.failed'
  | 'sandbox.provisioned'
  | 'sandbox.adopted'
  | 'sandbox.inherited'
  | 'sandbox.paused'
  | 'sandbox.renewed'
  | 'sandbox.restored'
  | 'tenant.grew'
  | 'plan.changed'
  | 'sandbox.connected'
  | 'sandbox.ended'
  | 'sandbox.retired'
  | 'sandbox.misbehaved'
  | 'worker.loaded'
  | 'provision.failed'
  | 'reconcile.done'
  | 'engine.lost'
  | 'engine.found'
  | 'engine.unsafe'
  | 'redis.lost'
  | 'redis.found'
  | 'code.stale'
  | 'code.fetched'
  | 'egress.closed'
  | 'egress.lost'
  | 'egress.found'
  | 'log.dropped'
  | 'platform.failed'

export interface Log {
  debug(fields: object, event: LogEvent): void
  info(fields: object, event: LogEvent): void
  warn(fields: object, event: LogEvent): void
  error(fields: object, event: LogEvent): void
  child(fields: Record<string, unknown>): Log
  readonly level: string
}

/** Lines leave together once they come to this many characters, or after this time (ms). */
const BATCH_CHARS = 65_536
const BATCH_MS = 200
/** What a reader that does not keep up may have waiting; beyond it whole batches are dropped, and counted (bytes). */
const BACKLOG_BYTES = 33_554_432

/** A write per line would cost as much as the request that it tells of, and waiting for a slow reader would stop all requests. */
function createSink(): { write(line: string): void } {
  const out = pino.destination({ dest: 1, sync: false, maxWrite: 4 * BATCH_CHARS, maxLength: BACKLOG_BYTES })
  let lines: string[] = []
  let chars = 0
  let dropped = 0
  const flush = () => {
    if (lines.length === 0) return
    const batch = lines.join('')
    lines = []
    chars = 0
    out.write(batch)
  }
  out.on('drop', (batch: string) => {
    dropped += batch.split('\n').length - 1
  })
  out.on('drain', () => {
    if (dropped === 0) return
    lines.push(`${JSON.stringify({ level: 'warn', time: new Date().toISOString(), dropped, msg: 'log.dropped' satisfies LogEvent })}\n`)
    dropped = 0
  })
  setInterval(flush, BATCH_MS).unref()
  process.on('exit', () => {
    try {
      flush()
      out.flushSync()
    } catch {
      // Not open yet, or the reader is gone: there is nowhere left to say so.
    }
  })
  return {
    write(line) {
      lines.push(line)
      chars += line.length
      if (chars >= BATCH_CHARS) flush()
    },
  }
}

let lastMs = 0
let lastText = ''

/** pino's `isoTime`, written once for all lines of a millisecond. */
function isoTime(): string {
  const now = Date.now()
  if (now !== lastMs) {
    lastMs = now
    lastText = `,"time":"${new Date(now).toISOString()}"`
  }
  return lastText
}

/** Structured log on standard output. Fields that could carry a secret are redacted whoever logs them. */
export function createLog(level: string, role: string): Log {
  // By name and at the top only: events are flat, and redaction by path costs more than the rest of a log line.
  const hidden = () => '[redacted]'
  const serializers = Object.fromEntries(['token', 'secrets', 'ectx', 'key', 'authorization', 'code', 'body'].map((name) => [name, hidden]))
  return pino(
    {
      level,
      base: { role },
      timestamp: isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers,
    },
    createSink(),
  )
}
