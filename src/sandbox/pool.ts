import { WebtaskError } from '../errors.ts'
import type { Admission, Admitted } from '../tenant/admission.ts'
import type { Plan } from '../tenant/plan.ts'
import type { TenantId } from '../tenant/tenant-id.ts'
import type { AgentLink } from './agent-link.ts'
import { createHouseholds, type Entry } from './households.ts'
import { createLinks, type LinksOptions, type OpenAbout } from './links.ts'
import { createPlacing } from './placing.ts'
import { createRenewal } from './renewal.ts'
import type { EndCause, Sandbox } from './sandbox.ts'
import { householdOf, placeOfSeat, seatOf, type Household } from './seat.ts'
import { classKey } from './spec.ts'
import type { SandboxNews, SandboxStore } from './store.ts'
import { createUpkeep } from './upkeep.ts'

export interface PoolOptions extends Omit<LinksOptions, 'households' | 'on'> {
  readonly store: SandboxStore
  readonly waitMs: number
  readonly pauseMs: number
  readonly idleMs: number
  /** Requests after which a sandbox is replaced. */
  readonly usesMax: number
  readonly admission: Admission
  readonly plans: {
    of(tenant: TenantId): Plan
    /** Tenants that are promised sandboxes though nobody asks, now. */
    kept(): readonly { tenant: TenantId; plan: Plan }[]
  }
  readonly on: Omit<LinksOptions['on'], 'connected'> & { ended(cause: EndCause): void }
}

/** The right to send one request to a tenant's sandbox, until disposed. */
export interface Lease extends Disposable {
  readonly link: AgentLink
}

/** Who wants to run what. */
export interface Wish {
  readonly tenant: TenantId
  /** Equal for requests that may share a worker. */
  readonly webtask: string
  /** Id of the token that pays. */
  readonly token: string
}

/** The gateway's view of the sandboxes: who is connected, whose it is, what runs there. A warm `acquire` is memory alone;
 * `left` gives a signal of the caller's leaving, and is asked only when there is something to wait for. */
export interface Pool extends AsyncDisposable {
  acquire(wish: Wish, left: () => AbortSignal): Promise<Lease> | Lease
  /** The sandbox must go now: its agent does not obey or its tenant broke it. */
  kill(link: AgentLink, cause: EndCause): void
  heard(news: SandboxNews): void
  /** Reads all records again: at start, and after news may have been missed. */
  resync(): Promise<void>
  /** Plans changed: sandboxes of another class than their plan's are replaced, promised ones made. */
  plansChanged(): void
  readonly size: { readonly warm: number; readonly prewarmed: number; readonly inFlight: number; readonly waiting: number }
}

const SWEEP_MS = 1_000
/** Beats further apart than this mean that Redis was away, for others too (ms). */
const IN_TOUCH_MS = 15_000
/** Sandboxes that had too many requests for this long get another beside them (ms): a short burst does not. */
const SATURATED_MS = 500

