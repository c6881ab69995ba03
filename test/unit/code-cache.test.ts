import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import test from 'node:test'
import type { TestContext } from 'node:test'
import type { CodeRequest, FetchedCode } from '../../src/egress/fetch-code.ts'
import { WebtaskError } from '../../src/errors.ts'
import { createCodeCache } from '../../src/gateway/code/cache.ts'
import type { CodeCacheOptions } from '../../src/gateway/code/cache.ts'
import { CODE_LIMITS } from '../../src/gateway/code/limits.ts'

const SECOND = 1000
const MINUTE = 60_000
const HOUR = 3_600_000

const URL_A = 'https://code.example.com/a.js'
const ann = { tenant: 'ann', url: URL_A }
const ben = { tenant: 'ben', url: URL_A }

/** The internet with one page, whose content, health and pace the test sets. */
function pretendHost() {
  const host = {
    asked: [] as (string | undefined)[],
    code: '// 1',
    failure: undefined as WebtaskError | undefined,
    hold: undefined as Promise<unknown> | undefined,
    async fetch({ etag }: CodeRequest): Promise<FetchedCode> {
      host.asked.push(etag)
      await host.hold
      if (host.failure !== undefined) throw host.failure
      const current = `"${host.code.length}-${host.code.at(-1)}"`
      if (etag === current) return { status: 'unchanged' }
      return { status: 'fetched', code: host.code, etag: current, sha256: '0'.repeat(64) }
    },
  }
  return host
}

const down = () =>
  new WebtaskError('code_unavailable', 'Cannot fetch code from "code.example.com": it refused the connection', { retryAfterSeconds: 2 })
const gone = () => new WebtaskError('code_unavailable', 'Cannot fetch code from "code.example.com": it answered with status 404')

async function setUp(t: TestContext, options: Partial<CodeCacheOptions> = {}) {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'code-cache-'))
  const host = pretendHost()
  const clock = { ms: 1_800_000_000_000 }
  const stale: object[] = []
  const log = {
    warn(fields: object, event: string) {
      assert.equal(event, 'code.stale', JSON.stringify(fields))
      stale.push(fields)
    },
  }
  const open = () => createCodeCache({ fetch: host.fetch, dir, now: () => clock.ms, log, ...options })
  const cache = open()
  t.after(async () => {
    await cache.idle()
    await cache[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })
  return { dir, host, clock, stale, open, cache }
}

function hashOf(code: string): string {
  return createHash('sha256').update(code).digest('hex')
}

function cph(code: string): string {
  return `sha256-${createHash('sha256').update(code).digest('base64url')}`
}

async function filesIn(dir: string): Promise<string[]> {
  const found = await readdir(dir, { recursive: true, withFileTypes: true })
  return found.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name))
}

test('code comes with the hash of its bytes, whatever the fetch claims', async (t) => {
  const { cache, host } = await setUp(t)
  host.code = '// grüß'
  assert.deepEqual(await cache.get(ann), { code: '// grüß', sha256: hashOf('// grüß') })
})

test('a hundred simultaneous callers make one fetch, cold, by age and with noCache', async (t) => {
  const { cache, host, clock } = await setUp(t)
  const crowd = (noCache: boolean) => Promise.all(Array.from({ length: 100 }, () => cache.get({ ...ann, noCache })))
  assert.equal(new Set((await crowd(false)).map(({ code }) => code)).size, 1)
  assert.equal(host.asked.length, 1)
  clock.ms += 11 * MINUTE
  await crowd(false)
  assert.equal(host.asked.length, 2)
  await crowd(true)
  assert.equal(host.asked.length, 3)
  clock.ms += MINUTE
  await crowd(false)
  await cache.idle()
  assert.equal(host.asked.length, 4)
})

test('for five seconds the host is not asked; then the kept code is served while it is asked, with the ETag', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  clock.ms += CODE_LIMITS.freshMs - 1
  await cache.get(ann)
  assert.deepEqual(host.asked, [undefined])
  clock.ms += 1
  host.code = '// 2'
  assert.equal((await cache.get(ann)).code, '// 1', 'no waiting')
  await cache.idle()
  assert.deepEqual(host.asked, [undefined, '"4-1"'])
  assert.equal((await cache.get(ann)).code, '// 2')
  assert.equal(host.asked.length, 2, 'fresh again')
})

test('an unchanged answer renews the entry', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  for (let round = 1; round <= 3; round += 1) {
    clock.ms += 9 * MINUTE
    await cache.get(ann)
    await cache.idle()
  }
  assert.deepEqual(host.asked, [undefined, '"4-1"', '"4-1"', '"4-1"'])
  clock.ms += 4 * SECOND
  await cache.get(ann)
  assert.equal(host.asked.length, 4)
})

