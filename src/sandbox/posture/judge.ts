import { CIS } from './cis.ts'
import type { Control } from './control.ts'
import { EXCEPTIONS, type Exception } from './exceptions.ts'
import type { SandboxFacts } from './facts.ts'
import { KUBERNETES } from './kubernetes.ts'
import { OWN } from './own.ts'

export interface Finding {
  readonly control: string
  readonly title: string
  /** EXCEPTION: it fails, and it is documented why that is right here. */
  readonly verdict: 'PASS' | 'FAIL' | 'EXCEPTION'
  /** What was found wrong. */
  readonly wrong: readonly string[]
  readonly reason?: string
}

const CONTROLS: readonly Control[] = [...KUBERNETES, ...CIS, ...OWN]

/** Judges one sandbox by every control, in their order. */
export function judge(facts: SandboxFacts, exceptions: readonly Exception[] = EXCEPTIONS): Finding[] {
  return CONTROLS.map(({ id: control, title, wrong: look }) => {
    const wrong = look(facts)
    if (wrong.length === 0) return { control, title, verdict: 'PASS', wrong }
    const exception = exceptions.find((each) => each.control === control && each.holds(facts))
    return exception === undefined
      ? { control, title, verdict: 'FAIL', wrong }
      : { control, title, verdict: 'EXCEPTION', wrong, reason: exception.reason }
  })
}
