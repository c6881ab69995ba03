import { readFileSync } from 'node:fs'
import path from 'node:path'

export interface Vector {
  readonly from: string
  readonly name: string
  readonly text: string
}

/** Signatures, encryptions and keys of Wycheproof and the JOSE cookbook; test/vectors/README.md says what and whose they are. */
export const VECTORS = JSON.parse(readFileSync(path.resolve(import.meta.dirname, '../vectors/jose.json'), 'utf8')) as {
  readonly jws: readonly Vector[]
  readonly jwe: readonly Vector[]
  readonly jwk: readonly { readonly from: string; readonly key: Record<string, unknown> }[]
}

/** The first part of a compact text, or the first protected header of a JSON one, which need not be JSON by the rules. */
export function protectedHeader(text: string): string {
  return text.startsWith('{') ? (/"protected":"([^"]*)"/.exec(text)?.[1] ?? '') : text.split('.')[0]!
}
