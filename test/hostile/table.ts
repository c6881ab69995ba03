import type { Trial } from './arena.ts'

/** One line for a trial, and below it what was wrong. */
export function lineOf(trial: Trial): string {
  const felt = `${trial.p99.toFixed(1)} of ${trial.allowed.toFixed(0)} ms`
  const line = `${trial.passed ? 'pass' : 'FAIL'}  ${trial.group.padEnd(11)} ${trial.name.padEnd(62)} ${trial.heard.slice(0, 44).padEnd(45)} ${felt.padStart(15)} ${trial.foreign.toFixed(1)} ${`${(trial.ms / 1000).toFixed(2)} s`.padStart(8)}`
  return [line, ...trial.problems.map((problem) => `      ${problem}`)].join('\n')
}

export function summary(trials: readonly Trial[]): string {
  const failed = trials.filter((trial) => !trial.passed).length
  return `${trials.length - failed} passed, ${failed} failed`
}
