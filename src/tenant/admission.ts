import { WebtaskError } from '../errors.ts'
import { createFairQueue } from './fair-queue.ts'
import type { Plan } from './plan.ts'
import type { TenantId } from './tenant-id.ts'

/** The right to run one request, until disposed. */
export type Admitted = Disposable

/** Who asks, by which token, under which plan. */
export interface Asking {
  readonly tenant: TenantId
  /** The token's id: its requests are counted together. */
  readonly token: string
  readonly plan: Plan
}

/** How many requests run at once: of all tenants, of one tenant, of one token. */
export interface Admission {
  /**
   * At once when there is room and nobody waits for it; otherwise in turn, fair by weight. Refuses with 429 what is over the token's or the
   * queue's limit, or waits too long. `left` gives a signal of the caller's leaving.
   */
  enter(asking: Asking, left: () => AbortSignal): Admitted | Promise<Admitted>
  readonly running: number
  readonly waiting: number
}

interface Waiter {
  readonly asking: Asking
  admit(): void
}

export function createAdmission(options: { most: number; waitMs: number }): Admission {
  const ofTenant = new Map<string, { running: number; most: number }>()
  const ofToken = new Map<string, number>()
  const queue = createFairQueue<Waiter>()
  let running = 0

  function hasRoom(tenant: string): boolean {
    const load = ofTenant.get(tenant)
    return load === undefined || load.running < load.most
  }

  function take({ tenant, token, plan }: Asking): Admitted {
    const load = ofTenant.get(tenant)
    if (load === undefined) ofTenant.set(tenant, { running: 1, most: plan.concurrency })
    else {
      load.running += 1
      load.most = plan.concurrency
    }
    running += 1
    let held = true
    return {
      [Symbol.dispose]() {
        if (!held) return
        held = false
        running -= 1
        const mine = ofTenant.get(tenant)!
        mine.running -= 1
        if (mine.running === 0 && queue.waiting(tenant) === 0) ofTenant.delete(tenant)
        releaseToken(token)
        if (queue.size > 0) admitNext()
      },
    }
  }

  function releaseToken(token: string): void {
    const count = ofToken.get(token) ?? 1
    if (count > 1) ofToken.set(token, count - 1)
    else ofToken.delete(token)
  }

  function admitNext(): void {
    while (running < options.most) {
      const waiter = queue.next(hasRoom)
      if (waiter === undefined) return
      waiter.admit()
    }
  }

  function wait(asking: Asking, signal: AbortSignal): Promise<Admitted> {
    const { tenant, token, plan } = asking
    if (queue.waiting(tenant) >= plan.queue) {
      releaseToken(token)
      const limit = `${ofTenant.get(tenant)?.running ?? 0} requests running and ${queue.waiting(tenant)} waiting`
      throw new WebtaskError('quota_exceeded', `The tenant has ${limit}, its limits; wait for some to finish`, { retryAfterSeconds: 1 })
    }
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', leave)
      }
      const refuse = (error: Error) => {
        settle()
        queue.remove(tenant, waiter)
        releaseToken(token)
        if (queue.waiting(tenant) === 0 && ofTenant.get(tenant)?.running === 0) ofTenant.delete(tenant)
        reject(error)
      }
      const leave = () => refuse(signal.reason as Error)
      const waiter: Waiter = {
        asking,
        admit() {
          settle()
          resolve(take(asking))
        },
      }
      const timer = setTimeout(() => {
        refuse(
          new WebtaskError('quota_exceeded', `The request waited ${options.waitMs} ms for its turn behind others; try again later`, {
            retryAfterSeconds: 1,
          }),
        )
      }, options.waitMs)
      if (signal.aborted) return leave()
      signal.addEventListener('abort', leave, { once: true })
      queue.push(tenant, plan.weight, waiter)
    })
  }

  return {
    enter(asking, left) {
      const { tenant, token, plan } = asking
      const byToken = ofToken.get(token) ?? 0
      if (byToken >= plan.tokenConcurrency)
        throw new WebtaskError('quota_exceeded', `The token has ${byToken} requests running or waiting at once, its limit; wait for one to finish`, {
          retryAfterSeconds: 1,
        })
      ofToken.set(token, byToken + 1)
      const load = ofTenant.get(tenant)
      if (running < options.most && (load === undefined || load.running < plan.concurrency) && queue.waiting(tenant) === 0) return take(asking)
      return wait(asking, left())
    },
    get running() {
      return running
    },
    get waiting() {
      return queue.size
    },
  }
}
