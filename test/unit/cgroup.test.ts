import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseCpuNanos, parseMemoryBytes } from '../../src/sandbox/cgroup.ts'

test('processor time is read in both layouts of cgroups', () => {
  assert.equal(parseCpuNanos('usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n'), 1_500_000)
  assert.equal(parseCpuNanos('123456789\n'), 123_456_789)
  assert.equal(parseCpuNanos('nonsense'), undefined)
})

test('memory is what cannot be dropped, in both layouts of cgroups', () => {
  assert.equal(parseMemoryBytes('anon 1000\nfile 9000\nshmem 50\ninactive_file 8000\n'), 1050)
  assert.equal(parseMemoryBytes('cache 0\nrss 0\nshmem 0\ntotal_cache 9000\ntotal_rss 2000\ntotal_shmem 70\n'), 2070)
  assert.equal(parseMemoryBytes('nonsense'), undefined)
})
