/** The certificate with which the egress role ends TLS for the hosts of one token's bound secrets. */
import { createHash, createPrivateKey, createPublicKey, sign, X509Certificate } from 'node:crypto'
import { AsnConvert, OctetString } from '@peculiar/asn1-schema'
import {
  AlgorithmIdentifier,
  AttributeTypeAndValue,
  AttributeValue,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  Extension,
  Extensions,
  GeneralName,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_kp_serverAuth,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectAlternativeName,
  SubjectPublicKeyInfo,
  TBSCertificate,
  Validity,
  Version,
} from '@peculiar/asn1-x509'

const ED25519 = '1.3.101.112'
/** What stands before the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410). */
const PKCS8_ED25519 = Buffer.from('302e020100300506032b657004220420', 'hex')
const COMMON_NAME = '2.5.4.3'
/** It is trusted by one worker, for as long as that runs; the second one is RFC 5280's "no end". */
const VALIDITY = new Validity({ notBefore: new Date('2000-01-01T00:00:00Z'), notAfter: new Date('9999-12-31T23:59:59Z') })

export interface HostCertificate {
  /** PEM, as is the key. */
  readonly certificate: string
  readonly key: string
}

/**
 * Made from `seed` (32 bytes), and the same whenever and wherever it is made: a worker goes on trusting it when a gateway or the egress
 * role starts anew. It signs itself and may sign nothing else, so whoever has its key can stand in for these hosts and for no others.
 */
export function hostCertificate(seed: Buffer, hosts: readonly string[]): HostCertificate {
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_ED25519, seed]), format: 'der', type: 'pkcs8' })
  const publicKey = createPublicKey(key).export({ format: 'der', type: 'spki' })
  const name = new Name([
    new RelativeDistinguishedName([
      new AttributeTypeAndValue({ type: COMMON_NAME, value: new AttributeValue({ utf8String: 'webtask hosts of bound secrets' }) }),
    ]),
  ])
  const algorithm = new AlgorithmIdentifier({ algorithm: ED25519 })
  const tbsCertificate = new TBSCertificate({
    version: Version.v3,
    serialNumber: serialOf(publicKey),
    signature: algorithm,
    issuer: name,
    subject: name,
    validity: VALIDITY,
    subjectPublicKeyInfo: AsnConvert.parse(publicKey, SubjectPublicKeyInfo),
    extensions: new Extensions([
      extension(id_ce_basicConstraints, new BasicConstraints({ cA: false }), true),
      extension(id_ce_keyUsage, new KeyUsage(KeyUsageFlags.digitalSignature), true),
      extension(id_ce_extKeyUsage, new ExtendedKeyUsage([id_kp_serverAuth])),
      extension(id_ce_subjectAltName, new SubjectAlternativeName(hosts.map((dNSName) => new GeneralName({ dNSName })))),
    ]),
  })
  const signatureValue = sign(null, Buffer.from(AsnConvert.serialize(tbsCertificate)), key)
  const certificate = new Certificate({ tbsCertificate, signatureAlgorithm: algorithm, signatureValue: new Uint8Array(signatureValue).buffer })
  return {
    certificate: new X509Certificate(Buffer.from(AsnConvert.serialize(certificate))).toString(),
    key: key.export({ format: 'pem', type: 'pkcs8' }),
  }
}

function extension(extnID: string, value: object, critical = false): Extension {
  return new Extension({ extnID, critical, extnValue: new OctetString(AsnConvert.serialize(value)) })
}

/** Sixteen bytes that are a positive number. */
function serialOf(publicKey: Buffer): ArrayBuffer {
  const digest = createHash('sha256').update(publicKey).digest().subarray(0, 16)
  digest[0] = (digest[0]! & 0x3f) | 0x40
  return new Uint8Array(digest).buffer
}
