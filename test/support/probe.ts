import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { sandboxSpec, type SandboxClass } from '../../src/sandbox/spec.ts'
import { docker } from './docker.ts'

/** One system call as a program asks for it: its number and up to six arguments. */
export interface Call {
  readonly number: number
  readonly args?: readonly (number | bigint)[]
}

const WORDS_PER_CALL = 7
/** Where Linux usually puts a program; nothing else is in its address space yet. */
const BASE = 0x40_0000
const HEADERS = 64 + 56

/**
 * A whole x86_64 program that makes the calls one after another, writes what each returned into the file, and exits.
 * Written as bytes, because a machine that runs tests need not have a compiler, and Node makes no call of one's choice.
 */
function assemble(calls: readonly Call[], resultFile: string): Buffer {
  const file = Buffer.from(`${resultFile}\0`)
  const code: number[] = []
  const emit = (...bytes: number[]) => code.push(...bytes)
  const u32 = (value: number) => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >>> 24) & 0xff]
  // The code has a fixed length, so that what follows it can be placed before it is written.
  const codeLength = 113
  const table = BASE + HEADERS + codeLength
  const results = table + calls.length * WORDS_PER_CALL * 8
  const name = results + calls.length * 8
  emit(0xbb, ...u32(table)) // mov ebx, table
  emit(0x41, 0xbd, ...u32(results)) // mov r13d, results
  emit(0x41, 0xbc, ...u32(calls.length)) // mov r12d, count
  const loop = code.length
  emit(0x48, 0x8b, 0x03) // mov rax, [rbx]
  emit(0x48, 0x8b, 0x7b, 8) // mov rdi, [rbx+8]
  emit(0x48, 0x8b, 0x73, 16) // mov rsi, [rbx+16]
  emit(0x48, 0x8b, 0x53, 24) // mov rdx, [rbx+24]
  emit(0x4c, 0x8b, 0x53, 32) // mov r10, [rbx+32]
  emit(0x4c, 0x8b, 0x43, 40) // mov r8, [rbx+40]
  emit(0x4c, 0x8b, 0x4b, 48) // mov r9, [rbx+48]
  emit(0x0f, 0x05) // syscall
  emit(0x49, 0x89, 0x45, 0) // mov [r13], rax
  emit(0x48, 0x83, 0xc3, WORDS_PER_CALL * 8) // add rbx, 56
  emit(0x49, 0x83, 0xc5, 8) // add r13, 8
  emit(0x41, 0xff, 0xcc) // dec r12d
  emit(0x75, 256 - (code.length + 2 - loop)) // jnz loop
  emit(0xb8, ...u32(2), 0xbf, ...u32(name), 0xbe, ...u32(0o1101), 0xba, ...u32(0o644), 0x0f, 0x05) // open(name, WRONLY|CREAT|TRUNC)
  emit(0x89, 0xc7, 0xb8, ...u32(1), 0xbe, ...u32(results), 0xba, ...u32(calls.length * 8), 0x0f, 0x05) // write(it, results)
  emit(0xb8, ...u32(231), 0x31, 0xff, 0x0f, 0x05) // exit_group(0)
  if (code.length !== codeLength) throw new Error(`The probe's code has ${code.length} bytes`)

  const data = Buffer.alloc(calls.length * (WORDS_PER_CALL + 1) * 8)
  calls.forEach(({ number, args = [] }, i) => {
    for (const [j, value] of [number, ...args].entries()) data.writeBigInt64LE(BigInt.asIntN(64, BigInt(value)), (i * WORDS_PER_CALL + j) * 8)
  })
  const size = HEADERS + codeLength + data.length + file.length
  const header = Buffer.alloc(HEADERS)
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  header.writeUInt16LE(2, 16) // an executable
  header.writeUInt16LE(62, 18) // for x86_64
  header.writeUInt32LE(1, 20)
  header.writeBigUInt64LE(BigInt(BASE + HEADERS), 24) // where it starts
  header.writeBigUInt64LE(64n, 32)
  header.writeUInt16LE(64, 52)
  header.writeUInt16LE(56, 54)
  header.writeUInt16LE(1, 56)
  header.writeUInt32LE(1, 64) // one part, loaded from the file
  header.writeUInt32LE(7, 68) // which is read, written and run
  header.writeBigUInt64LE(BigInt(BASE), 80)
  header.writeBigUInt64LE(BigInt(BASE), 88)
  header.writeBigUInt64LE(BigInt(size), 96)
  header.writeBigUInt64LE(BigInt(size), 104)
  header.writeBigUInt64LE(4096n, 112)
  return Buffer.concat([header, Buffer.from(code), data, file])
}

/** What a program did in a container made by the create body of sandboxes. */
export interface Probed {
  readonly exitCode: number
  /** What each call returned: 0 or more, or a negative errno; empty when the program did not come to its end. */
  readonly returned: readonly number[]
}

/**
 * Runs the calls in a container that differs from a sandbox only in the program, in a place to keep it and, where
 * `seccomp` is given, in the filter. /tmp cannot hold the program: nothing there can be executed.
 */
export async function probe(calls: readonly Call[], options: { class: SandboxClass; seccomp?: string }): Promise<Probed> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'wt-probe-'))
  await chmod(directory, 0o777)
  await writeFile(path.join(directory, 'probe'), assemble(calls, '/probe/returned'), { mode: 0o755 })
  const id = `probe${Math.random().toString(16).slice(2, 10)}`
  const body = sandboxSpec({ id, deployment: 'probe', slot: 0, directory, egressDirectory: directory, class: options.class }) as {
    Entrypoint: string[]
    Cmd: string[]
    HostConfig: { Mounts: object[]; SecurityOpt: string[] }
  }
  body.Entrypoint = ['/probe/probe']
  body.Cmd = []
  body.HostConfig.Mounts.push({ Type: 'bind', Source: directory, Target: '/probe' })
  if (options.seccomp !== undefined)
    body.HostConfig.SecurityOpt = body.HostConfig.SecurityOpt.map((opt) => (opt.startsWith('seccomp=') ? `seccomp=${options.seccomp}` : opt))
  const container = await docker.createContainer({ ...body, name: `webtask-probe-${id}` } as never)
  try {
    await container.start()
    const { StatusCode } = (await container.wait()) as { StatusCode: number }
    const bytes = await readFile(path.join(directory, 'returned')).catch(() => Buffer.alloc(0))
    return { exitCode: StatusCode, returned: Array.from({ length: bytes.length / 8 }, (_, i) => Number(bytes.readBigInt64LE(i * 8))) }
  } finally {
    await container.remove({ force: true })
    await rm(directory, { recursive: true, force: true })
  }
}
