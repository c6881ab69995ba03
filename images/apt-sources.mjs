/** Where this machine gets its Debian packages from, read from its own apt sources: both the deb822 and the one-line form. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { SetupError } from './command.mjs'

const KEPT_OPTIONS = { 'signed-by': 'Signed-By', trusted: 'Trusted' }

/** The fields of /etc/os-release. */
export function osRelease(text = read('/etc/os-release')) {
  return Object.fromEntries([...text.matchAll(/^(\w+)="?(.*?)"?$/gm)].map(([, key, value]) => [key, value]))
}

/** The archive of this machine's own release: `{ uri, options }`, options as deb822 lines. Refuses when there is none. */
export function ownArchive() {
  const codename = osRelease().VERSION_CODENAME
  const archive = findArchive(readSources(), codename)
  if (archive) return archive
  throw new SetupError(
    `Cannot find the Debian mirror of "${codename}" in /etc/apt: add it to /etc/apt/sources.list, or install Docker Engine yourself, and start again`,
  )
}

/** The archives of another release on the same mirrors, as `{ uri, suite }` with the main one first. */
export function archivesOf(release) {
  const own = osRelease().VERSION_CODENAME
  const main = plainUri(ownArchive().uri)
  const security = findArchive(readSources(), `${own}-security`)
  return [
    { uri: main, suite: release },
    { uri: main, suite: `${release}-updates` },
    ...(security ? [{ uri: plainUri(security.uri), suite: `${release}-security` }] : []),
  ]
}

/** The first archive among `sources` (`{ name, text }`) that carries the suite's main component. */
function findArchive(sources, suite) {
  for (const { name, text } of sources) {
    const entries = name.endsWith('.sources') ? deb822(text) : oneLine(text)
    const found = entries.find(({ uri, suites, components }) => {
      return !uri.startsWith('cdrom:') && suites.includes(suite) && components.includes('main')
    })
    if (found) return { uri: found.uri, options: found.options }
  }
}

function deb822(text) {
  return text
    .replace(/^#.*\n?/gm, '')
    .split(/\n\s*\n/)
    .map(stanza)
    .filter((fields) => words(fields.types).includes('deb') && fields.uris && fields.enabled !== 'no')
    .map((fields) => ({
      uri: words(fields.uris)[0],
      suites: words(fields.suites),
      components: words(fields.components),
      options: kept((key) => fields[key]),
    }))
}

function stanza(text) {
  const fields = {}
  let last = ''
  for (const line of text.split('\n')) {
    const field = /^([\w-]+):\s*(.*)$/.exec(line)
    if (field) fields[(last = field[1].toLowerCase())] = field[2]
    else if (last && /^\s/.test(line)) fields[last] += `\n${line}`
  }
  return fields
}

function oneLine(text) {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$/.exec(line.replace(/#.*$/, ''))
    if (!match) return []
    const [, bracket = '', uri, suite, components] = match
    const options = kept((key) => new RegExp(`(?:^|\\s)${key}=(\\S+)`).exec(bracket)?.[1])
    return [{ uri, suites: [suite], components: words(components), options }]
  })
}

function kept(value) {
  return Object.entries(KEPT_OPTIONS).flatMap(([key, name]) => (value(key) ? [`${name}: ${value(key)}`] : []))
}

function words(text = '') {
  return text.trim().split(/\s+/)
}

/** Cloud images name a file that lists mirrors; tools other than apt want one of those. */
function plainUri(uri) {
  const file = /^mirror\+file:(\/.*)$/.exec(uri)?.[1]
  return file ? words(read(file))[0] : uri
}

function readSources() {
  const folder = '/etc/apt/sources.list.d'
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => /\.(list|sources)$/.test(name)) : []
  const paths = ['/etc/apt/sources.list', ...names.sort().map((name) => join(folder, name))]
  return paths.map((path) => ({ name: path, text: read(path) }))
}

function read(path) {
  return existsSync(path) ? readFileSync(path, 'utf8') : ''
}
