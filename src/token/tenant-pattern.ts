import { LRUCache } from 'lru-cache'
import { RE2JS } from 're2js'
import { WebtaskError } from '../errors.ts'
import { parseTenantId, type TenantId } from '../tenant/tenant-id.ts'

/** Which containers a token reaches: alternatives, each a literal name or a `/regex/`; never empty. */
export type TenantPattern = readonly string[]

const MAX_ALTERNATIVES = 100
const MAX_REGEX_LENGTH = 128
/** Bounds what one match can cost: steps grow with the length of the name times the size of the program. */
const MAX_REGEX_PROGRAM = 2000

const compiled = new LRUCache<string, RE2JS>({ max: 1000 })

/**
 * Reads a `ten` claim: a literal, a comma-separated list of literals, a `/regex/`, or an array of these.
 * A regex is searched for, as in JavaScript, so it needs `^` and `$` to cover the whole name. Refuses (bad_request) anything else.
 */
export function parseTenantPattern(input: unknown): TenantPattern {
  const items: readonly unknown[] = Array.isArray(input) ? input : [input]
  const pattern = [...new Set(items.flatMap(parseItem))]
  if (pattern.length === 0) throw refuse('it names no container')
  if (pattern.length > MAX_ALTERNATIVES) throw refuse(`it has more than ${MAX_ALTERNATIVES} alternatives`)
  return pattern
}

/** The form of a pattern inside a token; old clients take element 0 of an array as their container. */
export function patternToClaim(pattern: TenantPattern): string | readonly string[] {
  return pattern.length === 1 && pattern[0] !== undefined ? pattern[0] : pattern
}

export function patternMatches(pattern: TenantPattern, tenant: TenantId): boolean {
  return pattern.some((source) => (isRegex(source) ? compile(source).test(tenant) : source === tenant))
}

/** Whether everything the child reaches is surely reached by the parent. A regex is inside only an identical one. */
export function patternWithin(child: TenantPattern, parent: TenantPattern): boolean {
  return child.every((source) => {
    if (parent.includes(source)) return true
    const tenant = parseTenantId(source)
    return tenant !== undefined && patternMatches(parent, tenant)
  })
}

function parseItem(item: unknown): readonly string[] {
  if (typeof item !== 'string') throw refuse('it must be a string or an array of strings')
  if (isRegex(item)) {
    compile(item)
    return [item]
  }
  const names = item.split(',').map((name) => name.trim())
  for (const name of names) {
    if (parseTenantId(name) === undefined) throw refuse(`"${name.slice(0, 140)}" is not a container name or a /regex/`)
  }
  return names
}

function isRegex(source: string): boolean {
  return source.startsWith('/')
}

/** RE2 takes linear time whatever the pattern is, and has no back references or look-arounds. */
function compile(source: string): RE2JS {
  const known = compiled.get(source)
  if (known !== undefined) return known
  if (source.length < 3 || !source.endsWith('/')) throw refuse('a regex must stand between slashes, without flags')
  if (source.length > MAX_REGEX_LENGTH) throw refuse(`a regex must not be longer than ${MAX_REGEX_LENGTH} characters`)
  const regex = compileRe2(source.slice(1, -1))
  if (regex.programSize() > MAX_REGEX_PROGRAM) throw refuse('its regex is too complex')
  compiled.set(source, regex)
  return regex
}

function compileRe2(body: string): RE2JS {
  try {
    return RE2JS.compile(body)
  } catch (error) {
    throw refuse(error instanceof Error ? error.message : 'its regex is broken', error)
  }
}

function refuse(reason: string, cause?: unknown): WebtaskError {
  return new WebtaskError('bad_request', `Cannot use claim "ten": ${reason}`, { cause })
}