test('one revalidation at a time runs in the background', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  const release = Promise.withResolvers<void>()
  host.hold = release.promise
  clock.ms += MINUTE
  for (let call = 0; call < 20; call += 1) await cache.get(ann)
  assert.equal(host.asked.length, 2)
  release.resolve()
  await cache.idle()
})

test('after ten minutes the host is asked first', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  host.code = '// 2'
  clock.ms += CODE_LIMITS.backgroundMs
  assert.equal((await cache.get(ann)).code, '// 2')
})

test('a clock that was set back makes the host be asked', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  host.code = '// 2'
  clock.ms -= HOUR
  assert.equal((await cache.get(ann)).code, '// 2')
})

test('a failing host is stood in for up to a day, and that is logged', async (t) => {
  const { cache, host, clock, stale } = await setUp(t)
  const secret = { tenant: 'ann', url: `${URL_A}?key=secret` }
  await cache.get(secret)
  host.failure = down()
  clock.ms += CODE_LIMITS.staleMs - 1
  assert.equal((await cache.get(secret)).code, '// 1')
  assert.equal(stale.length, 1)
  assert.doesNotMatch(JSON.stringify(stale), /secret/)
  clock.ms += 1
  await assert.rejects(cache.get(secret), { code: 'code_unavailable' }, 'the failure of just now')
  clock.ms += 10 * SECOND
  await assert.rejects(cache.get(secret), { code: 'code_unavailable' })
  host.failure = undefined
  clock.ms += 10 * SECOND
  assert.equal((await cache.get(secret)).code, '// 1')
})

test('a failing host is left alone for two seconds, with and without kept code', async (t) => {
  const { cache, host, clock } = await setUp(t)
  host.failure = down()
  const failing = async () => {
    await assert.rejects(cache.get(ann), { code: 'code_unavailable' })
  }
  await failing()
  clock.ms += CODE_LIMITS.failureMs - 1
  await failing()
  assert.equal(host.asked.length, 1)
  clock.ms += 1
  await failing()
  assert.equal(host.asked.length, 2)
  host.failure = undefined
  clock.ms += CODE_LIMITS.failureMs
  await cache.get(ann)
  host.failure = down()
  for (const age of [MINUTE, 20 * MINUTE]) {
    const before: number = host.asked.length
    clock.ms += age
    for (let call = 0; call < 10; call += 1) assert.equal((await cache.get(ann)).code, '// 1')
    await cache.idle()
    assert.equal(host.asked.length, before + 1, `after ${age} ms`)
  }
})

test('code that its author took away is served for ten minutes at most', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  host.failure = gone()
  clock.ms += CODE_LIMITS.backgroundMs - 1
  assert.equal((await cache.get(ann)).code, '// 1')
  await cache.idle()
  clock.ms += 1
  await assert.rejects(cache.get(ann), { code: 'code_unavailable', message: /404/ })
})

test('a URL that is no longer allowed is not stood in for', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  host.failure = new WebtaskError('bad_request', 'Cannot fetch code from this URL: only https is fetched')
  clock.ms += HOUR
  await assert.rejects(cache.get(ann), { code: 'bad_request' })
})

test('noCache always asks for the whole code, and fails when the host does', async (t) => {
  const { cache, host } = await setUp(t)
  await cache.get(ann)
  host.code = '// 2'
  assert.equal((await cache.get({ ...ann, noCache: true })).code, '// 2')
  assert.equal((await cache.get(ann)).code, '// 2')
  host.failure = down()
  for (let call = 0; call < 3; call += 1) await assert.rejects(cache.get({ ...ann, noCache: true }), { code: 'code_unavailable' })
  assert.deepEqual(host.asked, [undefined, undefined, undefined, undefined, undefined])
  assert.equal((await cache.get(ann)).code, '// 2', 'still fresh')
})

test('an answer to an older question does not replace a newer one', async (t) => {
  const { cache, host, clock } = await setUp(t)
  await cache.get(ann)
  clock.ms += MINUTE
  const release = Promise.withResolvers<void>()
  host.hold = release.promise.then(() => {
    host.code = '// old'
  })
  await cache.get(ann)
  host.hold = undefined
  host.code = '// new'
  assert.equal((await cache.get({ ...ann, noCache: true })).code, '// new')
  release.resolve()
  await cache.idle()
  assert.equal((await cache.get(ann)).code, '// new')
})

test('one tenant never gets what another fetched', async (t) => {
  const { cache, host } = await setUp(t)
  await cache.get(ann)
  host.failure = down()
  await assert.rejects(cache.get(ben), { code: 'code_unavailable' })
  assert.deepEqual(host.asked, [undefined, undefined], 'asked for itself, without the ETag of another')
  await assert.rejects(cache.get({ tenant: `ann","${URL_A}`, url: '' }), { code: 'code_unavailable' })
  assert.equal((await cache.get(ann)).code, '// 1')
})

