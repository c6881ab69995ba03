import { randomBytes } from 'node:crypto'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Keyring } from '../token/keyring.ts'
import { createMasterToken } from '../token/sign.ts'
import { authenticateToken } from '../token/verify.ts'

/**
 * The deployment's master token, in a file that its owner alone can read: made when there is none, and made anew when it is not signed
 * by the active key, so that the retiring one can be revoked without locking the operator out. The old one stays valid as long as its
 * key is. Resolves with the file.
 */
export async function ensureMasterToken(options: { keyring: Keyring; issuer: string; dataDir: string; now: () => number }): Promise<string> {
  const file = path.join(options.dataDir, 'master.token')
  if (!(await isCurrent(file, options))) {
    const { token } = await createMasterToken({ ...options, now: options.now() })
    const draft = `${file}.${randomBytes(8).toString('hex')}`
    try {
      await writeFile(draft, `${token}\n`, { mode: 0o600, flag: 'wx' })
      await rename(draft, file)
    } finally {
      await rm(draft, { force: true })
    }
  }
  return file
}

async function isCurrent(file: string, options: { keyring: Keyring; issuer: string }): Promise<boolean> {
  try {
    const text = (await readFile(file, 'utf8')).trim()
    await authenticateToken(text, options)
    const header = JSON.parse(Buffer.from(text.slice(0, text.indexOf('.')), 'base64url').toString()) as { kid: string }
    return header.kid === options.keyring.signing.header.kid
  } catch {
    return false
  }
}
