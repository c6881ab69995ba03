import { CronExpressionParser } from 'cron-parser'

/** Whether the minute of `now` (Unix ms) is one that the cron expression matches in that time zone. Null matches always; throws for what is no expression. */
export function isInWindow(window: string | null, { timezone, now }: { timezone: string; now: number }): boolean {
  if (window === null) return true
  return CronExpressionParser.parse(window, { tz: timezone }).includesDate(new Date(Math.floor(now / 60_000) * 60_000))
}

/** What is wrong with a window; undefined when nothing is. */
export function windowProblem(window: string | null, timezone: string): string | undefined {
  try {
    new Intl.DateTimeFormat('en', { timeZone: timezone })
  } catch {
    return `"timezone": "${timezone}" is no IANA time zone, such as Europe/Berlin`
  }
  if (window === null) return undefined
  if (window.trim().split(/\s+/).length !== 5)
    return `"warmWindow" must be a cron expression of five fields, such as "* 8-17 * * 1-5" (got "${window}")`
  try {
    isInWindow(window, { timezone, now: 0 })
    return undefined
  } catch (error) {
    return `"warmWindow": ${(error as Error).message}`
  }
}
