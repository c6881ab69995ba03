import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { readAuthorities } from '../../src/egress/authorities.ts'
import { boundSecrets } from '../../src/egress/bound-secrets.ts'
import { WebtaskError } from '../../src/errors.ts'
import { openForWorker } from '../../src/gateway/bound-secrets.ts'
import type { Claims } from '../../src/token/claims.ts'
import { issueToken } from '../../src/token/issue.ts'
import { generateKeys } from '../../src/token/key-records.ts'
import { promote, publish } from '../../src/token/key-rotation.ts'
import { openKeyring } from '../../src/token/keyring.ts'
import { openSecrets } from '../../src/token/seal.ts'
import { createMasterToken } from '../../src/token/sign.ts'
import { CA } from '../support/certificate.ts'

const NOW = 1_800_000_000
const first = await generateKeys(NOW)
const keyring = await openKeyring(first)
const own = { keyring, issuer: 'webtask:test', now: NOW }
const master = (await createMasterToken(own)).claims
const VALUE = 'sk_live_0123456789'
const hosts = ['api.example.com', '*.Example.org']

const issue = async (ectx: unknown, parent: Claims = master): Promise<Claims> =>
  (await issueToken({ ...own, parent, input: { ...(parent === master ? { ten: 'acme', code: 'x', dd: 5 } : { dd: parent.dd - 1 }), ectx } })).claims

async function refused(ectx: unknown, message: RegExp, parent?: Claims): Promise<void> {
  await assert.rejects(issue(ectx, parent), (error) => {
    assert.ok(error instanceof WebtaskError && error.code === 'bad_request', JSON.stringify(ectx))
    assert.match(error.message, message, JSON.stringify(ectx))
    assert.ok(!error.message.includes(VALUE))
    return true
  })
}

test('a bound secret is shown to who may inspect as it was given, and to code as a placeholder', async () => {
  const given = { STRIPE_KEY: { value: VALUE, hosts }, plain: 'word', nested: { value: 'x', deep: { hosts: [] } } }
  const claims = await issue(given)
  assert.deepEqual(JSON.parse(JSON.stringify(await openSecrets(claims, own))), given)
  const { secrets, bound } = await openForWorker(claims, own)
  const { STRIPE_KEY: placeholder, ...others } = JSON.parse(JSON.stringify(secrets)) as Record<string, unknown>
  assert.match(String(placeholder), /^wtsecret-[0-9a-f]{40}$/)
  assert.deepEqual(others, { plain: 'word', nested: given.nested })
  assert.deepEqual(bound?.secrets, [{ placeholder, value: VALUE, hosts: ['api.example.com', '*.example.org'] }])
  assert.deepEqual(boundSecrets.parse(bound), bound)
})

test('what is no bound secret, and was not meant as one, is an ordinary secret', async () => {
  const ordinary = { a: { value: VALUE }, b: { hosts }, c: [VALUE, hosts], d: { in: { value: VALUE, hosts } }, value: VALUE, hosts, e: null }
  const { secrets, bound } = await openForWorker(await issue(ordinary), own)
  assert.deepEqual([JSON.parse(JSON.stringify(secrets)), bound], [ordinary, undefined])
})

test('what was meant as one and is none is refused by its name', async () => {
  const member = (fields: object) => ({ KEY: { value: VALUE, hosts, ...fields } })
  for (const value of [
    '',
    'short77',
    'x'.repeat(4097),
    ` ${VALUE}`,
    `${VALUE} `,
    `${VALUE}\r\nX: y`,
    `${VALUE}\0`,
    `${VALUE}ü`,
    12_345_678,
    null,
    [VALUE],
    {},
  ])
    await refused(member({ value }), /^Cannot use claim "ectx.KEY": "value" must be 8 to 4096 characters/)
  for (const bad of [
    [],
    'api.example.com',
    [''],
    ['localhost'],
    ['com'],
    ['*.com'],
    ['*'],
    ['a.*.example.com'],
    ['*api.example.com'],
    ['https://api.example.com'],
    ['api.example.com:443'],
    ['api.example.com/'],
    ['api.example.com.'],
    ['.example.com'],
    ['a..example.com'],
    ['-a.example.com'],
    ['ä.example.com'],
    ['a_b.example.com'],
    ['127.0.0.1'],
    ['0x7f.0.0.1'],
    ['1.2.3.0x4'],
    ['::1'],
    ['[::1]'],
    ['a.example.com', 7],
    [`${'a'.repeat(64)}.example.com`],
    [`${'a.'.repeat(127)}com`],
    Array.from({ length: 17 }, (_, i) => `h${i}.example.com`),
  ])
    await refused(member({ hosts: bad }), /^Cannot use claim "ectx.KEY": "hosts" must be a list of 1 to 16 host names/)
  await refused(member({ note: 'mine' }), /^Cannot use claim "ectx.KEY": .* nothing beside them, such as "note"/)
})

