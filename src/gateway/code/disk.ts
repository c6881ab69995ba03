import { randomUUID } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Log } from '../../log.ts'

/** Small files under one directory that may be forgotten at any time. Names are relative paths; nothing here throws. */
export type Disk = AsyncDisposable & {
  /** Replaces a file, whole or not at all, soon. Writes of one name land in order. */
  write(name: string, content: string): void
  read(name: string): Promise<Buffer | undefined>
  remove(name: string): Promise<void>
  /** Makes a file count as just used. */
  touch(name: string): void
  /** Resolves when no write or clean-up is under way. */
  idle(): Promise<void>
}

export type DiskLimits = { readonly bytes: number; readonly files: number; readonly writes: number }

/** A clean-up goes below the limit by this much, so that not every write needs one. */
const SLACK = 0.9
const TEMPORARY_MS = 60_000

/** Opens the directory (made with mode 0700) and cleans it up: the least recently used files go until the rest is within the limits. */
export function openDisk(options: { dir: string; limits: DiskLimits; log?: Pick<Log, 'warn'> | undefined }): Disk {
  const { dir, limits, log } = options
  const pending = new Map<string, Promise<void>>()
  let used = { bytes: 0, files: 0 }
  let pruning: Promise<void> | undefined
  let closed = false

  async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work()
    } catch (error) {
      if (!isMissing(error)) log?.warn({ err: error }, 'platform.failed')
      return undefined
    }
  }

  function track(name: string, work: () => Promise<void>): void {
    if (closed || pending.size >= limits.writes) return
    const done = (pending.get(name) ?? Promise.resolve())
      .then(() => attempt(work))
      .then(() => {
        if (pending.get(name) === done) pending.delete(name)
      })
    pending.set(name, done)
  }

  async function replace(name: string, content: string): Promise<void> {
    const file = path.join(dir, name)
    const temporary = path.join(dir, 'tmp', randomUUID())
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
    await mkdir(path.dirname(temporary), { recursive: true, mode: 0o700 })
    try {
      await writeFile(temporary, content, { mode: 0o600 })
      await rename(temporary, file)
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
    used = { bytes: used.bytes + Buffer.byteLength(content), files: used.files + 1 }
    if (used.bytes > limits.bytes || used.files > limits.files) void prune()
  }

  function prune(): Promise<void> {
    pruning ??= attempt(removeOldest).then(() => {
      pruning = undefined
    })
    return pruning
  }

  async function removeOldest(): Promise<void> {
    await mkdir(dir, { recursive: true, mode: 0o700 })
    const found = await readdir(dir, { recursive: true, withFileTypes: true })
    const files: { file: string; bytes: number; usedAt: number }[] = []
    for (const entry of found) {
      if (!entry.isFile()) continue
      const file = path.join(entry.parentPath, entry.name)
      const facts = await stat(file).catch(() => undefined)
      if (facts === undefined) continue
      const abandoned = entry.parentPath === path.join(dir, 'tmp') && Date.now() - facts.mtimeMs > TEMPORARY_MS
      if (abandoned) await rm(file, { force: true })
      else files.push({ file, bytes: facts.size, usedAt: facts.mtimeMs })
    }
    let left = { bytes: files.reduce((sum, { bytes }) => sum + bytes, 0), files: files.length }
    if (left.bytes > limits.bytes || left.files > limits.files) {
      for (const { file, bytes } of files.toSorted((a, b) => a.usedAt - b.usedAt)) {
        if (left.bytes <= limits.bytes * SLACK && left.files <= limits.files * SLACK) break
        await rm(file, { force: true })
        left = { bytes: left.bytes - bytes, files: left.files - 1 }
      }
    }
    used = left
  }

  async function idle(): Promise<void> {
    while (pending.size > 0 || pruning !== undefined) await Promise.all([...pending.values(), pruning])
  }

  void prune()
  return {
    write: (name, content) => track(name, () => replace(name, content)),
    read: (name) => attempt(() => readFile(path.join(dir, name))),
    remove: async (name) => void (await attempt(() => rm(path.join(dir, name), { force: true }))),
    touch: (name) =>
      track(name, async () => {
        const now = new Date()
        await utimes(path.join(dir, name), now, now)
      }),
    idle,
    async [Symbol.asyncDispose]() {
      closed = true
      await idle()
    },
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}
