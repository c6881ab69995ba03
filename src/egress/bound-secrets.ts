/** The bound secrets of a webtask: what is put into which requests. Pure decisions. */
import { z } from 'zod'

/** What a placeholder looks like; nothing else is ever replaced. */
const PLACEHOLDER = /wtsecret-[\da-f]{40}/g
/** The only port on which secrets are put into requests. */
export const BOUND_PORT = 443

/** As gateways tell them. `hosts` are lower case; `*.` and a name stands for one more label. */
export const boundSecrets = z.strictObject({
  id: z.string().regex(/^[\da-f]{32}$/),
  certificate: z.string().max(65_536),
  key: z.string().max(1024),
  secrets: z
    .array(
      z.strictObject({
        placeholder: z.string().regex(/^wtsecret-[\da-f]{40}$/),
        // Whatever the gateway judged: no header may be broken open by a value.
        value: z
          .string()
          .max(4096)
          .regex(/^[\x20-\x7e]+$/),
        hosts: z.array(z.string().min(1).max(256)).min(1).max(16),
      }),
    )
    .min(1)
    .max(16),
})

/** Those of one webtask, with the certificate and key by which TLS ends here for all of their hosts. */
export type BoundSecrets = z.infer<typeof boundSecrets>

/** Placeholder → value, for the secrets that this host may get; undefined when there are none. */
export function secretsFor({ secrets }: BoundSecrets, host: string): ReadonlyMap<string, string> | undefined {
  const allowed = secrets.filter(({ hosts }) => hosts.some((pattern) => covers(pattern, host)))
  return allowed.length === 0 ? undefined : new Map(allowed.map(({ placeholder, value }) => [placeholder, value]))
}

/** As in certificates: the star is one label, so that certificate and rule mean the same hosts. */
function covers(pattern: string, host: string): boolean {
  return pattern.startsWith('*.') ? host.replace(/^[^.]+/, '*') === pattern : host === pattern
}

/** A header's value with the values of secrets in it, each placeholder replaced once; also within the base64 of `Basic` credentials. */
export function fillHeader(name: string, text: string, secrets: ReadonlyMap<string, string>): string {
  const [, scheme, encoded] = (/^authorization$/i.test(name) && /^(basic +)([a-z\d+/_-]+=*)$/i.exec(text)) || []
  if (scheme === undefined || encoded === undefined) return fill(text, secrets)
  const credentials = Buffer.from(encoded, 'base64').toString('latin1')
  const filled = fill(credentials, secrets)
  return filled === credentials ? text : scheme + Buffer.from(filled, 'latin1').toString('base64')
}

function fill(text: string, secrets: ReadonlyMap<string, string>): string {
  return text.replace(PLACEHOLDER, (found) => secrets.get(found) ?? found)
}
