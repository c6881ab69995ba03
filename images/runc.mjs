/**
 * A runc with the escape fixes of 2025. Debian 12's own lacks them, and the newer package needs a newer C library than
 * Debian 12 has. Upgrading the whole machine's C library for one program is too much, so that program gets its own
 * copy: runc, libc and the loader in one folder, first on the engine's PATH.
 */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from './command.mjs'

const HOME = '/usr/local/lib/webtask-runc'
const ON_PATH = '/usr/local/sbin/runc'
const MACHINES = {
  x64: { loader: 'ld-linux-x86-64.so.2', libraries: 'usr/lib/x86_64-linux-gnu' },
  arm64: { loader: 'ld-linux-aarch64.so.1', libraries: 'usr/lib/aarch64-linux-gnu' },
}

/** Puts runc in place from packages that `download` fetches into the folder it is given. Needs root and patchelf. */
export async function placeRunc(download) {
  const scratch = mkdtempSync(join(tmpdir(), 'webtask-runc-'))
  const fresh = `${HOME}.new`
  const { loader, libraries } = MACHINES[process.arch]
  try {
    chmodSync(scratch, 0o755)
    await download(scratch)
    const tree = join(scratch, 'tree')
    for (const name of readdirSync(scratch)) await run('dpkg-deb', ['-x', join(scratch, name), tree])
    rmSync(fresh, { recursive: true, force: true })
    mkdirSync(fresh, { recursive: true })
    copyFileSync(join(tree, 'usr/sbin/runc'), join(fresh, 'runc'))
    for (const name of [loader, 'libc.so.6']) copyFileSync(join(tree, libraries, name), join(fresh, name))
    copyFileSync(realpathSync(join('/', libraries, 'libseccomp.so.2')), join(fresh, 'libseccomp.so.2'))
    await run('patchelf', ['--set-interpreter', join(HOME, loader), '--force-rpath', '--set-rpath', HOME, join(fresh, 'runc')])
    rmSync(HOME, { recursive: true, force: true })
    renameSync(fresh, HOME)
    await run(join(HOME, 'runc'), ['--version'])
    rmSync(ON_PATH, { force: true })
    symlinkSync(join(HOME, 'runc'), ON_PATH)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
    rmSync(fresh, { recursive: true, force: true })
  }
}
