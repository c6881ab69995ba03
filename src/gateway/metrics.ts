import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

export interface Metrics {
  /** One invocation ended; `seconds` is its whole time. */
  invocation(outcome: string, seconds: number): void
  /** What webtasks used of the way out. */
  egress(used: { bytesIn: number; bytesOut: number; outcomes: Readonly<Record<string, number>> }): void
  /** A sandbox came to its end. */
  sandboxEnded(cause: string): void
  watch(size: () => { warm: number; prewarmed: number; inFlight: number; waiting: number }): void
  /** Prometheus text format. */
  text(): Promise<string>
  readonly contentType: string
}

export function createMetrics(): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry, prefix: 'webtask_' })
  const invocations = new Counter({
    name: 'webtask_invocations_total',
    help: 'Invocations by outcome',
    labelNames: ['outcome'],
    registers: [registry],
  })
  const seconds = new Histogram({
    name: 'webtask_invocation_seconds',
    help: 'Whole time of an invocation',
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers: [registry],
  })
  const egressBytes = new Counter({
    name: 'webtask_egress_bytes_total',
    help: 'Bytes of outbound connections: in from the internet, out to it',
    labelNames: ['direction'],
    registers: [registry],
  })
  const egressConnections = new Counter({
    name: 'webtask_egress_connections_total',
    help: 'Outbound connections that ended or did not come about, by outcome',
    labelNames: ['outcome'],
    registers: [registry],
  })
  const ended = new Counter({
    name: 'webtask_sandboxes_ended_total',
    help: 'Sandboxes that ended, by cause',
    labelNames: ['cause'],
    registers: [registry],
  })
  const byOutcome = new Map<string, Counter.Internal>()
  return {
    contentType: registry.contentType,
    invocation(outcome, duration) {
      let counter = byOutcome.get(outcome)
      if (counter === undefined) byOutcome.set(outcome, (counter = invocations.labels(outcome)))
      counter.inc()
      seconds.observe(duration)
    },
    egress({ bytesIn, bytesOut, outcomes }) {
      egressBytes.inc({ direction: 'in' }, bytesIn)
      egressBytes.inc({ direction: 'out' }, bytesOut)
      for (const [outcome, count] of Object.entries(outcomes)) egressConnections.inc({ outcome }, count)
    },
    sandboxEnded: (cause) => ended.inc({ cause }),
    watch(size) {
      const sandboxes: Gauge<'state'> = new Gauge({
        name: 'webtask_sandboxes',
        help: 'Connected sandboxes by state',
        labelNames: ['state'],
        registers: [registry],
        collect() {
          sandboxes.set({ state: 'warm' }, size().warm)
          sandboxes.set({ state: 'prewarmed' }, size().prewarmed)
        },
      })
      const running: Gauge = new Gauge({
        name: 'webtask_invocations_running',
        help: 'Invocations that run now',
        registers: [registry],
        collect: () => running.set(size().inFlight),
      })
      const waiting: Gauge = new Gauge({
        name: 'webtask_invocations_waiting',
        help: 'Invocations that wait for their turn',
        registers: [registry],
        collect: () => waiting.set(size().waiting),
      })
    },
    text: () => registry.metrics(),
  }
}
