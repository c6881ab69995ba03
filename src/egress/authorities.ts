import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

/** Reads the operator's file of certificate authorities (PEM). Throws an Error fit for the operator when there are none in it. */
export async function readAuthorities(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined
  try {
    const pem = await readFile(file, 'utf8')
    const certificates = pem.match(CERTIFICATE) ?? []
    if (certificates.length === 0) throw new Error('it holds no certificate in PEM')
    // Each by itself: TLS passes over what it cannot read.
    return certificates.map((each) => new X509Certificate(each).toString()).join('')
  } catch (error) {
    throw new Error(`Cannot use "${file}" of WEBTASK_EGRESS_CA: ${(error as Error).message}`, { cause: error })
  }
}
