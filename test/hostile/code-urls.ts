import { innerHosts } from '../support/ssrf-spellings.ts'
import type { Arena, Heard } from './arena.ts'

/** One of so many spellings is tried end to end; all of them are judged without a network by the unit tests. */
const ONE_OF = 25
const REFUSALS = ['bad_request', 'code_unavailable']

/** Asks for code from inner places, the traps among them; none may be fetched, and no trap may be reached. */
export async function fetchFromInside({ runtime, attacker, traps }: Arena): Promise<Heard> {
  const hosts = innerHosts().filter((_, index) => index % ONE_OF === 0)
  const places = traps.places.flatMap(({ host, port }) => [`${host.includes(':') ? `[${host}]` : host}:${port}`, `localhost:${port}`])
  const urls = [...hosts.map((host) => `https://${host}/`), ...places.flatMap((place) => [`https://${place}/`, `http://${place}/`])]
  const problems: string[] = []
  for (const url of urls) {
    const answer = await runtime.ask(`/api/run/${attacker()}?webtask_url=${encodeURIComponent(url)}`, { token: runtime.master })
    if (!REFUSALS.some((code) => answer.text.includes(`urn:webtask:error:${code}`)))
      problems.push(`${url} was answered: ${answer.status} ${answer.text.slice(0, 100)}`)
  }
  return { heard: `${urls.length - problems.length} of ${urls.length} refused`, problems }
}
