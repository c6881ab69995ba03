/**
 * Packages from Debian. The engine of Debian 12 lacks years of fixes, so it comes from newer suites of the same mirror,
 * pinned so low that nothing else on the machine is ever upgraded to them.
 */
import { readdirSync, writeFileSync } from 'node:fs'
import { osRelease, ownArchive } from './apt-sources.mjs'
import { ask, run } from './command.mjs'
import { placeRunc } from './runc.mjs'

const ENGINE_SUITE = 'sid'
const FROM_ENGINE_SUITE = ['docker.io', 'docker-cli', 'docker-compose', 'docker-buildx', 'containerd']
const GVISOR_SUITE = { bookworm: 'bookworm-backports' }
const SOURCES = '/etc/apt/sources.list.d/webtask-engine.sources'
const PINS = '/etc/apt/preferences.d/webtask-engine'

/** Installs the engine, Compose, buildx, gVisor and a patched runc. Needs root. */
export async function installEngine({ step }) {
  addSuites(osRelease().VERSION_CODENAME)
  await step('Reading the package lists', (onLine) => apt(['update'], { onLine }))
  // The engine comes last: where it is, a later start takes the whole installation for done.
  await step('Installing a patched runc', (onLine) => installRunc(onLine))
  const packages = [...FROM_ENGINE_SUITE, 'runsc']
  await step('Installing Docker Engine and gVisor', (onLine) => apt(['install', ...packages], { onLine }))
}

/** Installs ordinary packages of the machine's own release. */
export async function install(names, { step }) {
  const listed = readdirSync('/var/lib/apt/lists').some((name) => name.includes('_Packages'))
  if (!listed) await step('Reading the package lists', (onLine) => apt(['update'], { onLine }))
  await step(`Installing ${names.join(', ')}`, (onLine) => apt(['install', ...names], { onLine }))
}

/** As a package where that leaves the C library alone, else beside it with a library of its own. */
async function installRunc(onLine) {
  const wanted = `runc/${ENGINE_SUITE}`
  const plan = await ask('apt-get', ['install', '--simulate', '--no-install-recommends', wanted])
  if (plan !== undefined && !/^Inst (libc6|base-files) /m.test(plan)) return apt(['install', wanted], { onLine })
  await apt(['install', 'patchelf', 'libseccomp2'], { onLine })
  await placeRunc((cwd) => apt(['download', '-o', 'APT::Sandbox::User=root', wanted, `libc6/${ENGINE_SUITE}`], { cwd, onLine }))
}

/** The newer suites become known; only the named packages may come from them, now and at later upgrades. */
function addSuites(codename) {
  const { uri, options } = ownArchive()
  const gvisor = GVISOR_SUITE[codename]
  const suites = [ENGINE_SUITE, ...(gvisor ? [gvisor] : [])]
  const source = ['Types: deb', `URIs: ${uri}`, `Suites: ${suites.join(' ')}`, 'Components: main', ...options]
  const pin = (packages, suite, priority) => `Package: ${packages}\nPin: release n=${suite}\nPin-Priority: ${priority}\n`
  const pins = [pin(FROM_ENGINE_SUITE.join(' '), ENGINE_SUITE, 600), pin('*', ENGINE_SUITE, 50)]
  if (gvisor) pins.push(pin('runsc', gvisor, 600), pin('*', gvisor, 100))
  writeFileSync(SOURCES, `${source.join('\n')}\n`)
  writeFileSync(PINS, pins.join('\n'))
}

function apt(args, options) {
  const settings = ['Dpkg::Options::=--force-confold', 'Dpkg::Use-Pty=0', 'DPkg::Lock::Timeout=120']
  const flags = ['-y', '--no-install-recommends', ...settings.flatMap((setting) => ['-o', setting])]
  return run('apt-get', [...flags, ...args], { env: { DEBIAN_FRONTEND: 'noninteractive' }, ...options })
}
