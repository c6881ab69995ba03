import { hash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { checkTimes, type Claims } from './claims.ts'
import { invalidToken } from './invalid.ts'
import { MAX_TOKEN_LENGTH } from './sign.ts'

export interface VerifiedTokens {
  /** The claims of a token that is valid now and not revoked. Refuses (token_invalid) every other text. */
  get(text: string): Promise<Claims>
  /** Forgets everything; for when keys change. */
  clear(): void
}

/** How long a refused text is refused unread, in seconds. Time is no reason for it, as `authenticate` does not look at the clock. */
const REFUSED_SECONDS = 10

/** What the remembered tokens may take together, as texts (characters). Their claims take about as much again. */
const AUTHENTIC_CHARS = 64 * 1024 * 1024

/**
 * Remembers up to `max` authentic tokens, and as many refused texts by SHA-256 digest. Time and revocation are checked on every
 * call; only the signature and the schema are not. Garbage never pushes out good tokens. `now` gives unix seconds.
 */
export function createVerifiedTokens(deps: {
  authenticate: (text: string) => Promise<Claims>
  isRevoked: (claims: Claims) => boolean
  now: () => number
  max: number
}): VerifiedTokens {
  const authentic = new LRUCache<string, Claims>({ max: deps.max, maxSize: AUTHENTIC_CHARS, sizeCalculation: (_claims, text) => text.length })
  const refusedUntil = new LRUCache<string, number>({ max: deps.max })
  const underWay = new Map<string, Promise<Claims>>()
  let era = 0

  /** A burst of first requests with one token costs one verification. */
  const authenticateOnce = (text: string, digest: string): Promise<Claims> => {
    const running = underWay.get(digest)
    if (running !== undefined) return running
    const promise = authenticate(text, digest).finally(() => {
      if (underWay.get(digest) === promise) underWay.delete(digest)
    })
    underWay.set(digest, promise)
    return promise
  }

  const authenticate = async (text: string, digest: string): Promise<Claims> => {
    const started = era
    try {
      const claims = await deps.authenticate(text)
      if (started === era) authentic.set(text, claims)
      return claims
    } catch (error) {
      if (started === era) refusedUntil.set(digest, deps.now() + REFUSED_SECONDS)
      throw error
    }
  }

  const judge = (text: string): Promise<Claims> => {
    const digest = hash('sha256', text, 'base64')
    if ((refusedUntil.get(digest) ?? 0) > deps.now()) throw invalidToken('refused a moment ago')
    return authenticateOnce(text, digest)
  }

  return {
    async get(text) {
      if (typeof text !== 'string' || text.length > MAX_TOKEN_LENGTH) throw invalidToken('not the form of a token')
      const claims = authentic.get(text) ?? (await judge(text))
      checkTimes(claims, deps.now())
      if (deps.isRevoked(claims)) throw invalidToken('revoked')
      return claims
    },
    clear() {
      era += 1
      authentic.clear()
      refusedUntil.clear()
      underWay.clear()
    },
  }
}
