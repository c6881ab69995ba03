/** How webtask code finds the packages of the image. */
import type { createRequire as CreateRequire } from 'node:module'

type Require = ReturnType<typeof CreateRequire>
const { createRequire } = process.getBuiltinModule('node:module')

/** `x@1.2.3/sub` and `@scope/x@1.2.3`: name, then what follows the version. */
const VERSIONED = /^((?:@[^/@]+\/)?[^/@]+)@[^/]+(\/.*)?$/

/** `x@1.2.3/sub` → `x/sub`; undefined when there is no version in it. */
export function withoutVersion(specifier: string): string | undefined {
  const match = VERSIONED.exec(specifier)
  return match ? match[1]! + (match[2] ?? '') : undefined
}

/** `require` as seen from the packages directory. A version that is asked for by name is served by what the image has. */
export function createPackageRequire(filename: string): Require {
  const base = createRequire(filename)
  const require = ((specifier: string) => {
    const plain = typeof specifier === 'string' ? withoutVersion(specifier) : undefined
    if (plain === undefined) return base(specifier)
    try {
      return base(specifier)
    } catch (error) {
      if (!isMissing(error, specifier)) throw error
      return base(plain)
    }
  }) as Require
  return Object.assign(require, { resolve: base.resolve, cache: base.cache, main: undefined, extensions: base.extensions })
}

/** True when the error says that exactly this module is missing, not one that it needs itself. */
function isMissing(error: unknown, specifier: string): boolean {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown }
  return code === 'MODULE_NOT_FOUND' && typeof message === 'string' && message.includes(`'${specifier}'`)
}
