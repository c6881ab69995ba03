/** Lines of output: how long one may be, and how many a second may pass. */
export const MAX_LINE_BYTES = 16 * 1024
/** Room for saying how much was cut, so that a cut line fits and is not cut again. */
const NOTE_BYTES = 64

/** Cuts a line that is too long, saying so; UTF-16 units stand in for bytes where a line is short enough anyway. */
export function cutLine(line: string): string {
  if (line.length * 3 <= MAX_LINE_BYTES) return line
  const bytes = Buffer.from(line)
  if (bytes.length <= MAX_LINE_BYTES) return line
  const kept = MAX_LINE_BYTES - NOTE_BYTES
  return `${bytes.toString('utf8', 0, kept).replace(/\uFFFD$/, '')}… [${bytes.length - kept} bytes cut]`
}

/** Counts lines in windows of a second: `admit` says whether one more may pass at `now` (milliseconds). */
export interface LineLimiter {
  admit(now: number): boolean
  /** How many were refused since the last call. */
  takeDropped(): number
}

export function createLineLimiter(linesPerSecond: number): LineLimiter {
  let windowStart = -Infinity
  let passed = 0
  let dropped = 0
  return {
    admit(now) {
      if (now - windowStart >= 1000) {
        windowStart = now
        passed = 0
      }
      if (passed < linesPerSecond) {
        passed++
        return true
      }
      dropped++
      return false
    },
    takeDropped() {
      const count = dropped
      dropped = 0
      return count
    },
  }
}

/**
 * Cuts what a stream is given into lines. One write that ends with a newline is one line even when it holds more (a
 * stack trace printed by one `console.error` stays together); a write without one waits for its end.
 */
export function createLineCutter(emit: (line: string) => void): (text: string) => void {
  let pending = ''
  return (text) => {
    if (!text.endsWith('\n')) {
      const last = text.lastIndexOf('\n')
      const whole = pending + text.slice(0, last + 1)
      pending = last < 0 ? pending + text : text.slice(last + 1)
      if (last >= 0) emit(whole.slice(0, -1))
      // Nobody ends this line: give it out rather than keep growing.
      if (pending.length > MAX_LINE_BYTES) {
        emit(pending)
        pending = ''
      }
      return
    }
    const line = (pending + text).slice(0, -1)
    pending = ''
    emit(line)
  }
}
