import { readFile } from 'node:fs/promises'
import { createSecureContext } from 'node:tls'

/** Reads the operator's file of certificate authorities (PEM). Throws an Error fit for the operator when there are none in it. */
export async function readAuthorities(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined
  try {
    const pem = await readFile(file, 'utf8')
    if (!pem.includes('-----BEGIN CERTIFICATE-----')) throw new Error('it holds no certificate in PEM')
    createSecureContext({ ca: pem })
    return pem
  } catch (error) {
    throw new Error(`Cannot use "${file}" of WEBTASK_EGRESS_CA: ${(error as Error).message}`, { cause: error })
  }
}
