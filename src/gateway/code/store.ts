import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import type { Disk } from './disk.ts'

/** Code and the hex SHA-256 of its UTF-8 bytes. */
export type Code = { readonly code: string; readonly sha256: string }

/** Code by what it is: the same bytes are kept once, whoever they belong to. */
export type CodeStore = {
  /** Keeps code in memory at once and on disk soon. */
  put(code: string): Code
  /** Reads back what was put, unless it was forgotten or its file no longer has this hash. */
  read(sha256: string): Promise<Code | undefined>
  peek(sha256: string): Code | undefined
  /** Makes code on disk count as just used. */
  touch(sha256: string): void
}

/** Makes a store over a disk, with the most recently used code in memory up to `memoryBytes`. */
export function createCodeStore(options: { disk: Disk; memoryBytes: number }): CodeStore {
  const { disk } = options
  const memory = new LRUCache<string, Code>({ maxSize: options.memoryBytes, sizeCalculation: (kept) => Math.max(1, Buffer.byteLength(kept.code)) })

  return {
    put(given) {
      // Lone surrogates have no UTF-8: without this, different texts would have one hash.
      const code = given.toWellFormed()
      const sha256 = hashOf(code)
      const known = memory.get(sha256)
      if (known !== undefined) return known
      const kept = { code, sha256 }
      memory.set(sha256, kept)
      disk.write(fileOf(sha256), code)
      return kept
    },
    async read(sha256) {
      const known = memory.get(sha256)
      if (known !== undefined || !/^[0-9a-f]{64}$/.test(sha256)) return known
      const bytes = await disk.read(fileOf(sha256))
      if (bytes === undefined) return undefined
      const kept = { code: bytes.toString('utf8'), sha256 }
      if (hashOf(kept.code) !== sha256) {
        await disk.remove(fileOf(sha256))
        return undefined
      }
      memory.set(sha256, kept)
      disk.touch(fileOf(sha256))
      return kept
    },
    peek: (sha256) => memory.get(sha256),
    touch: (sha256) => disk.touch(fileOf(sha256)),
  }
}

function hashOf(code: string): string {
  return createHash('sha256').update(code, 'utf8').digest('hex')
}

function fileOf(sha256: string): string {
  return `${sha256.slice(0, 2)}/${sha256}`
}
