/**
 * The system calls that a sandbox may make; every other one is refused. An allowlist of our own, because the engine's
 * default is made for any program and this one runs only Node: 149 calls instead of about 350, and of sockets, ioctl,
 * prctl and clone only the forms named here.
 *
 * How it was got: a program that uses what webtasks can use (files, zlib, crypto, WebAssembly, threads, child processes,
 * unix sockets, SQLite, the profiler, every package of the image) ran in a container made by `spec.ts`, with `strace -f`
 * on it and with the kernel's `raw_syscalls` tracepoint, which also shows what runc and docker-init call once the filter
 * is in place. Then it ran under this profile, and so did the end-to-end tests. `test/docker/seccomp.test.ts` asks for
 * every other call. To renew it, let `defaultAction` be `SCMP_ACT_LOG` and read the lines "type=1326" of the kernel's log.
 *
 * runc applies it; runsc ignores it, since there the code's system calls never reach the machine's kernel.
 */

const FILES = `
  access chdir chmod chown close copy_file_range dup2 fchmod fchmodat fchown fcntl fdatasync fstat fstatfs fsync
  ftruncate getcwd getdents64 inotify_add_watch inotify_init1 inotify_rm_watch lchown link lseek lstat mkdir
  newfstatat open openat openat2 pread64 preadv pwrite64 pwritev read readlink readlinkat rename rmdir sendfile stat
  statfs statx symlink umask unlink unlinkat utimensat write writev
`

const MEMORY = `
  brk madvise mmap mprotect munmap
`

const PROCESSES = `
  execve exit exit_group futex getpgrp getpid getppid getpriority getrusage gettid kill prlimit64 rseq rt_sigaction
  rt_sigprocmask rt_sigreturn rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler set_robust_list
  set_tid_address setpgid setpriority setsid tgkill wait4
`

const CONNECTIONS = `
  accept4 bind connect epoll_create1 epoll_ctl epoll_pwait eventfd2 getpeername getsockname getsockopt listen pipe2
  poll recvfrom recvmsg sendto setsockopt shutdown
`

const KNOWLEDGE = `
  capget clock_nanosleep getegid geteuid getgid getgroups getrandom getuid nanosleep sysinfo uname
`

/** Not seen, but the same thing where the processor, C library, kernel or runc is another: aarch64 has only the `…at` forms. */
const VARIANTS = `
  clock_getres clock_gettime close_range dup dup3 epoll_wait faccessat faccessat2 fchmodat2 fchownat flock
  getcpu getpgid getsid gettimeofday linkat membarrier mkdirat mremap pkey_alloc pkey_free pkey_mprotect ppoll readv
  renameat renameat2 restart_syscall sched_yield sendmsg sigaltstack symlinkat waitid
`

const AF_UNIX = 1
const EPERM = 1
const ENOSYS = 38
/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together: none may be set. */
const CLONE_NEW = 0x7e02_0000

/** Terminal and descriptor questions; TIOCSTI and everything that belongs to a device is not among them. */
const IOCTLS = {
  TCGETS: 0x5401,
  TIOCGPGRP: 0x540f,
  // docker-init asks for it, and gives up on any answer other than ENOTTY.
  TIOCSPGRP: 0x5410,
  TIOCGWINSZ: 0x5413,
  FIONREAD: 0x541b,
  FIONBIO: 0x5421,
  FIONCLEX: 0x5450,
  FIOCLEX: 0x5451,
} as const

const PRCTLS = {
  PR_SET_NAME: 15,
  PR_GET_NAME: 16,
  // Names for anonymous memory: newer C libraries give them.
  PR_SET_VMA: 0x53_56_4d_41,
} as const

type Comparison = { readonly index: number; readonly op: 'SCMP_CMP_EQ' | 'SCMP_CMP_MASKED_EQ'; readonly value: number; readonly valueTwo?: number }

function allow(names: readonly string[], ...args: Comparison[]) {
  return { names, action: 'SCMP_ACT_ALLOW', args }
}

/** The whole 64-bit argument is compared, so bits that the kernel would cut off do not get past. */
function allowValues(name: string, values: readonly number[]) {
  return values.map((value) => allow([name], { index: 0, op: 'SCMP_CMP_EQ', value }))
}

/**
 * The profile as the engine's API takes it, inline in `SecurityOpt`. The engine picks the one architecture that it runs
 * on; the other forms of system calls that a processor has (32 bits, x32) are not in it, and using them ends the caller.
 */
export const SECCOMP_PROFILE = JSON.stringify({
  defaultAction: 'SCMP_ACT_ERRNO',
  defaultErrnoRet: EPERM,
  archMap: [
    { architecture: 'SCMP_ARCH_X86_64', subArchitectures: [] },
    { architecture: 'SCMP_ARCH_AARCH64', subArchitectures: [] },
  ],
  syscalls: [
    allow([FILES, MEMORY, PROCESSES, CONNECTIONS, KNOWLEDGE, VARIANTS].join(' ').trim().split(/\s+/)),
    { ...allow(['arch_prctl']), includes: { arches: ['amd64'] } },
    // No address family but unix: no packet, netlink or vsock socket, none of the kernel's ciphers, and no loopback either.
    ...allowValues('socket', [AF_UNIX]),
    ...allowValues('socketpair', [AF_UNIX]),
    ...Object.values(IOCTLS).map((value) => allow(['ioctl'], { index: 1, op: 'SCMP_CMP_EQ', value })),
    ...allowValues('prctl', Object.values(PRCTLS)),
    allow(['clone'], { index: 0, op: 'SCMP_CMP_MASKED_EQ', value: CLONE_NEW, valueTwo: 0 }),
    // Its flags are in memory, where a filter cannot see them: C libraries fall back to clone.
    { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
  ],
})
