import type { TenantId } from '../tenant/tenant-id.ts'
import type { AgentLink } from './agent-link.ts'
import { leastLoaded } from './policy.ts'
import type { EndCause } from './sandbox.ts'
import { placeOfSeat, type Household, type Seat } from './seat.ts'

/** What a gateway knows of a sandbox beside its record. */
export interface Entry {
  readonly id: string
  readonly link: AgentLink
  readonly make: string
  /** Empty until it is known. */
  spec: string
  /** Unix ms. */
  bornAt: number
  tenant: TenantId | null
  seat: Seat | null
  inFlight: number
  /** Requests so far. */
  uses: number
  /** Unix ms. */
  idleSince: number
  /** It has lost its seat to a fresh one, and goes when the last request of this gateway has ended. */
  leaving: EndCause | undefined
}

interface Home {
  readonly entries: Entry[]
  /** Since when all its sandboxes have had more requests than they should (Unix ms). */
  saturatedSince: number | undefined
}

/** Which sandboxes this gateway is connected to, and to which its requests go: memory alone. */
export interface Households {
  readonly entries: ReadonlyMap<string, Entry>
  readonly serving: ReadonlyMap<Seat, Entry>
  add(entry: Entry): void
  remove(entry: Entry): void
  /** From now on requests for the seat go there. */
  serve(entry: Entry, place: { tenant: TenantId; seat: Seat }): void
  /** No new requests go there; true when they did until now. */
  unserve(entry: Entry): boolean
  /** The sandbox that the household's next request should go to. */
  pick(household: Household): Entry | undefined
  homeOf(household: Household): Home | undefined
  ofTenant(tenant: TenantId): Entry[]
}

export function createHouseholds(): Households {
  const entries = new Map<string, Entry>()
  const serving = new Map<Seat, Entry>()
  const homes = new Map<Household, Home>()

  function unserve(entry: Entry): boolean {
    const { seat } = entry
    if (seat === null || serving.get(seat) !== entry) return false
    serving.delete(seat)
    const { household } = placeOfSeat(seat)
    const home = homes.get(household)!
    home.entries.splice(home.entries.indexOf(entry), 1)
    if (home.entries.length === 0) homes.delete(household)
    return true
  }

  return {
    entries,
    serving,
    add(entry) {
      entries.set(entry.id, entry)
    },
    remove(entry) {
      unserve(entry)
      entries.delete(entry.id)
    },
    serve(entry, { tenant, seat }) {
      const before = serving.get(seat)
      if (before === entry) return
      if (before !== undefined) unserve(before)
      entry.tenant = tenant
      entry.seat = seat
      serving.set(seat, entry)
      const { household } = placeOfSeat(seat)
      let home = homes.get(household)
      if (home === undefined) homes.set(household, (home = { entries: [], saturatedSince: undefined }))
      home.entries.push(entry)
      home.entries.sort((a, b) => placeOfSeat(a.seat!).ordinal - placeOfSeat(b.seat!).ordinal)
    },
    unserve,
    pick(household) {
      const home = homes.get(household)
      return home === undefined ? undefined : leastLoaded(home.entries)
    },
    homeOf: (household) => homes.get(household),
    ofTenant: (tenant) => [...serving.values()].filter((entry) => entry.tenant === tenant),
  }
}
