/** Secrets that are bound to hosts: told apart from ordinary ones by their form, `{value, hosts}`. */
import { WebtaskError } from '../errors.ts'
import type { Json, JsonObject } from './plain-json.ts'

/** `hosts` are lower case: exact names, or `*.` and a name for whatever stands in for that one label. */
export interface BoundSecret {
  readonly value: string
  readonly hosts: readonly string[]
}

const BOUND_MAX = 16
const HOSTS_MAX = 16
/** Printable ASCII without a space at either end: what a header carries unchanged. */
const HEADER_SAFE = /^[\x21-\x7e][\x20-\x7e]{6,4094}[\x21-\x7e]$/
/** At least two labels, the last one beginning with a letter: so that no address in any spelling is one. */
const HOST = /^(?=.{1,253}$)(\*\.)?([a-z\d]([a-z\d-]{0,61}[a-z\d])?\.)+[a-z]([a-z\d-]{0,61}[a-z\d])?$/i

/** Judges the secrets of a new token. Refuses (bad_request), with the name of the member, what looks like a bound secret and is none. */
export function checkBoundSecrets(secrets: JsonObject): void {
  let count = 0
  for (const [name, member] of Object.entries(secrets)) {
    if (!isMeantAsBound(member)) continue
    const broken = ruleBroken(member)
    if (broken !== undefined) throw refuse(name, broken)
    count += 1
    if (count > BOUND_MAX) throw refuse(name, `at most ${BOUND_MAX} secrets may be bound to hosts`)
  }
}

/** Parts the secrets of a token. What was never judged and is no bound secret stays with the ordinary ones. */
export function partSecrets(secrets: JsonObject): { readonly ordinary: JsonObject; readonly bound: ReadonlyMap<string, BoundSecret> } {
  const ordinary = Object.create(null) as Record<string, Json>
  const bound = new Map<string, BoundSecret>()
  for (const [name, member] of Object.entries(secrets)) {
    if (!isMeantAsBound(member) || ruleBroken(member) !== undefined) ordinary[name] = member
    else bound.set(name, { value: member['value'] as string, hosts: (member['hosts'] as string[]).map((host) => host.toLowerCase()) })
  }
  return { ordinary, bound }
}

/** Also with members beside the two: whoever writes these means to bind, and must not learn later that nothing was bound. */
function isMeantAsBound(member: Json): member is JsonObject {
  return typeof member === 'object' && member !== null && Object.hasOwn(member, 'value') && Object.hasOwn(member, 'hosts')
}

function ruleBroken({ value, hosts, ...rest }: JsonObject): string | undefined {
  const other = Object.keys(rest)[0]
  if (other !== undefined) return `a secret with "value" and "hosts" is bound to hosts and has nothing beside them, such as "${other.slice(0, 50)}"`
  if (typeof value !== 'string' || !HEADER_SAFE.test(value))
    return '"value" must be 8 to 4096 characters of printable ASCII, without a space at either end'
  const isList = Array.isArray(hosts) && hosts.length >= 1 && hosts.length <= HOSTS_MAX
  if (!isList || !hosts.every((host) => typeof host === 'string' && HOST.test(host)))
    return `"hosts" must be a list of 1 to ${HOSTS_MAX} host names such as "api.example.com" or "*.example.com", without scheme, port or path`
  return undefined
}

function refuse(name: string, rule: string): WebtaskError {
  return new WebtaskError('bad_request', `Cannot use claim "ectx.${name.slice(0, 100)}": ${rule}`)
}
