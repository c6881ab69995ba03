/** Our own images, named by a hash of everything that goes into them: an unchanged tree builds nothing. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ask } from './command.mjs'
import { build, imageId } from './docker.mjs'
import { contentHash } from './hash.mjs'

const KEEP_MS = 24 * 3_600_000

/** What each image is made of; every COPY of its Dockerfile has its line here. */
const INPUTS = {
  agent: ['images/agent', 'src/agent', 'src/protocol', '.dockerignore'],
  server: ['images/server', 'src', 'package.json', 'package-lock.json', '.dockerignore'],
}

/** Resolves with the reference of the image `name` (`agent` or `server`) for this tree, built on `base`; builds it when it is not there. */
export async function ensureImage(name, { root, base, progress }) {
  const tag = `webtask-${name}:${contentHash(root, INPUTS[name], [await imageId(base)])}`
  if (await imageId(tag)) return tag
  await progress.step(`Building ${tag}`, async (onLine) => {
    const ca = await authorities()
    await build(tag, {
      context: root,
      dockerfile: join(root, 'images', name, 'Dockerfile'),
      args: { BASE: base },
      labels: { 'webtask.image': name },
      secrets: ca ? { ca } : {},
      onLine,
    })
  })
  await removeOld(name, tag)
  return tag
}

/** The file of extra certificate authorities that this machine's npm trusts, if there is one. */
async function authorities() {
  const candidates = [process.env.NODE_EXTRA_CA_CERTS, await ask('npm', ['config', 'get', 'cafile'])]
  return candidates.find((path) => path && existsSync(path))
}

/**
 * Removes earlier builds that no container uses. Another deployment on this engine may need one again at any moment,
 * so builds of the last day stay; the engine itself refuses to remove an image in use.
 */
async function removeOld(name, current) {
  const format = '{{.Repository}}:{{.Tag}} {{.CreatedAt}}'
  const listed = await ask('docker', ['image', 'ls', '--filter', `label=webtask.image=${name}`, '--format', format])
  const old = (listed ?? '').split('\n').flatMap((line) => {
    const [reference, date, time, zone] = line.split(' ')
    const age = Date.now() - Date.parse(`${date}T${time}${zone}`)
    return reference.startsWith(`webtask-${name}:`) && reference !== current && age > KEEP_MS ? [reference] : []
  })
  for (const reference of old) await ask('docker', ['image', 'rm', reference])
}
