/** What the log of the runtime must look like whatever tenants print: one JSON object a line, written by us, within bounds. */

/** Most that one case may make the log grow by beside what the victim's requests take (bytes): output is limited per second. */
const MOST_BYTES = 6 * 2 ** 20
const VICTIM_LINE_BYTES = 600

interface Line {
  readonly level?: number
  readonly msg?: string
  readonly outcome?: string
  readonly tenant?: string
  readonly reason?: string
  readonly forged?: unknown
}

/** What is wrong with this part of the log. `victimLines`: how many requests of the victim are told in it. */
export function logComplaints(part: string, victimLines: number): string[] {
  const found: string[] = []
  if (part.length > MOST_BYTES + victimLines * VICTIM_LINE_BYTES) found.push(`the log grew by ${Math.round(part.length / 2 ** 10)} KiB`)
  for (const text of part.split('\n')) {
    if (text === '') continue
    let line: Line
    try {
      line = JSON.parse(text) as Line
    } catch {
      found.push(`a line of the log is no JSON: ${text.slice(0, 200)}`)
      continue
    }
    if (line.forged !== undefined) found.push(`a forged line: ${text.slice(0, 200)}`)
    if (line.outcome === 'internal' || (line.level ?? 0) >= 50) found.push(`the platform failed: ${text.slice(0, 600)}`)
    if (line.msg === 'platform.failed') found.push(`the platform failed: ${text.slice(0, 300)}`)
  }
  return found.slice(0, 3)
}
