import { randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { startDeployment, type Deployment } from '../support/deployment.ts'
import { containersOf, eventually } from '../support/docker.ts'
import { complaints, watchHost, type HostLimits } from './host.ts'
import { logComplaints } from './log.ts'
import { setTraps, type Traps } from './traps.ts'
import { percentile, startVictim, type Sample } from './victim.ts'

/** Longest time of the code until it answers (ms): under gVisor the innocent need longer too. */
const INVOCATION_MS = { runc: 800, runsc: 1_500 } as const
/** And of an answer in all. */
const STREAM_MS = 2_500
const RESPONSE_BYTES = 2_000_000

const EVERY_MS = 5
/** A p99 needs as many; a case that is over sooner is judged together with the last ones before it. */
const SAMPLES = 100
const QUIET_SAMPLES = 400
/**
 * What a neighbour's p99 may be beside 1.5 times the quiet one (ms). Of two processors a hostile sandbox may use one, which is not
 * taken from it for what the victim needs until the scheduler's next turn: a few milliseconds for each of the processes on the way
 * (caller, front door, worker, and back). The quiet p99 of an idle machine is about 4 ms, of which 1.5 times would be one such turn.
 * Under gVisor each system call on the way is such a turn, between the code's process and that of its kernel.
 */
const FLOOR_MS = { runc: 40, runsc: 150 } as const
/**
 * What other programs take of the machine meanwhile is no doing of the attacker. Waiting grows as with any queue: by the share that is
 * taken over the share that is left, so many milliseconds when both are equal. A machine that does nothing else adds nothing.
 */
const FOREIGN_MS = 120
/** Even a victim whose p99 is well must not be kept waiting for longer, however few of its requests (ms). */
const LONGEST_MS = 1_000
/** The attacker's tenant is served again within (ms), what it burns is over within, and the host is as before within. */
const AGAIN_MS = 5_000
const CALM_MS = 4_000
const SETTLED_MS = 6_000
/** A share of one processor that counts as calm: a sandbox that starts or ends uses more for a moment. */
const CALM_SHARE = 0.15
const CALM_WINDOW_MS = 80
const PREWARMED = 2

/** What a tenant's own webtask finds when another one of it has run amok: everything as it was, or it says what is not. */
const HELLO = `
  const whole = { stringify: JSON.stringify, parse: JSON.parse, then: Promise.prototype.then, concat: Buffer.concat, push: Array.prototype.push }
  module.exports = (ctx, cb) => {
    const native = (f) => /\\[native code\\]/.test(Function.prototype.toString.call(f))
    const odd = []
    for (const key in {}) odd.push('Object.prototype.' + key)
    if (Object.keys(Object.prototype).length > 0) odd.push('Object.prototype')
    for (const [name, f] of Object.entries(whole)) if (name !== 'concat' && !native(f)) odd.push(name)
    if (globalThis.marked !== undefined || process.env.MARKED !== undefined) odd.push('marked')
    cb(null, odd.length > 0 ? odd : 'hello')
  }`

export interface Heard {
  /** In a few words, for the table. */
  readonly heard: string
  readonly problems: readonly string[]
}

export interface Trial extends Heard {
  readonly group: string
  readonly name: string
  readonly passed: boolean
  readonly ms: number
  /** Of the victim (ms), with how many requests and what it was allowed to be. */
  readonly p99: number
  readonly allowed: number
  readonly samples: number
  /** How many processors other programs used meanwhile. */
  readonly foreign: number
}

export interface Arena extends AsyncDisposable {
  readonly runtime: Deployment
  readonly port: number
  readonly traps: Traps
  readonly isGvisor: boolean
  /** A text that only the victim's answers may hold. */
  readonly secret: string
  /** The tenant whose code attacks now. */
  attacker(): string
  quietP99(): number
  /** Attacks, and judges what the victim and the host felt of it. */
  trial(about: { group: string; name: string; lasting?: boolean; attack: () => Promise<Heard> }): Promise<Trial>
}

export async function openArena(options: { runtime: 'runc' | 'runsc' }): Promise<Arena> {
  await using opening = new AsyncDisposableStack()
  const runtime = opening.use(
    await startDeployment({
      WEBTASK_RUNTIME: options.runtime,
      WEBTASK_INVOCATION_MS: String(INVOCATION_MS[options.runtime]),
      WEBTASK_STREAM_MS: String(STREAM_MS),
      WEBTASK_RESPONSE_BYTES: String(RESPONSE_BYTES),
      WEBTASK_PREWARMED: String(PREWARMED),
      // Attackers that were left alone go, frozen or not.
      WEBTASK_SANDBOX_IDLE_SECONDS: '10',
    }),
  )
  const traps = opening.use(await setTraps())
  const secret = `victim-${randomBytes(8).toString('hex')}`
  await runtime.issue({ ten: 'victim', jtn: 'hello', code: 'module.exports = (ctx, cb) => cb(null, ctx.secrets.secret)', ectx: { secret } })
  await eventually('the victim answers', async () => (await runtime.ask('/api/run/victim/hello')).status === 200, 30_000)
  // The log is written in batches.
  const victimContainer = await eventually('the log tells whose each sandbox is', async () => {
    const sandbox = /"sandbox":"([^"]+)","tenant":"victim"/.exec(runtime.output())?.[1]
    return (await containersOf(runtime.id, 'sandbox')).find(({ Labels }) => Labels['webtask.sandbox'] === sandbox)?.Id
  })
  const victim = opening.use(startVictim({ url: `${runtime.url}/api/run/victim/hello`, expected: JSON.stringify(secret), everyMs: EVERY_MS }))
  const host = watchHost(runtime)
  let attackers = 0
  let trials = 0
  const attacker = () => `attacker${attackers}`

  async function nextAttacker(): Promise<void> {
    attackers += 1
    await runtime.issue({ ten: attacker(), jtn: 'hello', code: HELLO })
    await served()
  }

  function served(): Promise<true> {
    return eventually('the attacker is served', async () => (await runtime.ask(`/api/run/${attacker()}/hello`)).text === '"hello"', AGAIN_MS)
  }

  /** Waits until no sandbox but the victim's uses the processor. */
  async function calm(): Promise<void> {
    const used = async () => {
      const listed = await containersOf(runtime.id, 'sandbox')
      return new Map(listed.filter(({ Id }) => Id !== victimContainer).map(({ Id }) => [Id, host.containerMs(Id)]))
    }
    let before = await used()
    let at = performance.now()
    await eventually(
      'what the attacker burns is over',
      async () => {
        await new Promise((resolve) => setTimeout(resolve, CALM_WINDOW_MS))
        const now = await used()
        const took = performance.now() - at
        const share = [...now].reduce((sum, [id, ms]) => sum + Math.max(0, ms - (before.get(id) ?? ms)), 0) / took
        before = now
        at = performance.now()
        return share < CALM_SHARE
      },
      CALM_MS,
    )
  }

  const limits = (): HostLimits => ({ sandboxes: 1 + attackers + PREWARMED + 1, victim: victimContainer })

  await nextAttacker()
  await calm()
  const quietFrom = Date.now()
  const quiet: Sample[] = [...(await victim.since(quietFrom, QUIET_SAMPLES))]
  const first = await host.look()

  async function trial({ group, name, lasting = false, attack }: Parameters<Arena['trial']>[0]): Promise<Trial> {
    trials += 1
    const problems: string[] = []
    const attempt = async (act: () => Promise<unknown>) => {
      try {
        await act()
      } catch (error) {
        problems.push((error as Error).message)
      }
    }
    const [logged, caught] = [wholeLines(runtime.output()), traps.caught.length]
    const processor = host.processorMs()
    const from = Date.now()
    const began = performance.now()
    const { heard, problems: wrong } = await attack()
    problems.push(...wrong)
    const ms = performance.now() - began
    await attempt(calm)
    const all = await victim.since(from - SAMPLES * EVERY_MS, SAMPLES)
    const during = all.filter((sample) => sample.at >= from)
    const judged = during.length >= SAMPLES ? during : all.slice(-SAMPLES)
    const took = performance.now() - began
    const used = host.processorMs()
    const foreign = Math.max(0, used.all - processor.all - Math.max(0, used.ours - processor.ours)) / took
    const [p99, longest] = [percentile(judged, 0.99), percentile(during, 1)]
    const noise = (FOREIGN_MS * foreign) / Math.max(0.2, availableParallelism() - foreign)
    const allowed = 1.5 * percentile(quiet, 0.99) + FLOOR_MS[options.runtime] + noise
    for (const sample of during) if (sample.problem !== undefined) problems.push(`the victim was answered: ${sample.problem}`)
    if (p99 > allowed) problems.push(`the victim's p99 was ${p99.toFixed(1)} ms, allowed ${allowed.toFixed(1)} ms`)
    if (longest > LONGEST_MS + noise) problems.push(`the victim waited ${longest.toFixed(0)} ms`)
    if (lasting) await attempt(nextAttacker)
    else await attempt(served)
    if (traps.caught.length > caught) problems.push(`a listener was reached: ${traps.caught.slice(caught).join(', ')}`)
    problems.push(...logComplaints(runtime.output().slice(logged, wholeLines(runtime.output())), during.length + 200))
    let felt: string[] = []
    await attempt(() =>
      eventually(
        'the host is as before',
        async () => {
          felt = complaints(first, await host.look(), limits())
          return felt.length === 0
        },
        SETTLED_MS,
      ),
    )
    problems.push(...felt)
    const distinct = [...new Set(problems)]
    return { group, name, heard, problems: distinct, passed: distinct.length === 0, ms, p99, allowed, samples: judged.length, foreign }
  }

  const held = opening.move()
  return {
    runtime,
    port: Number(new URL(runtime.url).port),
    traps,
    isGvisor: options.runtime === 'runsc',
    secret,
    attacker,
    quietP99: () => percentile(quiet, 0.99),
    trial,
    async [Symbol.asyncDispose]() {
      await held.disposeAsync()
    },
  }
}

/** The output arrives in pieces: where its last whole line ends. */
const wholeLines = (text: string) => text.lastIndexOf('\n') + 1
