/** One figure, as it is printed and judged. */
export interface Row {
  readonly what: string
  readonly figure: string
  readonly target: string
  readonly met: boolean
  readonly detail: object
}

export interface BenchOptions {
  /** Fewer samples and rounds. */
  readonly quick: boolean
  /** How long a bench with a long form runs; undefined for its usual form. */
  readonly minutes: number | undefined
  progress(text: string): void
}

export type Bench = (options: BenchOptions) => Promise<Row[]>

export const HELLO = 'module.exports = cb => cb(null, "hello")'

export function table(rows: readonly Row[]): string {
  const width = Math.max(...rows.map((row) => row.what.length))
  return rows.map((row) => `${row.met ? 'met   ' : 'MISSED'}  ${row.what.padEnd(width)}  ${row.figure}   (target ${row.target})\n`).join('')
}
