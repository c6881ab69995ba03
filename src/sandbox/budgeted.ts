import { afterBreaker, CLOSED, mayAsk, type Breaker } from './breaker.ts'
import { EngineFailure, type ContainerDriver } from './driver.ts'

/**
 * What the engine does for us at once. More only makes each slower (moby#41738: about eight creates a second whatever the parallelism, and
 * removals beside them take ten seconds); so creates go first, then thaws, then freezes, and removals last.
 */
const AT_ONCE = 4
/** Of those, removals: they must go on in a storm of creates, or the sandboxes that make room would never be gone. */
const REMOVALS_AT_ONCE = 2

/**
 * Of those, creates and starts: making a sandbox keeps a processor busy all the while. With more of them than processors none is ready sooner,
 * and everybody who has a sandbox waits for theirs.
 */
const makingAtOnce = (processors: number): number => Math.min(AT_ONCE, processors)

/** What is created is started before the next is created: somebody waits for it. */
const PRIORITY = { start: 0, create: 1, unpause: 2, pause: 3, remove: 4 } as const
type Verb = keyof typeof PRIORITY
const isMaking = (verb: Verb) => verb === 'create' || verb === 'start'

interface Waiting {
  readonly verb: Verb
  begin(): void
}

export interface BudgetOptions {
  /** Milliseconds of any clock. */
  readonly now: () => number
  /** Processors of this machine. */
  readonly processors: number
  /** Resolves when a container that is being started has done with what starting costs; until then it keeps its place. */
  booted(id: string): Promise<void>
}

/** A driver whose changing verbs share one budget and one breaker. Questions are not counted: they are cheap, and tell when the engine is back. */
export function createBudgetedDriver(driver: ContainerDriver, { now, processors, booted }: BudgetOptions): ContainerDriver {
  const waiting: Waiting[] = []
  let running = 0
  let removing = 0
  let making = 0
  let breaker: Breaker = CLOSED

  const mayBegin = (verb: Verb) =>
    running < AT_ONCE &&
    (!isMaking(verb) || making < makingAtOnce(processors)) &&
    (verb !== 'remove' || removing < REMOVALS_AT_ONCE || waiting.every((one) => one.verb === 'remove'))

  function beginNext(): void {
    for (;;) {
      let best: number | undefined
      for (const [index, one] of waiting.entries())
        if (mayBegin(one.verb) && (best === undefined || PRIORITY[one.verb] < PRIORITY[waiting[best]!.verb])) best = index
      // Creates do not take every place while removals wait.
      if (running === AT_ONCE - 1 && removing === 0) {
        const removal = waiting.findIndex((one) => one.verb === 'remove')
        if (removal >= 0) best = removal
      }
      if (best === undefined) return
      const [next] = waiting.splice(best, 1)
      running += 1
      if (next!.verb === 'remove') removing += 1
      if (isMaking(next!.verb)) making += 1
      next!.begin()
    }
  }

  /** `costs` tells how long it keeps its place after it was done. */
  async function ask<T>(verb: Verb, act: () => Promise<T>, costs?: () => Promise<void>): Promise<T> {
    await new Promise<void>((begin) => {
      waiting.push({ verb, begin })
      beginNext()
    })
    let hold: Promise<void> | undefined
    try {
      if (!mayAsk(breaker, now())) throw new EngineFailure('The container engine does not answer; it is asked again in a moment')
      breaker = afterBreaker(breaker, 'asked', now())
      // Before it is asked: what ends the hold may come before the answer.
      const over = costs?.()
      const result = await act()
      hold = over
      breaker = afterBreaker(breaker, 'answered', now())
      return result
    } catch (error) {
      // A refusal is an answer, too.
      if (!(error instanceof EngineFailure)) breaker = afterBreaker(breaker, 'answered', now())
      else if (breaker.state !== 'open') breaker = afterBreaker(breaker, 'failed', now())
      throw error
    } finally {
      const giveBack = () => {
        running -= 1
        if (verb === 'remove') removing -= 1
        if (isMaking(verb)) making -= 1
        beginNext()
      }
      if (hold !== undefined) void hold.then(giveBack)
      // Its start comes in this turn.
      else if (verb === 'create') setImmediate(giveBack)
      else giveBack()
    }
  }

  return {
    ...driver,
    create: (name, body) => ask('create', () => driver.create(name, body)),
    start: (id) =>
      ask(
        'start',
        () => driver.start(id),
        () => booted(id),
      ),
    pause: (id) => ask('pause', () => driver.pause(id)),
    unpause: (id) => ask('unpause', () => driver.unpause(id)),
    remove: (id) => ask('remove', () => driver.remove(id)),
  }
}
