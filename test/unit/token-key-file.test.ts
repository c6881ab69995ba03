import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, mkdtemp, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { changeKeys, loadKeyring, readKeyRecords } from '../../src/token/key-file.ts'
import { promote, publish } from '../../src/token/key-rotation.ts'
import { watchKeyring } from '../../src/token/key-watch.ts'
import { eventually } from '../support/docker.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const now = () => Date.now() / 1000

async function newData(t: TestContext, create = true): Promise<{ data: string; dir: string }> {
  const data = await mkdtemp(path.join(tmpdir(), 'wt-keys-'))
  t.after(() => rm(data, { recursive: true, force: true }))
  const dir = path.join(data, 'keys')
  if (create) await loadKeyring(dir, { create: true, now: now() })
  return { data, dir }
}

/** Runs the command as an operator would. */
function keys(data: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const env = { ...process.env, WEBTASK_DATA_DIR: data }
    execFile(process.execPath, ['src/keys.ts', ...args], { cwd: ROOT, env }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    )
  })
}

const listed = async (data: string): Promise<Record<string, any>[]> => JSON.parse((await keys(data, 'list', '--json')).stdout).keys
const statesOf = async (data: string) => (await listed(data)).map(({ use, state }) => `${use} ${state}`)

test('the command rotates, retires and revokes, and shows what is', async (t) => {
  const { data, dir } = await newData(t)
  const first = await listed(data)
  assert.deepEqual(await statesOf(data), ['sig active', 'enc active'])
  const text = await keys(data, 'list')
  assert.equal(text.code, 0)
  for (const { kid } of first) assert.match(text.stdout, new RegExp(`^${kid} +(sig|enc) +active +for \\d+ s +\\d+ s$`, 'm'))

  const began = performance.now()
  const rotated = await keys(data, 'rotate', '--overlap', '1')
  assert.equal(rotated.code, 0, rotated.stderr)
  assert.ok(performance.now() - began >= 1000, 'new keys are known before they are used')
  assert.deepEqual(await statesOf(data), ['sig active', 'sig retiring', 'enc active', 'enc retiring'])
  assert.equal((await stat(path.join(dir, 'ring.json'))).mode & 0o777, 0o600)
  assert.deepEqual(await readdir(dir), ['ring.json'])

  assert.equal((await keys(data, 'revoke', first[0]!['kid'])).code, 0)
  assert.deepEqual(await statesOf(data), ['sig active', 'sig revoked', 'enc active', 'enc retiring'])
  const ring = await readFile(path.join(dir, 'ring.json'), 'utf8')
  assert.equal(ring.match(/"d":/g)?.length, 1, 'the secret part of the revoked key is gone')

  assert.equal((await keys(data, 'rotate', '--use', 'enc', '--publish')).code, 0)
  assert.deepEqual(await statesOf(data), ['sig active', 'sig revoked', 'enc next', 'enc active', 'enc retiring'])
  assert.equal((await keys(data, 'retire', 'kek-2')).code, 0)
  const after = (await listed(data)).map(({ kid, state }) => `${kid} ${state}`).slice(2)
  assert.deepEqual(after.sort(), ['kek-1 retiring', 'kek-2 retiring', 'kek-3 active'])
  for (const { stdout, stderr } of [text, rotated]) assert.doesNotMatch(stdout + stderr, /"d"|secret"|jwk/)
})

test('the command refuses aloud what would leave no key, and says how it is called', async (t) => {
  const { data } = await newData(t)
  const [signing] = await listed(data)
  const only = await keys(data, 'revoke', signing!['kid'])
  assert.equal(only.code, 1)
  assert.match(only.stderr, /the only active signing key: run npm run keys -- rotate first/)
  assert.equal((await keys(data, 'retire', 'kek-1')).code, 1)
  assert.match((await keys(data, 'revoke', 'nobody')).stderr, /No key "nobody"/)
  assert.deepEqual(await statesOf(data), ['sig active', 'enc active'])
  for (const args of [
    [],
    ['destroy'],
    ['revoke'],
    ['list', 'x'],
    ['rotate', '--overlap', '0'],
    ['rotate', '--use', 'x'],
    ['list', '--use', 'sig'],
    ['--x'],
  ]) {
    const { code, stderr } = await keys(data, ...args)
    assert.equal(code, 2, args.join(' '))
    assert.match(stderr, /Usage: npm run keys/)
  }
  const help = await keys(data, '--help')
  assert.equal(help.code, 0)
  assert.match(help.stdout, /list[^]*rotate[^]*retire[^]*revoke/)
  const empty = await newData(t, false)
  for (const args of [['list'], ['rotate']]) {
    const { code, stderr } = await keys(empty.data, ...args)
    assert.equal(code, 1)
    assert.match(stderr, /there are none in/)
  }
})

test('changes by many at once all happen, one after another', async (t) => {
  const { dir } = await newData(t)
  await Promise.all(
    Array.from({ length: 10 }, () =>
      changeKeys(dir, async (ring) => promote(await publish(ring, { uses: ['enc'], now: now() }), { uses: ['enc'], now: now() })),
    ),
  )
  const { keys } = await readKeyRecords(dir)
  assert.deepEqual(
    keys.filter(({ use }) => use === 'enc').map(({ kid, state }) => `${kid} ${state}`),
    Array.from({ length: 11 }, (_, index) => `kek-${index + 1} ${index === 10 ? 'active' : 'retiring'}`),
  )
  assert.deepEqual(await readdir(dir), ['ring.json'])
})

test('a change that fails leaves the ring as it was, and a lock of a dead process is no obstacle for ever', async (t) => {
  const { dir } = await newData(t)
  const before = await readFile(path.join(dir, 'ring.json'), 'utf8')
  await assert.rejects(
    changeKeys(dir, () => Promise.reject(new Error('no'))),
    /no/,
  )
  await assert.rejects(
    changeKeys(dir, (ring) => ({ ...ring, keys: ring.keys.filter(({ use }) => use === 'enc') })),
    /./,
  )
  assert.equal(await readFile(path.join(dir, 'ring.json'), 'utf8'), before)
  assert.deepEqual(await readdir(dir), ['ring.json'])
  await writeFile(path.join(dir, '.ring.lock'), '')
  await utimes(path.join(dir, '.ring.lock'), now() - 11, now() - 11)
  await changeKeys(dir, (ring) => publish(ring, { uses: ['sig'], now: now() }))
  assert.deepEqual(await readdir(dir), ['ring.json'])
})

test('who watches the keys has a change within a second, and at once when told to look', async (t) => {
  const { dir } = await newData(t)
  let changes = 0
  using watched = await watchKeyring(dir, { create: false, now, onChange: () => (changes += 1), onError: (error) => assert.fail(String(error)) })
  const first = watched.keyring.sealing
  await changeKeys(dir, (ring) => publish(ring, { uses: ['enc'], now: now() }))
  await watched.reload()
  assert.deepEqual([changes, watched.keyring.sealing, watched.keyring.opening.length], [1, first, 2])
  const times: number[] = []
  for (let i = 0; i < 5; i += 1) {
    await changeKeys(dir, async (ring) => promote(await publish(ring, { uses: ['enc'], now: now() }), { uses: ['enc'], now: now() }))
    const changed = performance.now()
    const before = changes
    await eventually('the change is noticed', () => changes > before, 1000)
    times.push(performance.now() - changed)
    assert.equal(watched.keyring.sealing, `kek-${i + 2}`)
  }
  t.diagnostic(`changed keys are in use after at most ${Math.max(...times).toFixed(0)} ms`)
  assert.ok(Math.max(...times) < 1000)
})

test('keys that cannot be read any more leave the last good ones in use; this is said once, and how long it lasts is known', async (t) => {
  const { dir } = await newData(t)
  const file = path.join(dir, 'ring.json')
  const errors: Error[] = []
  let changes = 0
  using watched = await watchKeyring(dir, { create: false, now, onChange: () => (changes += 1), onError: (error) => errors.push(error as Error) })
  const kid = watched.keyring.signing.header.kid
  const text = await readFile(file, 'utf8')
  await rename(file, `${file}.away`)
  await sleep(900)
  assert.equal(errors.length, 1)
  assert.ok(watched.staleSeconds() > 0.5)
  assert.equal(watched.keyring.signing.header.kid, kid)
  await writeFile(file, '{', { mode: 0o600 })
  await sleep(600)
  assert.equal(watched.keyring.signing.header.kid, kid)
  await writeFile(file, text)
  await chmod(file, 0o600)
  await eventually('the keys are read again', () => watched.staleSeconds() < 0.3, 1000)
  assert.deepEqual([errors.length, watched.keyring.signing.header.kid], [1, kid])
})
