/** Plain objects made of names that callers choose. */

/** Copies own entries; `__proto__` is left out, so that no later copy by the code can change a prototype. */
export function copyInto(
  target: Record<string, unknown>,
  source: Readonly<Record<string, unknown>>,
  keep: (key: string) => boolean = () => true,
): void {
  for (const key of Object.keys(source)) if (key !== '__proto__' && keep(key)) target[key] = source[key]
}

/** A copy that the code may change without changing what the next request sees. */
export function privateCopy(source: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const copy: Record<string, unknown> = {}
  for (const key of Object.keys(source)) {
    if (key === '__proto__') continue
    const value = source[key]
    copy[key] = typeof value === 'object' && value !== null ? structuredClone(value) : value
  }
  return copy
}
