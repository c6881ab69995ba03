import { randomBytes } from 'node:crypto'
import { open, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { createRevokedSet, isExpired, type Revocation } from './revocation.ts'

/** The durable copy of all revocations: what Redis may lose, this has. */
export interface RevocationFile extends AsyncDisposable {
  /** All that is there. Lines that were never finished, as after a crash, are left out: nobody was told that they are safe. */
  read(): Promise<readonly Revocation[]>
  /** Resolves when the disk has it. Rejects when that fails; then it may be there or not. */
  append(revocation: Revocation): Promise<void>
}

/** Lines beyond twice those that say something before the file is written anew. */
const SPARE_LINES = 1000

interface Waiting {
  readonly line: string
  readonly written: () => void
  readonly failed: (error: unknown) => void
}

/**
 * Opens or makes an append-only file, mode 0600. Lines that wait are written and synced together. Several processes may share the file:
 * lines are appended whole, and who compacts it takes along what others wrote meanwhile, while they write again what went into the old one.
 * `now` gives unix seconds.
 */
export async function openRevocationFile(file: string, options: { now: () => number }): Promise<RevocationFile> {
  const { now } = options
  let handle: FileHandle | undefined
  /** The last write may have left half a line. */
  let torn = true
  let lines = 0
  let useful = 0
  let waiting: Waiting[] = []
  let writing: Promise<void> | undefined

  /** Writes and syncs, again if the file was replaced below us, as the new one need not have these lines. */
  async function write(text: string): Promise<void> {
    for (;;) {
      handle ??= await open(file, 'a', 0o600)
      const start = torn ? '\n' : ''
      torn = true
      await handle.appendFile(start + text)
      await handle.datasync()
      torn = false
      const [ours, named] = await Promise.all([handle.stat(), stat(file).catch(() => undefined)])
      if (named?.ino === ours.ino && named.dev === ours.dev) return
      await close()
    }
  }

  async function close(): Promise<void> {
    const closing = handle
    handle = undefined
    torn = true
    await closing?.close()
  }

  async function flush(): Promise<void> {
    while (waiting.length > 0) {
      const batch = waiting
      waiting = []
      try {
        await write(batch.map(({ line }) => line).join(''))
        for (const { written } of batch) written()
        lines += batch.length
        if (lines > 2 * useful + SPARE_LINES) await compact()
      } catch (error) {
        for (const { failed } of batch) failed(error)
      }
    }
    // In the same turn as the last look at who waits, or somebody could wait for ever.
    writing = undefined
  }

  async function read(): Promise<readonly Revocation[]> {
    const text = await readAll(file)
    const { kept, count } = parse(text ?? '', now())
    lines = count
    useful = kept.length
    return kept
  }

  async function compact(): Promise<void> {
    await using old = await open(file, 'r')
    const text = await old.readFile('utf8')
    const { kept } = parse(text, now())
    const draft = `${file}.${randomBytes(8).toString('hex')}`
    try {
      await using fresh = await open(draft, 'wx', 0o600)
      await fresh.writeFile(kept.map(toLine).join(''))
      await fresh.sync()
      await rename(draft, file)
    } finally {
      await rm(draft, { force: true })
    }
    await syncDirectory(path.dirname(file))
    await close()
    lines = useful = kept.length
    const late = (await old.readFile('utf8')).trim()
    if (late !== '') await write(`${late}\n`)
  }

  handle = await open(file, 'a', 0o600)
  await syncDirectory(path.dirname(file))
  await read()
  if (lines > 2 * useful + SPARE_LINES) await compact()

  return {
    read,
    append: (revocation) =>
      new Promise((resolve, reject) => {
        waiting.push({ line: toLine(revocation), written: resolve, failed: reject })
        writing ??= flush()
      }),
    async [Symbol.asyncDispose]() {
      await writing
      await close()
    },
  }
}

/** A line ends in `;`, so that half a line is never taken for a whole one. */
function toLine({ subject, value }: Revocation): string {
  return `${subject} ${value};\n`
}

function parse(text: string, now: number): { kept: readonly Revocation[]; count: number } {
  const set = createRevokedSet()
  const lines = text.split('\n').filter((line) => line !== '')
  for (const line of lines) {
    const [, subject, value] = /^(\S+) (.*);$/.exec(line) ?? []
    if (subject !== undefined && value !== undefined && !isExpired({ subject, value }, now)) set.add({ subject, value })
  }
  return { kept: [...set.entries()], count: lines.length }
}

async function readAll(file: string): Promise<string | undefined> {
  try {
    await using handle = await open(file, 'r')
    return await handle.readFile('utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

async function syncDirectory(dir: string): Promise<void> {
  await using handle = await open(dir, 'r')
  await handle.sync()
}
