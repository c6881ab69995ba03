import { randomBytes } from 'node:crypto'
import { link, lstat, mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { generateKeys, KeyRecords } from './key-records.ts'
import { openKeyring, type Keyring } from './keyring.ts'

const FILE = 'ring.json'
const LOCK = '.ring.lock'
/** A change takes milliseconds, so a lock of this age was left by a process that died (ms). */
const LOCK_STALE_MS = 10_000

/**
 * Opens the keys in `dir` (`ring.json`, mode 0600, in a directory of mode 0700), making them first when there are none and
 * `create` says so. Two processes that start at once end up with the same keys. `now` in unix seconds. Throws an Error fit for
 * the operator when the keys are absent, readable by others or malformed; it never shows key material.
 */
export async function loadKeyring(dir: string, options: { create: boolean; now: number }): Promise<Keyring> {
  if (options.create) await mkdir(dir, { recursive: true, mode: 0o700 })
  const text = (await readKeys(dir)) ?? (options.create ? await createKeys(dir, options.now) : undefined)
  if (text === undefined) throw new Error(`Cannot load the keys: there are none in "${dir}"`)
  return openKeyring(parseKeys(text, join(dir, FILE)))
}

/** The ring as it lies in `dir`. Throws as `loadKeyring` does, and when there is none. */
export async function readKeyRecords(dir: string): Promise<KeyRecords> {
  const text = await readKeys(dir)
  if (text === undefined) throw new Error(`Cannot load the keys: there are none in "${dir}"; the first start makes them`)
  return parseKeys(text, join(dir, FILE))
}

/**
 * Replaces the ring by what `change` makes of it, whole or not at all, one change at a time over all processes. A ring that could not
 * be opened is never written. Readers see the old ring or the new one. Throws as `loadKeyring` and `change` do.
 */
export async function changeKeys(dir: string, change: (ring: KeyRecords) => KeyRecords | Promise<KeyRecords>): Promise<KeyRecords> {
  await using lock = await lockKeys(dir)
  void lock
  const path = join(dir, FILE)
  const before = await readKeyRecords(dir)
  const after = await change(before)
  if (after === before) return before
  await openKeyring(KeyRecords.parse(after))
  const owner = await stat(path)
  const draft = join(dir, `.${FILE}.${randomBytes(8).toString('hex')}`)
  try {
    // Root may do this for a gateway that runs as somebody else, who must still be able to read the ring.
    await writeDurably(draft, toText(after), process.getuid?.() === 0 ? owner : undefined)
    await rename(draft, path)
    await syncDirectory(dir)
  } finally {
    await rm(draft, { force: true })
  }
  return after
}

/** What changes when the ring does, so that nobody has to read it to know. */
export async function keysFingerprint(dir: string): Promise<string> {
  const { ino, mtimeNs, ctimeNs, size } = await lstat(join(dir, FILE), { bigint: true })
  return [ino, mtimeNs, ctimeNs, size].join(' ')
}

async function lockKeys(dir: string): Promise<AsyncDisposable> {
  const path = join(dir, LOCK)
  for (;;) {
    try {
      await (await open(path, 'wx', 0o600)).close()
      return { [Symbol.asyncDispose]: () => rm(path, { force: true }) }
    } catch (error) {
      if (hasCode(error, 'ENOENT')) throw new Error(`Cannot load the keys: there are none in "${dir}"; the first start makes them`, { cause: error })
      if (!hasCode(error, 'EEXIST')) throw error
      const made = await stat(path).catch(() => undefined)
      if (made !== undefined && Date.now() - made.mtimeMs > LOCK_STALE_MS) await rm(path, { force: true })
      else await sleep(20)
    }
  }
}

async function createKeys(dir: string, now: number): Promise<string | undefined> {
  await assertPrivate(dir, '0700')
  const draft = join(dir, `.${FILE}.${randomBytes(8).toString('hex')}`)
  try {
    await writeDurably(draft, toText(await generateKeys(now)))
    // Unlike a rename, a link never replaces keys that another process has just made.
    await link(draft, join(dir, FILE)).catch((error: unknown) => {
      if (!hasCode(error, 'EEXIST')) throw error
    })
    await syncDirectory(dir)
  } finally {
    await rm(draft, { force: true })
  }
  return readKeys(dir)
}

/** The text of the ring, or undefined when there is none. Throws when anybody but the owner could read or replace it. */
async function readKeys(dir: string): Promise<string | undefined> {
  const path = join(dir, FILE)
  const found = await lstat(path).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  })
  if (found === undefined) return undefined
  if (!found.isFile()) throw new Error(`Cannot load the keys: "${path}" is not a plain file`)
  await assertPrivate(dir, '0700')
  await using file = await open(path, 'r')
  if (((await file.stat()).mode & 0o077) !== 0) throw new Error(`Cannot load the keys: others may read "${path}"; run chmod 0600 on it`)
  return file.readFile('utf8')
}

async function assertPrivate(path: string, mode: string): Promise<void> {
  if (((await lstat(path)).mode & 0o077) !== 0) throw new Error(`Cannot load the keys: others may read "${path}"; run chmod ${mode} on it`)
}

/** Neither JSON's nor the schema's own message is passed on: they quote what they read. */
function parseKeys(text: string, path: string): KeyRecords {
  const parsed = KeyRecords.safeParse(parseJson(text))
  if (!parsed.success) throw new Error(`Cannot load the keys: "${path}" is damaged at "${parsed.error.issues[0]?.path.join('.') ?? ''}"`)
  return parsed.data
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function toText(records: KeyRecords): string {
  return `${JSON.stringify(records, null, 2)}\n`
}

async function writeDurably(path: string, text: string, owner?: { uid: number; gid: number }): Promise<void> {
  await using file = await open(path, 'wx', 0o600)
  await file.writeFile(text)
  if (owner !== undefined) await file.chown(owner.uid, owner.gid)
  await file.sync()
}

async function syncDirectory(dir: string): Promise<void> {
  await using handle = await open(dir, 'r')
  await handle.sync()
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
