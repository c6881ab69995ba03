import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { z } from 'zod'
import type { Disk } from './disk.ts'
import type { CodeEntry } from './freshness.ts'

const persisted = z.object({
  tenant: z.string(),
  url: z.string(),
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  etag: z.string().nullable(),
  fetchedAt: z.number(),
  freshUntil: z.number(),
})

/** What is known about each tenant's URLs, in memory and on disk, so that it outlives a restart. */
export type CodeEntries = {
  peek(tenant: string, url: string): CodeEntry | undefined
  read(tenant: string, url: string): Promise<CodeEntry | undefined>
  /** Records an answer. `order` tells when its question was asked: an answer to an older question than the recorded one is dropped. */
  record(entry: CodeEntry, order: number): void
}

/** A revalidation that changed nothing is written down no more often than this: after a restart the entry looks a little older than it is. */
const REWRITE_MS = 60_000

/** Makes the book of entries over a disk, with the `memoryUrls` most recently used in memory. */
export function createCodeEntries(options: { disk: Disk; memoryUrls: number }): CodeEntries {
  const { disk } = options
  const memory = new LRUCache<string, { entry: CodeEntry; order: number; written: CodeEntry }>({ max: options.memoryUrls })

  return {
    peek: (tenant, url) => memory.get(keyOf(tenant, url))?.entry,
    async read(tenant, url) {
      const key = keyOf(tenant, url)
      const known = memory.get(key)
      if (known !== undefined) return known.entry
      const entry = parse(await disk.read(fileOf(key)))
      if (entry?.tenant !== tenant || entry.url !== url) return undefined
      // An answer may have been recorded while the file was read.
      const newer = memory.get(key)
      if (newer !== undefined) return newer.entry
      memory.set(key, { entry, order: 0, written: entry })
      return entry
    },
    record(entry, order) {
      const key = keyOf(entry.tenant, entry.url)
      const known = memory.get(key)
      if (known !== undefined && known.order > order) return
      const same =
        known?.written.hash === entry.hash && known.written.etag === entry.etag && Math.abs(entry.fetchedAt - known.written.fetchedAt) < REWRITE_MS
      memory.set(key, { entry, order, written: same ? known.written : entry })
      if (!same) disk.write(fileOf(key), JSON.stringify(entry))
    },
  }
}

/** One key for one tenant's URL: no other pair of texts has it. */
export function keyOf(tenant: string, url: string): string {
  return createHash('sha256')
    .update(JSON.stringify([tenant, url]))
    .digest('hex')
}

function fileOf(key: string): string {
  return `urls/${key.slice(0, 2)}/${key}.json`
}

function parse(bytes: Buffer | undefined): CodeEntry | undefined {
  if (bytes === undefined) return undefined
  try {
    return persisted.parse(JSON.parse(bytes.toString('utf8')))
  } catch {
    return undefined
  }
}
