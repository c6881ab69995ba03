import type { Finding } from './judge.ts'

/** The findings about one sandbox. */
export interface Judged {
  readonly sandbox: string
  readonly name: string
  readonly runtime: string
  readonly findings: readonly Finding[]
}

/** The worst of equal controls over all sandboxes, for a table that has one row each. */
const RANK = { PASS: 0, EXCEPTION: 1, FAIL: 2 } as const

/** One row per control, over all sandboxes; under a control that is not passed, what is wrong and where. */
export function reportText(judged: readonly Judged[]): string {
  if (judged.length === 0) return 'No sandbox is running'
  const rows = judged[0]!.findings.map((_, i) => {
    const all = judged.map(({ name, findings }) => ({ name, ...findings[i]! }))
    const worst = all.reduce((a, b) => (RANK[b.verdict] > RANK[a.verdict] ? b : a))
    return { worst, all }
  })
  const width = Math.max(...rows.map(({ worst }) => worst.control.length))
  const lines = rows.flatMap(({ worst, all }) => [
    `${worst.verdict.padEnd(9)}  ${worst.control.padEnd(width)}  ${worst.title}`,
    ...grouped(all.filter(({ verdict }) => verdict === worst.verdict)).map((line) => `${' '.repeat(11)}${line}`),
    ...(worst.reason === undefined ? [] : [`${' '.repeat(11)}documented: ${worst.reason}`]),
  ])
  const count = (verdict: Finding['verdict']) => rows.filter(({ worst }) => worst.verdict === verdict).length
  const runtimes = [...new Set(judged.map(({ runtime }) => runtime))].join(', ')
  return [
    ...lines,
    '',
    `${judged.length} ${judged.length === 1 ? 'sandbox' : 'sandboxes'} (${runtimes}): ${count('PASS')} controls passed, ${count('EXCEPTION')} documented exceptions, ${count('FAIL')} failed`,
  ].join('\n')
}

/** The same complaint about many sandboxes is one line. Numbers of processes differ, and are left out. */
function grouped(all: readonly { name: string; wrong: readonly string[] }[]): string[] {
  const where = new Map<string, Set<string>>()
  for (const { name, wrong } of all)
    for (const problem of wrong) {
      const text = problem.replace(/^process \d+ /, 'process ')
      where.set(text, (where.get(text) ?? new Set()).add(name))
    }
  return [...where].map(([problem, names]) => {
    const [first, ...others] = names
    return `${problem}: ${first}${others.length === 0 ? '' : ` and ${others.length} more`}`
  })
}

/** Whether something failed that is no documented exception. */
export function hasFailed(judged: readonly Judged[]): boolean {
  return judged.some(({ findings }) => findings.some(({ verdict }) => verdict === 'FAIL'))
}
