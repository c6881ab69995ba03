import type { LifecycleQueue } from './lifecycle.ts'
import { STARTING_TTL_MS } from './reconcile.ts'
import { DEMAND_MS, stockTarget } from './starts.ts'
import type { SandboxStore } from './store.ts'

export interface StockOptions {
  readonly store: SandboxStore
  readonly queue: LifecycleQueue
  /** The class of which there are always `min`; of others only what was needed lately. */
  readonly standardMake: string
  readonly bounds: { readonly min: number; readonly max: number }
  /** Most sandboxes of the deployment: the stock does not ask for what there is no room for. */
  readonly most: number
  readonly now: () => number
}

/** Prewarmed sandboxes, by class: as many as recent demand says, within the operator's bounds. */
export interface Stock {
  /** One of that class was taken from the stock, or had to be made. */
  wanted(make: string): void
  /** One that was asked for is there, or will not be. */
  filled(make: string): void
  /** Asks for what is missing. */
  topUp(): Promise<void>
  /** Reads what was wanted before this process began. */
  remember(): Promise<void>
  target(make: string): number
}

export function createStock(options: StockOptions): Stock {
  const { store, queue, now, standardMake } = options
  const demand = new Map<string, number[]>([[standardMake, []]])
  /** When each one under way was asked for; one that is never heard of again stops counting. */
  const asked = new Map<string, number[]>()

  function target(make: string): number {
    const { min, max } = options.bounds
    return stockTarget(demand.get(make) ?? [], { min: make === standardMake ? min : 0, max, now: now() })
  }

  const listOf = (lists: Map<string, number[]>, make: string): number[] => {
    let list = lists.get(make)
    if (list === undefined) lists.set(make, (list = []))
    return list
  }

  return {
    wanted: (make) => void listOf(demand, make).push(now()),
    filled: (make) => void asked.get(make)?.shift(),
    target,
    async topUp() {
      const records = await store.list()
      let room = options.most - records.length
      for (const [make, times] of demand) {
        while (times.length > 0 && now() - times[0]! > DEMAND_MS) times.shift()
        const underway = listOf(asked, make)
        while (underway.length > 0 && now() - underway[0]! > STARTING_TTL_MS) underway.shift()
        const idle = records.filter(
          (record) => record.make === make && (record.state === 'prewarmed' || (record.state === 'starting' && record.tenant === null)),
        ).length
        // Those that are being made are both asked for and recorded, for a moment: rather one too few, which the next look mends.
        const missing = Math.max(0, Math.min(room, target(make) - idle - underway.length))
        room -= missing
        // Counted before anything is awaited, so that two calls at once do not ask twice.
        for (let i = 0; i < missing; i += 1) underway.push(now())
        for (let i = 0; i < missing; i += 1) await queue.replenish(make)
      }
    },
    async remember() {
      for (const { at, make } of await store.starts(now() - DEMAND_MS)) listOf(demand, make).push(at)
    },
  }
}
