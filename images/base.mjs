/**
 * The images that ours are built on: the official ones where they are present or can be pulled, else local ones made from Debian
 * and npm packages. Local ones have their own names, with a hash of their inputs; they never pose as official images.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { archivesOf, osRelease } from './apt-sources.mjs'
import { run, SetupError } from './command.mjs'
import { install } from './debian.mjs'
import { build, imageId, pull } from './docker.mjs'
import { contentHash } from './hash.mjs'

const OFFICIAL = { node: 'node:26-bookworm-slim', redis: 'redis:8-bookworm' }
const CHOSEN = { node: () => process.env.NODE_IMAGE, redis: () => process.env.REDIS_IMAGE }
const SUITE = 'bookworm'
const NPM_VERSION = '11.19.1'

/**
 * Resolves with `{ node, redis }`, references of local images; `wanted` says which are needed. An image that the user chose by
 * NODE_IMAGE or REDIS_IMAGE is pulled when absent, and never replaced by a local one.
 */
export async function ensureBases({ root, progress, wanted = ['node', 'redis'] }) {
  const local = localNames(root)
  const bases = Object.fromEntries(await Promise.all(wanted.map(async (name) => [name, await present(name, local[name])])))
  let reason
  for (const name of wanted) {
    if (bases[name] || (reason && !CHOSEN[name]())) continue
    reason = await pullBase(name, progress)
    if (!reason) bases[name] = reference(name)
  }
  const unreachable = wanted.filter((name) => !bases[name])
  if (unreachable.length === 0) return bases
  await buildLocal(local, { root, progress, wanted: unreachable, reason })
  return { ...bases, ...Object.fromEntries(unreachable.map((name) => [name, local[name]])) }
}

function reference(name) {
  return CHOSEN[name]() || OFFICIAL[name]
}

async function present(name, local) {
  const chosen = CHOSEN[name]()
  const candidates = chosen ? [chosen] : [OFFICIAL[name], local]
  const ids = await Promise.all(candidates.map(imageId))
  return candidates.find((_, index) => ids[index])
}

async function pullBase(name, { step }) {
  const reason = await step(`Pulling ${reference(name)}`, (onLine) => pull(reference(name), { onLine }))
  if (reason && CHOSEN[name]()) throw new SetupError(`Cannot pull "${reference(name)}": ${reason}`)
  return reason
}

function localNames(root) {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
  const { version } = lock.packages['node_modules/node']
  const debian = contentHash(root, ['images/base/debian.sh'], [SUITE, process.arch])
  return {
    debian: `webtask-debian:${debian}`,
    node: `webtask-base:${contentHash(root, ['images/base/node.Dockerfile'], [debian, version, NPM_VERSION])}`,
    redis: `webtask-redis:${contentHash(root, ['images/base/redis.Dockerfile', 'images/base/redis-entrypoint.sh'], [debian])}`,
  }
}

async function buildLocal(local, { root, progress, wanted, reason }) {
  if (process.platform !== 'linux' || process.getuid() !== 0 || osRelease().ID !== 'debian') {
    throw new SetupError(
      `Cannot pull ${wanted.map(reference).join(' and ')}: ${reason}.\n` +
        'Only root on Debian can build stand-ins. Check the network, or bring the images by "docker load", and start again',
    )
  }
  progress.note(`Cannot pull images (${reason}): building them from Debian and npm packages instead`)
  const { step } = progress
  if (!(await imageId(local.debian))) {
    if (!existsSync('/usr/sbin/debootstrap')) await install(['debootstrap'], progress)
    await step('Building a minimal Debian', (onLine) => importDebian(local.debian, { root, onLine }))
  }
  const args = { DEBIAN: local.debian }
  const context = join(root, 'images/base')
  const labels = { 'webtask.image': 'base' }
  if (wanted.includes('redis')) {
    await step('Building the Redis image', (onLine) =>
      build(local.redis, { context, dockerfile: join(context, 'redis.Dockerfile'), args, labels, onLine }),
    )
  }
  if (wanted.includes('node')) {
    await step('Building the Node image', (onLine) =>
      withNpm((npm) => {
        const contexts = { npm, node: join(root, 'node_modules/node/bin') }
        return build(local.node, { context, dockerfile: join(context, 'node.Dockerfile'), args, contexts, labels, onLine })
      }),
    )
  }
}

async function importDebian(tag, { root, onLine }) {
  const sources = archivesOf(SUITE)
  const lines = sources.map(({ uri, suite }) => `deb ${uri} ${suite} main`)
  const script = [join(root, 'images/base/debian.sh'), SUITE, sources[0].uri, ...lines]
  const pipeline = 'tag=$1; shift; sh "$@" | docker import --change "CMD [\\"/bin/sh\\"]" --change "LABEL webtask.image=base" - "$tag"'
  await run('bash', ['-o', 'pipefail', '-c', pipeline, 'debian', tag, ...script], { onLine })
}

/** npm itself comes from its registry by the machine's own npm, which knows proxies and certificates. */
async function withNpm(use) {
  const scratch = mkdtempSync(join(tmpdir(), 'webtask-npm-'))
  try {
    await run('npm', ['pack', '--silent', '--pack-destination', scratch, `npm@${NPM_VERSION}`], { cwd: scratch })
    await run('tar', ['-xzf', `npm-${NPM_VERSION}.tgz`], { cwd: scratch })
    return await use(join(scratch, 'package'))
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
