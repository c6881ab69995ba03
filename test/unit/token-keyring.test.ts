import assert from 'node:assert/strict'
import { chmod, mkdtemp, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { loadKeyring } from '../../src/token/key-file.ts'
import { generateKeys, type KeyRecord, type KeyRecords } from '../../src/token/key-records.ts'
import { openKeyring } from '../../src/token/keyring.ts'
import { openSecrets, sealSecrets } from '../../src/token/seal.ts'
import { createMasterToken } from '../../src/token/sign.ts'
import { verifyToken } from '../../src/token/verify.ts'

const NOW = 1_800_000_000

async function keysDir(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'wt-keys-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  return join(root, 'data', 'keys')
}

test('keys are made once, for the owner alone, and stay the same', async (t) => {
  const dir = await keysDir(t)
  await assert.rejects(loadKeyring(dir, { create: false, now: NOW }), /there are none/)
  const first = await loadKeyring(dir, { create: true, now: NOW })
  assert.equal((await stat(dir)).mode & 0o777, 0o700)
  assert.deepEqual(await readdir(dir), ['ring.json'])
  assert.equal((await stat(join(dir, 'ring.json'))).mode & 0o777, 0o600)
  const second = await loadKeyring(dir, { create: true, now: NOW })
  assert.equal(second.signing.header.kid, first.signing.header.kid)
})

test('processes that start at once agree on the keys', async (t) => {
  const dir = await keysDir(t)
  const rings = await Promise.all(Array.from({ length: 8 }, () => loadKeyring(dir, { create: true, now: NOW })))
  assert.equal(new Set(rings.map((ring) => ring.signing.header.kid)).size, 1)
  assert.deepEqual(await readdir(dir), ['ring.json'])
})

test('keys that others can read, link or damage stop the start, and no message shows a key', async (t) => {
  const dir = await keysDir(t)
  const path = join(dir, 'ring.json')
  await loadKeyring(dir, { create: true, now: NOW })
  const text = await readFile(path, 'utf8')
  const secret = /"d": "([^"]+)"/.exec(text)?.[1] ?? ''
  assert.equal(secret.length, 43)
  const refused = (reason: RegExp) =>
    assert.rejects(
      loadKeyring(dir, { create: true, now: NOW }),
      (error) => error instanceof Error && reason.test(error.message) && !error.message.includes(secret),
    )
  for (const mode of [0o640, 0o604, 0o660]) {
    await chmod(path, mode)
    await refused(/others may read.*0600/)
  }
  await chmod(path, 0o600)
  await chmod(dir, 0o750)
  await refused(/others may read.*0700/)
  await chmod(dir, 0o700)
  for (const damaged of ['', text.slice(0, 200), text.replace('"version": 1', '"version": 2'), text.replace(secret, `${secret}x`)]) {
    await writeFile(path, damaged)
    await refused(/damaged/)
  }
  await writeFile(path, text)
  await rename(path, join(dir, 'elsewhere'))
  await symlink(join(dir, 'elsewhere'), path)
  await refused(/plain file/)
})

test('keys cannot leave the process', async () => {
  const ring = await openKeyring(await generateKeys(NOW))
  assert.equal(ring.signing.key.extractable, false)
  assert.equal((await ring.wrapping(ring.sealing, 'acme')).extractable, false)
})

test('a ring that is ambiguous or mislabelled is refused', async () => {
  const ring = await generateKeys(NOW)
  const other = await generateKeys(NOW)
  const [sig, enc] = ring.keys
  const [otherSig] = other.keys
  const refused = (keys: KeyRecords['keys'], reason: RegExp) => assert.rejects(openKeyring({ version: 1, keys }), reason)
  await refused([sig, sig, enc], /same id/)
  await refused([sig, otherSig, enc], /exactly one/)
  await refused([{ ...sig, state: 'retiring' }, enc], /exactly one/)
  await refused([sig, { ...enc, state: 'revoked' }], /exactly one/)
  await refused([{ ...sig, kid: otherSig.kid }, enc], /thumbprint/)
})

test('a retiring key still verifies and opens, a revoked one does not, and the active one signs', async () => {
  const issuer = 'webtask:test'
  const old = await generateKeys(NOW)
  const next = await generateKeys(NOW)
  const before = await openKeyring(old)
  const { token, claims } = await createMasterToken({ keyring: before, issuer, now: NOW })
  const sealed = { ...claims, ectx: await sealSecrets({ a: 'b' }, { claims, keyring: before }) }
  const rotate = (state: 'retiring' | 'revoked') =>
    openKeyring({
      version: 1,
      keys: [
        ...old.keys.map((key) => ({ ...key, state }) as KeyRecord),
        ...next.keys.map((key) => (key.use === 'enc' ? { ...key, kid: 'kek-2' } : key)),
      ],
    })
  const after = await rotate('retiring')
  assert.notEqual(after.signing.header.kid, before.signing.header.kid)
  await verifyToken(token, { keyring: after, issuer, now: NOW })
  assert.deepEqual({ ...(await openSecrets(sealed, { keyring: after })) }, { a: 'b' })
  const fresh = await sealSecrets({ a: 'b' }, { claims, keyring: after })
  await assert.rejects(openSecrets({ ...claims, ectx: fresh }, { keyring: before }))
  const dead = await rotate('revoked')
  await assert.rejects(verifyToken(token, { keyring: dead, issuer, now: NOW }))
  await assert.rejects(openSecrets(sealed, { keyring: dead }))
})