test('a caller who leaves neither ends nor fails the fetch of the others', async (t) => {
  const { cache, host } = await setUp(t)
  const release = Promise.withResolvers<void>()
  host.hold = release.promise
  const caller = new AbortController()
  const leaving = cache.get({ ...ann, signal: caller.signal })
  const staying = cache.get(ann)
  caller.abort(new Error('left'))
  await assert.rejects(leaving, { message: 'left' })
  await assert.rejects(cache.get({ ...ann, signal: caller.signal }), { message: 'left' })
  release.resolve()
  assert.equal((await staying).code, '// 1')
  assert.equal(host.asked.length, 1)
})

test('when all callers leave, a failing fetch disturbs nobody', async (t) => {
  const { cache, host } = await setUp(t)
  const release = Promise.withResolvers<void>()
  host.hold = release.promise
  host.failure = down()
  const caller = new AbortController()
  const leaving = cache.get({ ...ann, signal: caller.signal })
  await new Promise((resolve) => setImmediate(resolve))
  caller.abort(new Error('left'))
  await assert.rejects(leaving, { message: 'left' })
  release.resolve()
  await cache.idle()
})

test('code with another hash than pinned is never served', async (t) => {
  const { cache, host, clock } = await setUp(t)
  assert.equal((await cache.get({ ...ann, cph: cph('// 1') })).code, '// 1')
  const other = { ...ann, cph: cph('// 2') }
  await assert.rejects(cache.get(other), { code: 'code_unavailable', message: /another hash/ })
  host.code = '// 2'
  clock.ms += 6 * SECOND
  assert.equal((await cache.get(other)).code, '// 2', 'kept code that cannot be served is asked about at once')
  host.failure = down()
  clock.ms += HOUR
  assert.equal((await cache.get(other)).code, '// 2')
  await assert.rejects(cache.get({ ...ann, cph: cph('// 1') }), { code: 'code_unavailable' })
  for (const bad of ['', 'sha256-', `md5-${'a'.repeat(43)}`, `sha256-${'a'.repeat(44)}`, `sha256-${'+'.repeat(43)}`, hashOf('// 2')])
    await assert.rejects(cache.get({ ...ann, cph: bad }), { code: 'bad_request' }, bad)
})

test('after a restart the kept code is there, with its ETag and its age', async (t) => {
  const { cache, host, clock, open } = await setUp(t)
  await cache.get(ann)
  await cache[Symbol.asyncDispose]()
  host.failure = down()
  clock.ms += 23 * HOUR
  await using second = open()
  assert.deepEqual(await second.get(ann), { code: '// 1', sha256: hashOf('// 1') })
  assert.deepEqual(host.asked, [undefined, '"4-1"'])
  await assert.rejects(second.get(ben), { code: 'code_unavailable' })
  assert.deepEqual(await second.byHash(hashOf('// 1')), { code: '// 1', sha256: hashOf('// 1') })
  host.failure = undefined
  clock.ms += 2 * HOUR
  await using third = open()
  assert.equal((await third.get(ann)).code, '// 1')
})

test('kept files are private, and one that was changed is not served', async (t) => {
  const { cache, host, dir, open } = await setUp(t)
  await cache.get(ann)
  await cache.idle()
  const file = path.join(dir, hashOf('// 1').slice(0, 2), hashOf('// 1'))
  assert.equal(await readFile(file, 'utf8'), '// 1')
  for (const kept of await filesIn(dir)) assert.equal((await stat(kept)).mode & 0o777, 0o600)
  assert.equal((await stat(path.dirname(file))).mode & 0o777, 0o700)
  await writeFile(file, '// evil')
  await using second = open()
  assert.equal(await second.byHash(hashOf('// 1')), undefined)
  assert.equal((await second.get(ann)).code, '// 1')
  assert.deepEqual(host.asked, [undefined, undefined], 'without the bytes the ETag is of no use')
})

test('an entry file that is garbage or of another tenant is as good as none', async (t) => {
  const { cache, host, dir, open } = await setUp(t)
  await cache.get(ann)
  await cache.idle()
  const [entry = ''] = (await filesIn(dir)).filter((file) => file.endsWith('.json'))
  const good = await readFile(entry, 'utf8')
  for (const bad of [
    '',
    '{',
    'null',
    '{}',
    good.replace('ann', 'ben'),
    good.replace('a.js', 'b.js'),
    good.replace(hashOf('// 1'), '../../etc/passwd'),
  ]) {
    await writeFile(entry, bad)
    const asked = host.asked.length
    await using again = open()
    assert.equal((await again.get(ann)).code, '// 1')
    assert.equal(host.asked.length, asked + 1, bad)
  }
})

