/** What gateways and the egress role say to each other about sandboxes, on one connection of each gateway that stays. */
import { z } from 'zod'
import { boundSecrets } from './bound-secrets.ts'
import { outboundRules } from './outbound-rules.ts'

/** The HTTP upgrade by which a gateway's connection becomes one of frames. */
export const ATTACHMENTS_PATH = '/attachments'
export const ATTACHMENTS_PROTOCOL = 'webtask-attachments'
/** Webtasks of one sandbox whose secrets are bound: twice the workers that there may be, for while they take turns. */
export const MAX_BOUND = 512
/** Largest frame from a gateway (bytes): the most rules that there may be, and as many bound secrets as tokens can hold. */
export const MAX_ATTACHMENT_FRAME = 8 * 1024 * 1024
/** Largest frame to a gateway (bytes). */
export const MAX_USAGE_FRAME = 64 * 1024

const sandbox = z.string().regex(/^[0-9a-f]{12}$/)
const call = z.int().min(0)
const count = z.number().min(0)

/** `attach` is answered by `attached`; the same sandbox may be attached again, with other rules or other bound secrets: all of this gateway's. */
export const toEgress = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('attach'),
    call,
    sandbox,
    tenant: z.string().min(1).max(256),
    rules: outboundRules,
    bound: z.array(boundSecrets).max(MAX_BOUND),
  }),
  z.strictObject({ kind: z.literal('detach'), sandbox }),
])
export type ToEgress = z.infer<typeof toEgress>

/** `used` is what the sandboxes of this gateway used since it was last told. */
export const toGateway = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('attached'), call, ok: z.boolean(), message: z.string() }),
  z.strictObject({ kind: z.literal('used'), bytesIn: count, bytesOut: count, outcomes: z.record(z.string(), count) }),
])
export type ToGateway = z.infer<typeof toGateway>
