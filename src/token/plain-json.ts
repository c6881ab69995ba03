import { WebtaskError } from '../errors.ts'

export type Json = null | boolean | number | string | readonly Json[] | JsonObject
export type JsonObject = { readonly [key: string]: Json }

const MAX_DEPTH = 8

/** Copies a JSON object into objects without a prototype. Refuses (bad_request) a key `__proto__`, values JSON cannot hold and more than 8 levels. */
export function copyObject(input: unknown, name: string): JsonObject {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) throw refuse(name, 'must be a JSON object')
  return copy(input, { name, depth: 1 }) as JsonObject
}

/** An object without a prototype made of the given parts; later ones win. */
export function mergeObjects(...parts: readonly JsonObject[]): JsonObject {
  return Object.assign(Object.create(null) as JsonObject, ...parts) as JsonObject
}

function copy(input: unknown, at: { name: string; depth: number }): Json {
  if (at.depth > MAX_DEPTH) throw refuse(at.name, `must not nest deeper than ${MAX_DEPTH} levels`)
  if (input === null || typeof input === 'boolean' || typeof input === 'string') return input
  if (typeof input === 'number' && Number.isFinite(input)) return input
  if (Array.isArray(input)) return input.map((item: unknown) => copy(item, { name: at.name, depth: at.depth + 1 }))
  if (typeof input !== 'object') throw refuse(at.name, 'must hold JSON values only')
  const result = Object.create(null) as Record<string, Json>
  for (const [key, value] of Object.entries(input)) {
    // Whoever merges this into an ordinary object would change that object's prototype.
    if (key === '__proto__') throw refuse(at.name, 'must not have the key "__proto__"')
    result[key] = copy(value, { name: `${at.name}.${key}`, depth: at.depth + 1 })
  }
  return result
}

function refuse(name: string, rule: string): WebtaskError {
  return new WebtaskError('bad_request', `Cannot use claim "${name.slice(0, 100)}": it ${rule}`)
}
