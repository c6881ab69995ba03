import type { TenantId } from '../tenant/tenant-id.ts'

declare const brand: unique symbol

/**
 * A place for one sandbox: a tenant has as many as its plan allows, and each holds at most one sandbox. The first seat of a tenant is
 * named as the tenant; `/` and `#`, which no tenant's name has, lead to the others.
 */
export type Seat = string & { readonly [brand]: 'Seat' }

/** What shares its seats: the tenant, or one webtask of a tenant that has a sandbox for each. Named as its first seat. */
export type Household = Seat

export function householdOf(tenant: TenantId, webtask: string | null): Household {
  return (webtask === null ? tenant : `${tenant}/${webtask}`) as unknown as Household
}

/** The household's seat of that number, from 0. */
export function seatOf(household: Household, ordinal: number): Seat {
  return (ordinal === 0 ? household : `${household}#${ordinal}`) as Seat
}

/** Undoes `seatOf`. */
export function placeOfSeat(seat: Seat): { readonly household: Household; readonly ordinal: number } {
  const at = seat.indexOf('#')
  return at < 0 ? { household: seat, ordinal: 0 } : { household: seat.slice(0, at) as Household, ordinal: Number(seat.slice(at + 1)) }
}
