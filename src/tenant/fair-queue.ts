/** What waits, by tenant: each tenant in the order of arrival, the tenants in turn by their weights. */
export interface FairQueue<Item> {
  push(tenant: string, weight: number, item: Item): void
  /** Takes an item out before its turn. */
  remove(tenant: string, item: Item): void
  /** Takes the next item of those tenants that may have one. */
  next(mayHave: (tenant: string) => boolean): Item | undefined
  waiting(tenant: string): number
  readonly size: number
}

interface Flow<Item> {
  weight: number
  /** The queue's clock at which its next item is due. */
  due: number
  readonly items: Item[]
}

/**
 * Start-time fair queueing (Goyal, Vin, Cheng 1996) with every item of the same length: over any time in which two tenants wait, the turns
 * that each gets are as their weights. A tenant that comes back after a rest owes and is owed nothing.
 */
export function createFairQueue<Item>(): FairQueue<Item> {
  const flows = new Map<string, Flow<Item>>()
  let clock = 0
  let size = 0

  return {
    push(tenant, weight, item) {
      let flow = flows.get(tenant)
      if (flow === undefined) flows.set(tenant, (flow = { weight, due: clock, items: [] }))
      if (flow.items.length === 0) flow.due = Math.max(clock, flow.due)
      flow.weight = weight
      flow.items.push(item)
      size += 1
    },
    remove(tenant, item) {
      const flow = flows.get(tenant)
      const at = flow?.items.indexOf(item) ?? -1
      if (flow === undefined || at < 0) return
      flow.items.splice(at, 1)
      size -= 1
      if (flow.items.length === 0 && flow.due <= clock) flows.delete(tenant)
    },
    next(mayHave) {
      let first: Flow<Item> | undefined
      for (const [tenant, flow] of flows) {
        if (flow.items.length === 0) {
          // Whatever it was ahead by has passed.
          if (flow.due <= clock) flows.delete(tenant)
        } else if ((first === undefined || flow.due < first.due) && mayHave(tenant)) first = flow
      }
      if (first === undefined) return undefined
      clock = Math.max(clock, first.due)
      first.due = clock + 1 / first.weight
      size -= 1
      return first.items.shift()
    },
    waiting: (tenant) => flows.get(tenant)?.items.length ?? 0,
    get size() {
      return size
    },
  }
}