test('a directory that cannot be written costs the memory of restarts, not the service', async (t) => {
  const warned: string[] = []
  const { cache, host } = await setUp(t, {
    dir: path.join(import.meta.filename, 'a-file-is-no-directory'),
    log: { warn: (_, event) => void warned.push(event) },
  })
  assert.equal((await cache.get(ann)).code, '// 1')
  assert.equal((await cache.get(ann)).code, '// 1')
  await cache.idle()
  assert.equal(host.asked.length, 1)
  assert.equal(await cache.byHash('0'.repeat(64)), undefined)
  assert(warned.length > 0 && warned.every((event) => event === 'platform.failed'))
})

test('inline code is found by its hash, and only by a hash', async (t) => {
  const { cache, open } = await setUp(t)
  const kept = cache.put('// inline')
  assert.deepEqual(kept, { code: '// inline', sha256: hashOf('// inline') })
  assert.deepEqual(await cache.byHash(kept.sha256), kept)
  assert.equal(cache.put('// inline'), kept)
  await cache[Symbol.asyncDispose]()
  await using second = open()
  assert.deepEqual(await second.byHash(kept.sha256), kept)
  for (const odd of ['', '..', '../../etc/passwd', hashOf('x').toUpperCase(), 'urls']) assert.equal(await second.byHash(odd), undefined)
})

test('texts that differ in broken characters are not mistaken for each other', async (t) => {
  const { cache } = await setUp(t)
  const [one, two] = [cache.put('"\ud800"'), cache.put('"\ud801"')]
  assert.equal(one.code, '"\ufffd"')
  assert.equal(one.sha256, hashOf(one.code))
  assert.equal(two.code, one.code)
})

test('memory keeps so many bytes, the disk the rest, and what was used last survives on disk', async (t) => {
  const kilobyte = (index: number) => `// ${index}`.padEnd(1000, '.')
  const { cache, dir, open } = await setUp(t, { limits: { memoryBytes: 3000, diskBytes: 10_000 } })
  const hashes = []
  for (let index = 0; index < 30; index += 1) {
    hashes.push(cache.put(kilobyte(index)).sha256)
    await cache.idle()
  }
  const bytes = await Promise.all((await filesIn(dir)).map(async (file) => (await stat(file)).size))
  assert(bytes.reduce((sum, size) => sum + size, 0) <= 10_000)
  assert.equal(await cache.byHash(hashes[0] ?? ''), undefined)
  assert.equal((await cache.byHash(hashes[25] ?? ''))?.code, kilobyte(25), 'out of memory, read from disk')
  await cache[Symbol.asyncDispose]()
  await using smaller = open()
  await smaller.idle()
  assert.equal((await smaller.byHash(hashes[29] ?? ''))?.code, kilobyte(29))
})

test('a start cleans up what is over the limit and what a crash left half written', async (t) => {
  const { cache, dir, open } = await setUp(t, { limits: { diskFiles: 10 } })
  await cache.idle()
  cache.put('// kept')
  await cache.idle()
  const left = path.join(dir, 'tmp', 'left-over')
  await writeFile(left, 'half')
  await utimes(left, 1, 1)
  for (let index = 0; index < 30; index += 1) {
    const file = path.join(dir, `urls-${index}`)
    await writeFile(file, 'x')
    await utimes(file, 1000 + index, 1000 + index)
  }
  await using second = open()
  await second.idle()
  const names = (await filesIn(dir)).map((file) => path.basename(file))
  assert(names.length <= 10 && !names.includes('left-over') && !names.includes('urls-0'))
  assert(names.includes(hashOf('// kept')) && names.includes('urls-29'))
})

test('one tenant with many URLs has eight fetches at once and does not hold up another', async (t) => {
  const { cache, host } = await setUp(t)
  const release = Promise.withResolvers<void>()
  host.hold = release.promise
  // Eight are fetched, 64 wait in line, one is refused; which one depends on the order of the look-ups on disk.
  const many = Array.from({ length: 73 }, (_, index) => cache.get({ tenant: 'ann', url: `https://code.example.com/${index}` }))
  const outcomes = Promise.allSettled(many)
  await assert.rejects(Promise.race(many), { code: 'quota_exceeded' })
  const other = cache.get(ben)
  while (host.asked.length < 9) await new Promise((resolve) => setImmediate(resolve))
  release.resolve()
  assert.equal((await other).code, '// 1')
  assert.equal((await outcomes).filter(({ status }) => status === 'rejected').length, 1)
  assert.equal(host.asked.length, 73)
})
