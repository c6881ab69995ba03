/** The `docker` command, with the plugins that we need. An old client may come first on the PATH: then the packaged one is used. */
import { ask, run, SetupError } from './command.mjs'

const CLIENTS = ['docker', '/usr/bin/docker', '/usr/local/bin/docker']
const found = new Map()

/** The client that has the plugin (`buildx` or `compose`); refuses when none has. */
export async function dockerWith(plugin) {
  if (!found.has(plugin)) {
    const answers = await Promise.all(CLIENTS.map((client) => ask(client, [plugin, 'version'], { timeout: 10_000 })))
    found.set(plugin, CLIENTS[answers.findIndex((answer) => answer !== undefined)])
  }
  const client = found.get(plugin)
  if (!client) {
    throw new SetupError(
      `The docker command lacks its "${plugin}" plugin: install it (https://docs.docker.com/${plugin === 'compose' ? 'compose/install' : 'build/install-buildx'}/), and start again`,
    )
  }
  return client
}

/** The id of a local image, or undefined. */
export function imageId(reference) {
  return ask('docker', ['image', 'inspect', '--format', '{{.Id}}', reference])
}

/** Builds an image with BuildKit: `args` become build arguments, `contexts` named contexts, `secrets` files seen only during the build. */
export async function build(tag, { context, dockerfile, args = {}, contexts = {}, secrets = {}, labels = {}, onLine }) {
  const flags = (flag, values) => Object.entries(values).flatMap(([key, value]) => [flag, `${key}=${value}`])
  const files = Object.entries(secrets).flatMap(([id, path]) => ['--secret', `id=${id},src=${path}`])
  const options = [...flags('--build-arg', args), ...flags('--build-context', contexts), ...flags('--label', labels), ...files]
  const fixed = ['--load', '--progress', 'plain', '--provenance=false', '--tag', tag, '--file', dockerfile]
  await run(await dockerWith('buildx'), ['buildx', 'build', ...fixed, ...options, context], { onLine })
}

/**
 * Pulls an image; resolves with undefined, or with the reason why it could not. A registry that is there answers at once
 * with a first line about the image, so silence for `patience` ms counts as absence, while a slow download may take its time.
 */
export async function pull(reference, { onLine = () => {}, patience = 15_000 } = {}) {
  const abort = new AbortController()
  const timer = setTimeout(() => abort.abort(), patience)
  try {
    await run('docker', ['pull', reference], {
      signal: abort.signal,
      onLine: (line) => {
        clearTimeout(timer)
        onLine(line)
      },
    })
    return undefined
  } catch (error) {
    if (abort.signal.aborted) return `no answer from its registry within ${patience / 1000} s`
    const line = error.output?.trim().split('\n').at(-1)
    return line?.replace('Error response from daemon: ', '') || error.message
  } finally {
    clearTimeout(timer)
  }
}
