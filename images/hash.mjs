/** Names for images that follow from what is inside: same inputs, same name, nothing to build. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** The first 12 hex digits of a digest over all files at `paths` (files or folders, below `root`) and over `extra` strings. */
export function contentHash(root, paths, extra = []) {
  const hash = createHash('sha256')
  for (const path of paths.flatMap((path) => filesAt(root, path))) {
    const bytes = readFileSync(join(root, path))
    hash.update(`${path}\0${bytes.length}\0`).update(bytes)
  }
  for (const text of extra) hash.update(`\0${text}`)
  return hash.digest('hex').slice(0, 12)
}

function filesAt(root, path) {
  if (!statSync(join(root, path)).isDirectory()) return [path]
  const names = readdirSync(join(root, path)).sort()
  return names.flatMap((name) => filesAt(root, `${path}/${name}`))
}
