import { Buffer } from 'node:buffer'
import { lstat, open, readdir, readFile, readlink, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Redis } from 'ioredis'
import { readLive } from '../../src/sandbox/posture/read.ts'
import { docker } from './docker.ts'

/** Something that a secret could have got into: where it is, and what is there. */
export interface Piece {
  readonly where: string
  readonly bytes: Uint8Array
}

type Pieces = AsyncIterable<Piece>

/** Where `secret` is found among the pieces, as itself or in an encoding that somebody may have put around it, and how much was searched. */
export async function sweep(secret: string, pieces: Pieces): Promise<{ found: string[]; pieces: number; bytes: number }> {
  const needles = formsOf(secret)
  const found: string[] = []
  let count = 0
  let size = 0
  for await (const { where, bytes } of pieces) {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    count += 1
    size += buffer.length
    const forms = needles.filter(({ bytes: needle }) => buffer.includes(needle)).map(({ form }) => form)
    for (const form of new Set(forms)) if (form !== 'part' || !forms.includes('plain')) found.push(`${where} (${form})`)
  }
  return { found, pieces: count, bytes: size }
}

/** So many characters in a row are no chance. */
const PART = 8

/**
 * The texts to look for. Base64 of a text depends on what stands before it, so all three alignments are made, without the characters
 * that depend on neighbours. A secret of letters and digits is the same in JSON, URLs and shells.
 */
function formsOf(secret: string): { form: string; bytes: Buffer }[] {
  if (!/^[a-zA-Z0-9]{24,}$/.test(secret)) throw new Error('A sentinel has at least 24 letters and digits, so that it occurs nowhere by chance')
  const forms = [
    { form: 'plain', bytes: Buffer.from(secret) },
    { form: 'utf-16', bytes: Buffer.from(secret, 'utf16le') },
    { form: 'hex', bytes: Buffer.from(Buffer.from(secret).toString('hex')) },
    { form: 'HEX', bytes: Buffer.from(Buffer.from(secret).toString('hex').toUpperCase()) },
    { form: 'backwards', bytes: Buffer.from([...secret].toReversed().join('')) },
  ]
  // An error message may quote a little of what it is about.
  for (let start = 0; start + PART <= secret.length; start += 1) forms.push({ form: 'part', bytes: Buffer.from(secret.slice(start, start + PART)) })
  for (const before of [0, 1, 2]) {
    const encoded = Buffer.from(' '.repeat(before) + secret).toString('base64url')
    // The first and last groups of four mix with what is around.
    forms.push({ form: `base64 +${before}`, bytes: Buffer.from(encoded.slice(4, -4)) })
  }
  return forms
}

export async function* texts(where: string, all: Iterable<string>): Pieces {
  let index = 0
  for (const text of all) yield { where: `${where} ${(index += 1)}`, bytes: Buffer.from(text) }
}

/** What the engine tells of every container and network, and its log of each. */
export async function* inspections(): Pieces {
  for (const { Id } of await docker.listContainers({ all: true })) {
    const container = docker.getContainer(Id)
    const inspected = await container.inspect().catch(() => undefined)
    if (inspected === undefined) continue
    yield { where: `docker inspect ${inspected.Name}`, bytes: Buffer.from(JSON.stringify(inspected)) }
    const logs = await container.logs({ stdout: true, stderr: true }).catch(() => Buffer.alloc(0))
    yield { where: `docker logs ${inspected.Name}`, bytes: logs }
  }
}

/** What the engine said since a moment in unix seconds. */
export async function* events(since: number): Pieces {
  const stream = await docker.getEvents({ since, until: Math.ceil(Date.now() / 1000) })
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(Buffer.from(chunk as Uint8Array))
  yield { where: 'docker events', bytes: Buffer.concat(chunks) }
}

/** Command lines and environments of every process of the machine, those in containers included. */
export async function* processes(): Pieces {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    for (const part of ['cmdline', 'environ']) {
      const bytes = await readFile(`/proc/${pid}/${part}`).catch(() => undefined)
      if (bytes !== undefined) yield { where: `/proc/${pid}/${part}`, bytes }
    }
  }
}

/** Every key and value, as it is read and as it is dumped; keys and jobs of BullMQ are among them. */
export async function* redisValues(redis: Redis): Pieces {
  // Dumps and snapshots of long values would be compressed, and hide what is in them.
  await redis.config('SET', 'rdbcompression', 'no')
  for await (const keys of redis.scanBufferStream() as AsyncIterable<Buffer[]>) {
    for (const key of keys) {
      const where = `redis key ${key.toString()}`
      yield { where, bytes: key }
      for (const value of await valuesOf(redis, key)) yield { where, bytes: value }
      const dump = await redis.dumpBuffer(key)
      if (dump !== null) yield { where: `${where} (dump)`, bytes: dump }
    }
  }
}

async function valuesOf(redis: Redis, key: Buffer): Promise<Buffer[]> {
  const read: Record<string, () => Promise<unknown>> = {
    string: () => redis.getBuffer(key),
    hash: () => redis.callBuffer('HGETALL', key),
    list: () => redis.callBuffer('LRANGE', key, '0', '-1'),
    set: () => redis.callBuffer('SMEMBERS', key),
    zset: () => redis.callBuffer('ZRANGE', key, '0', '-1'),
    stream: () => redis.callBuffer('XRANGE', key, '-', '+'),
  }
  const type = await redis.type(key)
  return type === 'none' ? [] : buffersIn(await read[type]!())
}

function buffersIn(value: unknown): Buffer[] {
  if (Buffer.isBuffer(value)) return [value]
  return Array.isArray(value) ? value.flatMap(buffersIn) : []
}

