/** Keeps bound secrets out of sandboxes: code gets placeholders, and the egress role hears what they stand for. */
import type { BoundSecrets } from '../egress/bound-secrets.ts'
import { partSecrets } from '../token/bound-secret.ts'
import type { Claims } from '../token/claims.ts'
import type { Keyring } from '../token/keyring.ts'
import { mergeObjects } from '../token/plain-json.ts'
import { standsFor } from '../token/placeholder.ts'
import { openSecrets, type Secrets } from '../token/seal.ts'
import { hostCertificate } from './host-certificate.ts'

export interface OpenedSecrets {
  /** For the code: placeholders where a secret is bound to hosts. */
  readonly secrets: Secrets
  /** For the egress role; undefined when none is bound. */
  readonly bound: BoundSecrets | undefined
}

/** Opens the secrets of a verified token for a worker that is to be loaded. Refuses as `openSecrets` does. */
export async function openForWorker(claims: Claims, options: { keyring: Keyring }): Promise<OpenedSecrets> {
  const { ordinary, bound } = partSecrets(await openSecrets(claims, options))
  if (bound.size === 0 || claims.ectx === undefined) return { secrets: ordinary, bound: undefined }
  const { id, placeholder, seed } = await standsFor({ ...claims, ectx: claims.ectx }, options)
  const placeholders = Object.fromEntries([...bound.keys()].map((name) => [name, placeholder(name)]))
  const hosts = new Set([...bound.values()].flatMap((secret) => secret.hosts))
  return {
    secrets: mergeObjects(ordinary, placeholders),
    bound: {
      id,
      ...hostCertificate(seed, [...hosts].sort()),
      secrets: [...bound].map(([name, secret]) => ({ placeholder: placeholder(name), value: secret.value, hosts: [...secret.hosts] })),
    },
  }
}