export function createPool(options: PoolOptions): Pool {
  const { store, log, now, plans, admission } = options
  const households = createHouseholds()
  let closed = false
  let inFlight = 0
  /** When this gateway last said that it lives. */
  let lastBeat: number | undefined

  const connected = (id: string) => void store.publish({ kind: 'connected', id }).catch(() => {})
  const links = createLinks({ ...options, households, on: { ...options.on, connected } })
  const { open, drop, kill } = links
  const failed = (id: string) => (error: Error) => log.warn({ sandbox: id, reason: error.message }, 'platform.failed')
  const placing = createPlacing({ ...options, households, open, makeRoom: (seats) => void upkeep.makeRoom(seats).catch(failed('')) })
  const upkeep = createUpkeep({ ...options, households, isKept, kill: (entry, cause) => kill(entry.link, cause) })
  const renewal = createRenewal({ ...options, households, placing, left: (entry) => void upkeep.leave(entry).catch(failed(entry.id)) })

  const makeOf = (plan: Plan) => classKey(plan)

  function isKept(entry: Entry): boolean {
    if (entry.seat === null || entry.tenant === null) return false
    const { tenant, seat } = entry
    return plans.kept().some((one) => one.tenant === tenant && placeOfSeat(seat).ordinal < one.plan.minWarm)
  }

  function lease(entry: Entry, admitted: Admitted): Lease {
    entry.inFlight += 1
    entry.uses += 1
    inFlight += 1
    let held = true
    return {
      link: entry.link,
      [Symbol.dispose]() {
        if (!held) return
        held = false
        entry.inFlight -= 1
        inFlight -= 1
        admitted[Symbol.dispose]()
        if (entry.inFlight > 0) return
        entry.idleSince = now()
        if (entry.leaving !== undefined) void upkeep.leave(entry).catch(failed(entry.id))
      },
    }
  }

  /** More requests than its sandboxes should have, for a while: another is added, if the plan allows. */
  function grow(household: Household, { tenant, plan }: { tenant: TenantId; plan: Plan }): void {
    const home = households.homeOf(household)
    if (home === undefined) return
    home.saturatedSince ??= now()
    if (now() - home.saturatedSince < SATURATED_MS || households.ofTenant(tenant).length >= plan.sandboxes) return
    const taken = new Set(home.entries.map((entry) => entry.seat))
    let ordinal = 0
    while (taken.has(seatOf(household, ordinal))) ordinal += 1
    const seat = seatOf(household, ordinal)
    if (placing.isPlacing(seat)) return
    placing
      .place({ seat, tenant, make: makeOf(plan) })
      .then(() => log.info({ tenant, sandboxes: households.ofTenant(tenant).length }, 'tenant.grew'))
      .catch((error: Error) => log.info({ tenant, reason: error.message }, 'tenant.grew'))
      .finally(() => (home.saturatedSince = undefined))
  }

  async function placeFirst(household: Household, { tenant, plan }: { tenant: TenantId; plan: Plan }): Promise<Entry> {
    const seat = seatOf(household, 0)
    const own = households.ofTenant(tenant)
    if (plan.isolation === 'webtask' && own.length >= plan.sandboxes && !placing.isPlacing(seat)) {
      const idle = own.filter((entry) => entry.inFlight === 0).toSorted((a, b) => a.idleSince - b.idleSince)[0]
      if (idle === undefined)
        throw new WebtaskError('quota_exceeded', `The tenant has requests running in ${own.length} sandboxes, its limit; wait for one to finish`, {
          retryAfterSeconds: 1,
        })
      await upkeep.giveUp(idle, 'evicted')
    }
    return placing.place({ seat, tenant, make: makeOf(plan) })
  }

  async function acquireCold(household: Household, about: { tenant: TenantId; plan: Plan }, signal: AbortSignal): Promise<Entry> {
    const left = Promise.withResolvers<never>()
    const leave = () => left.reject(signal.reason)
    signal.addEventListener('abort', leave, { once: true })
    try {
      return await Promise.race([placeFirst(household, about), left.promise])
    } finally {
      signal.removeEventListener('abort', leave)
    }
  }

  function enter(admitted: Admitted, wish: Wish, plan: Plan, left: () => AbortSignal): Lease | Promise<Lease> {
    const household = householdOf(wish.tenant, plan.isolation === 'webtask' ? wish.webtask : null)
    const entry = households.pick(household)
    if (entry !== undefined) {
      if (entry.inFlight >= plan.sandboxRequests) grow(household, { tenant: wish.tenant, plan })
      else if (plan.sandboxes > 1) households.homeOf(household)!.saturatedSince = undefined
      return lease(entry, admitted)
    }
    return acquireCold(household, { tenant: wish.tenant, plan }, left()).then(
      (placed) => lease(placed, admitted),
      (error: Error) => {
        admitted[Symbol.dispose]()
        throw error
      },
    )
  }

  /** Sandboxes that are promised though nobody asks. */
  function keep(): void {
    for (const { tenant, plan } of plans.kept()) {
      for (let ordinal = 0; ordinal < plan.minWarm; ordinal += 1) {
        const seat = seatOf(householdOf(tenant, null), ordinal)
        const isThere = [...households.entries.values()].some((entry) => entry.seat === seat && entry.leaving === undefined)
        if (!isThere && !placing.isPlacing(seat)) placing.place({ seat, tenant, make: makeOf(plan) }).catch(failed(''))
      }
    }
  }

  /** Sandboxes of another class than their tenant's plan has by now. */
  function refit(): void {
    for (const entry of households.serving.values()) {
      const plan = plans.of(entry.tenant!)
      const make = makeOf(plan)
      if (make !== entry.make) renewal.renew(entry, { make, cause: 'recycled' })
      else void options.egress?.attach(entry.id, entry.tenant!)
    }
  }

  const timer = setInterval(() => {
    upkeep.sweep().catch((error: Error) => log.debug({ reason: error.message }, 'platform.failed'))
    for (const entry of households.serving.values())
      if (entry.uses >= options.usesMax) renewal.renew(entry, { make: makeOf(plans.of(entry.tenant!)), cause: 'recycled' })
  }, SWEEP_MS)
  timer.unref()

  function aboutOf(record: Sandbox): OpenAbout {
    return {
      tenant: 'tenant' in record ? record.tenant : null,
      seat: 'seat' in record ? record.seat : null,
      make: record.make,
      spec: record.spec,
    }
  }

  return {
    acquire(wish, left) {
      if (closed) throw new WebtaskError('unavailable', 'The gateway is stopping', { retryAfterSeconds: 1 })
      const plan = plans.of(wish.tenant)
      const admitted = admission.enter({ tenant: wish.tenant, token: wish.token, plan }, left)
      return admitted instanceof Promise ? admitted.then((one) => enter(one, wish, plan, left)) : enter(admitted, wish, plan, left)
    },
    kill,
    heard(news) {
      if (news.kind === 'starting') open(news.id, news).catch(failed(news.id))
      if (news.kind === 'burning') upkeep.rest(news.id).catch((error: Error) => log.debug({ reason: error.message }, 'platform.failed'))
      if (news.kind === 'crowded') void upkeep.makeRoom(news.wanted).catch(failed(''))
      if (news.kind === 'worn') {
        const entry = households.entries.get(news.id)
        if (entry?.tenant) renewal.renew(entry, { make: makeOf(plans.of(entry.tenant)), spec: news.spec, cause: 'recycled' })
      }
      placing.heard(news)
      renewal.heard(news)
      if (news.kind === 'ended') {
        options.on.ended(news.cause)
        drop(news.id, news.cause)
      }
    },
    async resync() {
      // Before the records are read: what opens meanwhile must not look like a ghost.
      const known = [...households.entries.keys()]
      const records = await store.list()
      const ids = new Set(records.filter(({ state }) => state !== 'removed').map(({ id }) => id))
      for (const id of known) if (!ids.has(id) && !(await upkeep.restore(id))) drop(id, 'platform')
      for (const record of records) {
        if (record.state === 'removed') continue
        // One that nobody uses any more is only waiting for its end.
        if (record.state === 'draining' && !households.entries.has(record.id)) continue
        const entry = await open(record.id, aboutOf(record))
        entry.spec = record.spec
        entry.bornAt = record.createdAt
        if (record.state === 'draining' && record.users.includes(options.gateway)) renewal.follow(entry, record.cause)
        if (record.state === 'draining' && entry.leaving !== undefined && entry.inFlight === 0) await upkeep.leave(entry)
      }
      const living = await store.beat(options.gateway)
      const inTouchSince = lastBeat
      lastBeat = now()
      if (inTouchSince !== undefined && lastBeat - inTouchSince < IN_TOUCH_MS) await upkeep.inherit(records, living)
      keep()
    },
    plansChanged() {
      refit()
      keep()
    },
    get size() {
      return {
        warm: households.serving.size,
        prewarmed: [...households.entries.values()].filter((entry) => entry.tenant === null && entry.link.connected).length,
        inFlight,
        waiting: admission.waiting,
      }
    },
    async [Symbol.asyncDispose]() {
      closed = true
      clearInterval(timer)
      await links[Symbol.asyncDispose]()
    },
  }
}
