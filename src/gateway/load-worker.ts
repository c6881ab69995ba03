import type { AgentLink } from '../sandbox/agent-link.ts'
import type { WorkerLink } from '../sandbox/worker-link.ts'
import type { Target } from './target.ts'
import type { WayOutClient } from './way-out.ts'

/** Has a sandbox load a webtask. The egress role knows its bound secrets before there is any code, and forgets them when the worker is gone. */
export async function loadWorker(link: AgentLink, target: Target, wayOut: WayOutClient | undefined): Promise<WorkerLink> {
  const { source, bound } = await target.source()
  if (bound === undefined || wayOut === undefined) return link.load(target.key, source)
  const binding = await wayOut.bind(link.id, bound)
  const release = () => binding[Symbol.dispose]()
  try {
    const worker = await link.load(target.key, source)
    void worker.gone.then(release)
    return worker
  } catch (error) {
    release()
    throw error
  }
}
