/** What a tenant uses of the way out, and whether that is still within its limits. Memory alone; time comes in as an argument (ms). */
export type UsageLimits = {
  /** Open connections at once. */
  readonly connections: number
  /** Connections and look-ups begun in a second; as many may come at once after a quiet second. */
  readonly perSecond: number
  /** Bytes both ways in an hour; an hour's worth may come at once after a quiet hour. */
  readonly bytesPerHour: number
}

export type UsageRefusal = { readonly code: 'EMFILE' | 'EAGAIN' | 'EDQUOT'; readonly message: string }

export interface Usage {
  /** Counts one connection or look-up that begins. */
  begin(tenant: string, what: 'connection' | 'lookup', now: number): UsageRefusal | undefined
  /** A connection that began has ended. */
  end(tenant: string): void
  /** Counts bytes that went; true when the tenant is over its limit, and its connections must end. */
  spend(tenant: string, bytes: number, now: number): boolean
  /** Forgets tenants that use nothing and are owed nothing. */
  sweep(now: number): void
  readonly tenants: number
}

/** `level` falls with use and rises with time, up to `most`. */
interface Bucket {
  level: number
  at: number
}
interface Account {
  open: number
  readonly begun: Bucket
  readonly bytes: Bucket
}

const HOUR_MS = 3_600_000

export function createUsage(limits: UsageLimits): Usage {
  const accounts = new Map<string, Account>()

  function accountOf(tenant: string, now: number): Account {
    let account = accounts.get(tenant)
    if (account === undefined) {
      account = { open: 0, begun: { level: limits.perSecond, at: now }, bytes: { level: limits.bytesPerHour, at: now } }
      accounts.set(tenant, account)
    }
    fill(account.begun, { most: limits.perSecond, perMs: limits.perSecond / 1000, now })
    fill(account.bytes, { most: limits.bytesPerHour, perMs: limits.bytesPerHour / HOUR_MS, now })
    return account
  }

  return {
    begin(tenant, what, now) {
      const account = accountOf(tenant, now)
      if (account.begun.level < 1)
        return { code: 'EAGAIN', message: `more than ${limits.perSecond} connections and look-ups in a second, the limit of the tenant` }
      account.begun.level -= 1
      if (what === 'lookup') return undefined
      if (account.open >= limits.connections) return { code: 'EMFILE', message: `${account.open} connections are open, the limit of the tenant` }
      if (account.bytes.level <= 0)
        return { code: 'EDQUOT', message: `${limits.bytesPerHour} bytes in an hour, the limit of the tenant, are used up` }
      account.open += 1
      return undefined
    },
    end(tenant) {
      const account = accounts.get(tenant)
      if (account !== undefined && account.open > 0) account.open -= 1
    },
    spend(tenant, bytes, now) {
      const account = accountOf(tenant, now)
      account.bytes.level -= bytes
      return account.bytes.level <= 0
    },
    sweep(now) {
      for (const [tenant] of accounts) {
        const { open, begun, bytes } = accountOf(tenant, now)
        if (open === 0 && begun.level >= limits.perSecond && bytes.level >= limits.bytesPerHour) accounts.delete(tenant)
      }
    },
    get tenants() {
      return accounts.size
    },
  }
}

function fill(bucket: Bucket, { most, perMs, now }: { most: number; perMs: number; now: number }): void {
  bucket.level = Math.min(most, bucket.level + Math.max(0, now - bucket.at) * perMs)
  bucket.at = now
}
