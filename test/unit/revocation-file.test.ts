import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test, type TestContext } from 'node:test'
import { tenantRevocation, tokenRevocation, type Revocation } from '../../src/token/revocation.ts'
import { openRevocationFile } from '../../src/token/revocation-file.ts'

const NOW = 1_800_000_000
const now = () => NOW

async function newFile(t: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'wt-revocations-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  return path.join(dir, 'revocations')
}

const newToken = (exp?: number): Revocation => tokenRevocation({ jti: randomBytes(16).toString('hex'), exp }, ['acme'])
const subjects = (all: readonly Revocation[]) => all.map(({ subject }) => subject).sort()

async function readAnew(file: string, at = NOW): Promise<readonly Revocation[]> {
  await using opened = await openRevocationFile(file, { now: () => at })
  return opened.read()
}

test('what was appended is there after a restart, for the owner alone', async (t) => {
  const file = await newFile(t)
  const all = [newToken(), newToken(NOW + 5), tenantRevocation('acme', NOW)]
  {
    await using opened = await openRevocationFile(file, { now })
    assert.deepEqual(await opened.read(), [])
    await Promise.all(all.map((each) => opened.append(each)))
  }
  assert.equal((await stat(file)).mode & 0o777, 0o600)
  assert.deepEqual(await readAnew(file), all)
  assert.deepEqual(subjects(await readAnew(file, NOW + 66)), subjects([all[0]!, all[2]!]), 'what has expired is left out')
})

test('half a line of a crash costs nobody else, and the next line stands by itself', async (t) => {
  const file = await newFile(t)
  const [first, lost, next] = [newToken(), newToken(NOW + 5), newToken()]
  const line = ({ subject, value }: Revocation) => `${subject} ${value};\n`
  for (let length = 0; length < line(lost).length - 1; length += 1) {
    await writeFile(file, line(first) + line(lost).slice(0, length))
    assert.deepEqual(await readAnew(file), [first], `${length} bytes of a line`)
    {
      await using opened = await openRevocationFile(file, { now })
      await opened.append(next)
    }
    assert.deepEqual(await readAnew(file), [first, next])
  }
  await writeFile(file, line(first) + line(lost).trimEnd())
  assert.deepEqual(await readAnew(file), [first, lost])
})

test('a file with much that says nothing any more is written anew, and says the same', async (t) => {
  const file = await newFile(t)
  const kept = Array.from({ length: 20 }, () => newToken())
  {
    await using opened = await openRevocationFile(file, { now })
    for (let i = 0; i < 60; i += 1) await Promise.all([...kept, tenantRevocation('acme', i + 1)].map((each) => opened.append(each)))
    assert.deepEqual(subjects(await opened.read()), subjects([...kept, tenantRevocation('acme', 60)]))
  }
  const text = await readFile(file, 'utf8')
  assert.ok(text.split('\n').length < 1100, `${text.split('\n').length} lines`)
  assert.deepEqual(await readdir(path.dirname(file)), ['revocations'])
})

test('two processes share a file: nothing that either was told is safe gets lost when the other writes it anew', async (t) => {
  const file = await newFile(t)
  const told: Revocation[] = []
  {
    await using a = await openRevocationFile(file, { now })
    await using b = await openRevocationFile(file, { now })
    const write = async (to: typeof a) => {
      for (let i = 0; i < 40; i += 1) {
        const fresh = newToken()
        // Many repeats, so that both write the file anew several times.
        await Promise.all(Array.from({ length: 100 }, () => to.append(fresh)))
        told.push(fresh)
      }
    }
    await Promise.all([write(a), write(b)])
  }
  assert.equal(told.length, 80)
  assert.deepEqual(subjects(await readAnew(file)), subjects(told))
  assert.ok((await readFile(file, 'utf8')).split('\n').length < 8000 / 2)
})

test('a directory that is gone refuses to promise anything', async (t) => {
  const file = await newFile(t)
  await using opened = await openRevocationFile(file, { now })
  await rm(path.dirname(file), { recursive: true })
  await assert.rejects(opened.append(newToken()))
  await assert.rejects(openRevocationFile(file, { now }))
})
