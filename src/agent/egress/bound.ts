/** What a worker with secrets that are bound to hosts does differently: its connections say whose they are, and it trusts one certificate more. */

let id: string | undefined

/** To be called before there is any code. The certificate stands for the hosts of the secrets and for no others. */
export function installBound(bound: { readonly id: string; readonly certificate: string }): void {
  // Not at the top: it takes as long as all the rest of the agent, and few webtasks have such secrets.
  const tls = process.getBuiltinModule('node:tls')
  id = bound.id
  tls.setDefaultCACertificates([...tls.getCACertificates('default'), bound.certificate])
}

/** What a connection of this worker says about itself. */
export const boundId = (): { readonly bound?: string } => (id === undefined ? {} : { bound: id })
