import { generateSealingKey, generateSigningKey, type KeyRecord, type KeyRecords, type KeyUse } from './key-records.ts'

/** A step that would leave a deployment without a key, or that makes no sense; the message is for the operator. */
export class RotationRefused extends Error {}

const NAMES: Record<KeyUse, string> = { sig: 'signing key', enc: 'key-encryption key' }
const ORDER: Record<KeyRecord['state'], number> = { next: 0, active: 1, retiring: 2, revoked: 3 }

/** First step of a rotation: a next key for each use that has none. Nobody signs with it until all gateways have read of it. */
export async function publish(ring: KeyRecords, options: { uses: readonly KeyUse[]; now: number }): Promise<KeyRecords> {
  const { now } = options
  const fresh: KeyRecord[] = []
  for (const use of options.uses) {
    if (keyIn(ring, use, 'next') !== undefined) continue
    const numbers = ring.keys.filter((key) => key.use === 'enc').map(({ kid }) => Number(kid.slice('kek-'.length)))
    if (use === 'sig') fresh.push(await generateSigningKey({ now, state: 'next' }))
    else fresh.push(generateSealingKey({ now, state: 'next', number: Math.max(...numbers) + 1 }))
  }
  return fresh.length === 0 ? ring : { ...ring, keys: [...ring.keys, ...fresh] }
}

/** When the next keys of these uses have been there for `overlapSeconds`, in unix seconds. Records have whole seconds, so one is added. */
export function promotionTime(ring: KeyRecords, options: { uses: readonly KeyUse[]; overlapSeconds: number }): number {
  const began = options.uses.map((use) => keyIn(ring, use, 'next')).map((key) => (key === undefined ? 0 : (key.since ?? key.createdAt)))
  return Math.max(...began) + options.overlapSeconds + 1
}

/** Second step: the next keys sign and seal, and those that did retire. Refuses when a use has no next key. */
export function promote(ring: KeyRecords, options: { uses: readonly KeyUse[]; now: number }): KeyRecords {
  for (const use of options.uses)
    if (keyIn(ring, use, 'next') === undefined) throw new RotationRefused(`There is no next ${NAMES[use]}: run npm run keys -- rotate`)
  return {
    ...ring,
    keys: ring.keys.map((key) => {
      if (!options.uses.includes(key.use)) return key
      if (key.state === 'next') return enter(key, 'active', options.now)
      return key.state === 'active' ? enter(key, 'retiring', options.now) : key
    }),
  }
}

/** Takes the active key out of use in favour of the next one, or drops a next key. Refuses for the only active key of its use and a revoked one. */
export function retire(ring: KeyRecords, kid: string, now: number): KeyRecords {
  const key = find(ring, kid)
  if (key.state === 'revoked') throw new RotationRefused(`Key "${kid}" is revoked already`)
  if (key.state === 'retiring') return ring
  if (key.state === 'next') return { ...ring, keys: ring.keys.filter((other) => other !== key) }
  needSuccessor(ring, key)
  return promote(ring, { uses: [key.use], now })
}

/**
 * Ends a key for good: what it signed or sealed is refused, and its secret part is gone from the ring. An active key is followed by the
 * next one; the only active key of its use cannot be revoked.
 */
export function revoke(ring: KeyRecords, kid: string, now: number): KeyRecords {
  const key = find(ring, kid)
  if (key.state === 'revoked') return ring
  if (key.state === 'active') needSuccessor(ring, key)
  const followed = key.state === 'active' ? promote(ring, { uses: [key.use], now }) : ring
  const { use, createdAt } = key
  const dead = { state: 'revoked', createdAt, since: Math.floor(now) } as const
  return { ...followed, keys: followed.keys.map((other) => (other.kid === kid ? { kid, use, ...dead } : other)) }
}

export interface ListedKey {
  readonly kid: string
  readonly use: KeyUse
  readonly state: KeyRecord['state']
  readonly createdAt: number
  readonly ageSeconds: number
  /** How long it has been in its state. */
  readonly stateSeconds: number
}

/** What an operator may see of a ring: signing keys first, then by the life of a key. */
export function listKeys(ring: KeyRecords, now: number): ListedKey[] {
  return ring.keys
    .map(({ kid, use, state, createdAt, since }) => ({
      kid,
      use,
      state,
      createdAt,
      ageSeconds: Math.max(0, Math.floor(now) - createdAt),
      stateSeconds: Math.max(0, Math.floor(now) - (since ?? createdAt)),
    }))
    .sort((a, b) => b.use.localeCompare(a.use) || ORDER[a.state] - ORDER[b.state] || b.createdAt - a.createdAt)
}

function find(ring: KeyRecords, kid: string): KeyRecord {
  const key = ring.keys.find((candidate) => candidate.kid === kid)
  if (key === undefined) throw new RotationRefused(`No key "${kid}": npm run keys -- list shows those there are`)
  return key
}

function keyIn(ring: KeyRecords, use: KeyUse, state: KeyRecord['state']): KeyRecord | undefined {
  return ring.keys.find((key) => key.use === use && key.state === state)
}

function needSuccessor(ring: KeyRecords, key: KeyRecord): void {
  if (keyIn(ring, key.use, 'next') !== undefined) return
  throw new RotationRefused(`Key "${key.kid}" is the only active ${NAMES[key.use]}: run npm run keys -- rotate first`)
}

function enter<T extends KeyRecord>(key: T, state: 'active' | 'retiring', now: number): T {
  return { ...key, state, since: Math.floor(now) }
}
