import { WebtaskError } from '../../errors.ts'

/** Reads a `cph` claim, "sha256-<base64url>", as hex. Throws `bad_request` if it is anything else. */
export function parseCodeHash(cph: string): string {
  const [, digest] = /^sha256-([A-Za-z0-9_-]{43})$/.exec(cph) ?? []
  if (digest === undefined)
    throw new WebtaskError('bad_request', 'Cannot read the code hash "cph": it must be "sha256-" and 43 characters of base64url')
  return Buffer.from(digest, 'base64url').toString('hex')
}

/** Gives back code that may run for a token with this `cph` claim, if it has one. Throws `code_unavailable` for code of another hash. */
export function pinned<T extends { readonly sha256: string }>(code: T, cph: string | undefined): T {
  if (cph === undefined || parseCodeHash(cph) === code.sha256) return code
  throw new WebtaskError('code_unavailable', 'Cannot use the code: it has another hash than the token demands')
}
