import { Hono } from 'hono'
import type { Metrics } from './metrics.ts'

/** What operators and probes ask, on a port of its own that callers never see. `ready` names what is missing, or nothing. */
export function createAdminApp(options: { metrics: Metrics; ready: () => readonly string[] }): Hono {
  const app = new Hono()
  app.get('/healthz', (c) => c.json({ status: 'ok' }))
  app.get('/readyz', (c) => {
    const missing = options.ready()
    return missing.length === 0 ? c.json({ status: 'ready' }) : c.json({ status: 'not ready', missing }, 503)
  })
  app.get('/metrics', async (c) => c.body(await options.metrics.text(), 200, { 'content-type': options.metrics.contentType }))
  app.notFound((c) => c.json({ message: 'Here are /healthz, /readyz and /metrics' }, 404))
  return app
}
