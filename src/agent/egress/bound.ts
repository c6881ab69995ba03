/** What a worker with secrets that are bound to hosts does differently: its connections say whose they are, and it trusts one certificate more. */

const tls = process.getBuiltinModule('node:tls')

let id: string | undefined

/** To be called before there is any code. The certificate stands for the hosts of the secrets and for no others. */
export function installBound(bound: { readonly id: string; readonly certificate: string }): void {
  id = bound.id
  tls.setDefaultCACertificates([...tls.getCACertificates('default'), bound.certificate])
}

/** What a connection of this worker says about itself. */
export const boundId = (): { readonly bound?: string } => (id === undefined ? {} : { bound: id })