test('sixteen secrets of one token may be bound, those of its ancestors among them', async () => {
  const some = (count: number, name: string) =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`${name}${i}`, { value: VALUE, hosts: ['a.example.com'] }]))
  await refused(some(17, 'k'), /ectx.k16": at most 16 secrets/)
  const parent = await issue(some(10, 'k'))
  const child = await issue(some(6, 'l'), parent)
  assert.equal((await openForWorker(child, own)).bound?.secrets.length, 16)
  await refused(some(7, 'l'), /at most 16 secrets/, parent)
})

test('placeholder, id and certificate are the same for a token wherever they are made, whatever key seals new ones, and of no other token', async () => {
  const claims = await issue({ one: { value: VALUE, hosts }, two: { value: VALUE, hosts } })
  const { secrets, bound } = await openForWorker(claims, own)
  assert.notEqual(secrets['one'], secrets['two'])
  const rotated = promote(await publish(first, { uses: ['sig', 'enc'], now: NOW }), { uses: ['sig', 'enc'], now: NOW })
  assert.deepEqual(await openForWorker(claims, { keyring: await openKeyring(rotated) }), { secrets, bound })
  const other = await openForWorker(await issue({ one: { value: VALUE, hosts }, two: { value: VALUE, hosts } }), own)
  assert.notEqual(other.secrets['one'], secrets['one'])
  assert.notEqual(other.bound?.id, bound?.id)
  assert.notEqual(other.bound?.certificate, bound?.certificate)
  // Nothing of the value is in what code gets: one name of one token stands for any value.
  assert.equal(JSON.stringify([secrets, bound?.id, bound?.certificate]).includes(VALUE), false)
})

test('the certificate stands for the hosts of the secrets and can vouch for nobody else', async () => {
  const { bound } = await openForWorker(
    await issue({ one: { value: VALUE, hosts: ['b.example.com', '*.a.example.com'] }, two: { value: VALUE, hosts: ['b.example.com'] } }),
    own,
  )
  const certificate = new X509Certificate(bound!.certificate)
  assert.equal(certificate.subjectAltName, 'DNS:*.a.example.com, DNS:b.example.com')
  assert.equal(certificate.ca, false)
  assert.equal(certificate.verify(certificate.publicKey), true)
  assert.deepEqual(certificate.keyUsage, ['1.3.6.1.5.5.7.3.1'])
  assert.ok(Date.parse(certificate.validFrom) < Date.now() && certificate.validTo.includes('9999'))
})

test('the operator’s file of authorities is read at the start, and one without any stops it with a message', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'wt-ca-'))
  const file = path.join(folder, 'ca.pem')
  assert.equal(await readAuthorities(undefined), undefined)
  await assert.rejects(readAuthorities(file), /Cannot use ".*ca\.pem" of WEBTASK_EGRESS_CA: ENOENT/)
  await writeFile(file, 'nothing')
  await assert.rejects(readAuthorities(file), /it holds no certificate in PEM/)
  await writeFile(file, CA.replace('MIIB', 'MIIC'))
  await assert.rejects(readAuthorities(file), /WEBTASK_EGRESS_CA/)
  await writeFile(file, `one\n${CA}\nand the same\n${CA}`)
  assert.equal(await readAuthorities(file), `${CA}\n${CA}\n`)
  await rm(folder, { recursive: true })
})
