/** Everything that has to be on the machine before the runtime or its tests can run. */
import { fileURLToPath } from 'node:url'
import { ensureBases } from './base.mjs'
import { ensureImage } from './build.mjs'
import { ensureEngine } from './engine.mjs'
import { ensureModules } from './modules.mjs'
import { createProgress } from './progress.mjs'

export const ROOT = fileURLToPath(new URL('..', import.meta.url)).replace(/[\\/]$/, '')

/**
 * Makes an engine, npm packages and the images ready, each only when missing; an image that the settings name is taken as it is.
 * `wants` asks for more than a start needs: `server` for the platform's own image, `node` and `redis` for those base images in any case.
 * Resolves with `{ node, agentImage, redisImage, serverImage, nodeImage, env }`: `env` is what a child must know to find them.
 */
export async function prepare({ yes = false, wants = {}, progress = createProgress() } = {}) {
  const { WEBTASK_AGENT_IMAGE, WEBTASK_REDIS_IMAGE, REDIS_URL } = process.env
  const engine = await ensureEngine({ yes, progress })
  const node = await ensureModules({ root: ROOT, progress })
  const wanted = []
  if (!WEBTASK_AGENT_IMAGE || wants.server || wants.node) wanted.push('node')
  if (!WEBTASK_REDIS_IMAGE && (!REDIS_URL || wants.redis)) wanted.push('redis')
  const bases = await ensureBases({ root: ROOT, progress, wanted })
  const image = (name) => ensureImage(name, { root: ROOT, base: bases.node, progress })
  const agentImage = WEBTASK_AGENT_IMAGE || (await image('agent'))
  const serverImage = wants.server ? await image('server') : undefined
  const redisImage = WEBTASK_REDIS_IMAGE || bases.redis
  const env = { WEBTASK_AGENT_IMAGE: agentImage, ...(redisImage && { WEBTASK_REDIS_IMAGE: redisImage }), ...dockerHost(engine) }
  return { node, agentImage, redisImage, serverImage, nodeImage: bases.node, env }
}

/** The docker command knows contexts, libraries know only this variable. */
function dockerHost({ host }) {
  return host === 'unix:///var/run/docker.sock' ? {} : { DOCKER_HOST: host }
}