/** Every file below a directory, whoever owns it; sockets and links are not followed. Names count as well. */
export async function* files(directory: string): Pieces {
  const names = await readdir(directory, { recursive: true }).catch(() => [])
  yield { where: `names in ${directory}`, bytes: Buffer.from(names.join('\n')) }
  for (const name of names) yield* file(path.join(directory, name))
}

/** Core files where the kernel or the engine would leave them. Their pattern is a path, or a name in the directory of whoever crashed. */
export async function* coreFiles(directories: readonly string[]): Pieces {
  const pattern = (await readFile('/proc/sys/kernel/core_pattern', 'utf8')).trim()
  const places = [...directories, '/', '/var/crash', '/var/lib/systemd/coredump', ...(pattern.startsWith('/') ? [path.dirname(pattern)] : [])]
  yield { where: 'core pattern', bytes: Buffer.from(pattern) }
  for (const place of new Set(places)) {
    const names = await readdir(place).catch(() => [])
    for (const name of names.filter((each) => /^core(\.|$)|crash|\.core$/.test(each))) yield* file(path.join(place, name))
  }
}

/** What the engine keeps on disk of a deployment's containers: their configuration, logs and writable layers. */
export async function* engineFiles(ids: readonly string[]): Pieces {
  const { DockerRootDir: root } = (await docker.info()) as { DockerRootDir: string }
  for (const id of ids) {
    yield* files(path.join(root, 'containers', id))
    const inspected = (await docker
      .getContainer(id)
      .inspect()
      .catch(() => undefined)) as { GraphDriver?: { Data?: Record<string, string> } } | undefined
    const upper = inspected?.GraphDriver?.Data?.['UpperDir']
    if (upper !== undefined) yield* files(upper)
  }
}

/** The only writable place of each sandbox, seen through its process. */
export async function* sandboxTmp(ids: readonly string[]): Pieces {
  for (const id of ids) {
    const pid = (
      await docker
        .getContainer(id)
        .inspect()
        .catch(() => undefined)
    )?.State.Pid
    if (pid) yield* files(`/proc/${pid}/root/tmp`)
  }
}

/** The whole memory of every process of each sandbox; of gVisor also the file in which it keeps the memory of what runs there. */
export async function* memory(ids: readonly string[]): Pieces {
  const files = new Set<number>()
  for (const id of ids) {
    const inspected = await docker
      .getContainer(id)
      .inspect()
      .catch(() => undefined)
    // Sandboxes come and go meanwhile.
    if (!inspected?.State.Running) continue
    for (const { pid, name } of (await readLive(inspected.State.Pid)).processes) {
      yield* chunks(`/proc/${pid}/mem`, `memory of ${name} (${pid})`, await pagesOf(pid))
      for (const fd of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
        const link = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')
        const { ino, size } = link.startsWith('/memfd:') ? await stat(`/proc/${pid}/fd/${fd}`) : { ino: 0, size: 0 }
        if (size === 0 || files.has(ino)) continue
        files.add(ino)
        yield* chunks(`/proc/${pid}/fd/${fd}`, `memory kept by ${name} (${pid})`, [[0, size]])
      }
    }
  }
}

const PAGE = 4096

/** Ranges of addresses that have pages: reading others would make some, at the expense of the sandbox. */
async function pagesOf(pid: number): Promise<[number, number][]> {
  const lines = (await readFile(`/proc/${pid}/maps`, 'latin1').catch(() => '')).split('\n')
  await using map = await open(`/proc/${pid}/pagemap`)
  const ranges: [number, number][] = []
  for (const line of lines) {
    const [, from, to] = /^([\da-f]+)-([\da-f]+) r(?!.*\[v)/.exec(line) ?? []
    if (from === undefined || to === undefined) continue
    const [first, end] = [Number.parseInt(from, 16) / PAGE, Number.parseInt(to, 16) / PAGE]
    for (let block = first; block < end; block += 131_072) {
      const entries = Buffer.alloc(Math.min(131_072, end - block) * 8)
      await map.read(entries, 0, entries.length, block * 8)
      for (let page = 0; page < entries.length / 8; page += 1) {
        // Bits 63 and 62: in memory, or swapped out.
        if (entries[page * 8 + 7]! < 0x40) continue
        const at = (block + page) * PAGE
        const last = ranges.at(-1)
        if (last?.[1] === at) last[1] = at + PAGE
        else ranges.push([at, at + PAGE])
      }
    }
  }
  return ranges
}

/** Pieces of this size overlap by more than any form of a secret is long (bytes). */
const CHUNK = 1024 * 1024
const OVERLAP = 4096

async function* chunks(path: string, where: string, ranges: readonly (readonly [number, number])[]): Pieces {
  await using handle = await open(path)
  const buffer = Buffer.alloc(CHUNK)
  const nothing = Buffer.alloc(CHUNK)
  for (const [from, to] of ranges) {
    for (let at = from; at < to; at += CHUNK - OVERLAP) {
      // Gone since it was listed, or memory that nobody may read.
      const { bytesRead } = await handle.read(buffer, 0, Math.min(CHUNK, to - at), at).catch(() => ({ bytesRead: 0 }))
      if (buffer.compare(nothing, 0, bytesRead, 0, bytesRead) !== 0) yield { where, bytes: buffer.subarray(0, bytesRead) }
    }
  }
}

async function* file(name: string): Pieces {
  try {
    if (!(await lstat(name)).isFile()) return
    await using handle = await open(name)
    yield { where: name, bytes: await handle.readFile() }
  } catch {
    // Gone since it was listed: temporary files of others come and go.
  }
}
