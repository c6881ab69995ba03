import { isPlainName } from '../tenant/tenant-id.ts'

declare const brand: unique symbol

/** The name of a webtask inside its tenant; the `jtn` claim. */
export type WebtaskName = string & { readonly [brand]: 'WebtaskName' }

/** Code without a name is stored under its hash; a webtask of that name could pass for it. */
const RESERVED = /^sha256-[\w-]{43}$/

/** A webtask's name, or undefined when it is not one. Case matters. */
export function parseWebtaskName(input: unknown): WebtaskName | undefined {
  return isPlainName(input) && !RESERVED.test(input) ? (input as WebtaskName) : undefined
}
