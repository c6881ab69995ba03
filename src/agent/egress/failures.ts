/** Errors as Node itself would give them, for what the egress role refused or could not do. */
import { constants } from 'node:os'
import type { EgressFailure } from '../../protocol/egress.ts'

/** Codes of the resolver have no number in the operating system; these are libuv's. */
const ERRNO: Readonly<Record<string, number>> = { ENOTFOUND: -3008, EAI_AGAIN: -3001 }

export interface Target {
  readonly host: string
  readonly port: number
}

type Fields = { errno?: number; code: string; syscall: string; hostname?: string; address?: string; port?: number }

/** The egress role is not there, or has not been told of this sandbox: as on a machine whose network is down. */
export function unreachable({ host }: { readonly host: string }, isAddress: boolean): EgressFailure {
  return isAddress
    ? { ok: false, code: 'ENETUNREACH', syscall: 'connect', message: '', address: host }
    : { ok: false, code: 'EAI_AGAIN', syscall: 'getaddrinfo', message: '', address: null }
}

export function connectError(failure: EgressFailure, { host, port }: Target): Error {
  const { code, syscall } = failure
  const note = failure.message === '' ? '' : ` (${failure.message})`
  if (syscall !== 'connect') return withFields(`getaddrinfo ${code} ${host}${note}`, { ...numbered(code), syscall: 'getaddrinfo', hostname: host })
  const address = failure.address ?? host
  return withFields(`connect ${code} ${address}:${port}${note}`, { ...numbered(code), syscall, address, port })
}

export function lookupError(failure: EgressFailure, hostname: string): Error {
  const code = failure.code === 'ENODATA' ? 'ENOTFOUND' : failure.code
  const note = failure.message === '' ? '' : ` (${failure.message})`
  return withFields(`getaddrinfo ${code} ${hostname}${note}`, { ...numbered(code), syscall: 'getaddrinfo', hostname })
}

/** A connection that stood, and broke. */
export function brokenError(code: string): Error {
  return withFields(`read ${code}`, { ...numbered(code), syscall: 'read' })
}

function numbered(code: string): { errno?: number; code: string } {
  const errno = ERRNO[code] ?? -((constants.errno as Record<string, number>)[code] ?? 0)
  return errno === 0 ? { code } : { errno, code }
}

function withFields(message: string, fields: Fields): Error {
  return Object.assign(new Error(message), fields)
}
