import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseConfig } from '../../src/config.ts'
import type { ContainerDriver, EngineInfo } from '../../src/sandbox/driver.ts'
import { checkEngine, ENGINE_CHECKS, engineProblems, isFixedRunc, stopMessage, withOverrides } from '../../src/sandbox/engine-check.ts'

const good: EngineInfo = {
  version: '28.5.2',
  runtimes: ['io.containerd.runc.v2', 'runc', 'runsc'],
  architecture: 'x86_64',
  runcVersion: '1.3.6+ds1',
  securityOptions: ['name=seccomp,profile=builtin'],
  limits: { memory: true, swap: true, pids: true, cpu: true },
  swarm: false,
}
const bad: EngineInfo = {
  ...good,
  runtimes: [],
  architecture: 's390x',
  runcVersion: '1.1.5+ds1',
  securityOptions: [],
  limits: { memory: false, swap: false, pids: false, cpu: false },
}

test('an engine that is as it should be has no problem, under either runtime', () => {
  assert.deepEqual(engineProblems(good, 'runc'), [])
  assert.deepEqual(engineProblems(good, 'runsc'), [])
  assert.deepEqual(engineProblems({ ...good, architecture: 'aarch64' }, 'runc'), [])
})

test('a runc is fixed from 1.2.8, 1.3.3 and 1.4.0 on, each in its own line', () => {
  for (const version of ['1.2.8', '1.2.9', '1.3.3', '1.3.6+ds1', '1.4.0', 'v1.4.1', '1.5.0', '2.0.0', '1.10.0', '1.5.0-rc.1'])
    assert.equal(isFixedRunc(version), true, version)
  for (const version of ['1.0.0-rc93', '1.1.5+ds1', '1.1.15', '1.2.7', '1.2.8-rc.1', '1.3.0', '1.3.2', '1.4.0-rc.2', '0.1.1'])
    assert.equal(isFixedRunc(version), false, version)
  for (const version of [undefined, '', 'N/A', 'main']) assert.equal(isFixedRunc(version), undefined)
})

test('everything that is wrong is found at once, and told in one message that says what to do', () => {
  const problems = engineProblems(bad, 'runc')
  assert.deepEqual(
    problems.map(({ check }) => check),
    ['runtime', ...ENGINE_CHECKS],
  )
  const message = stopMessage(problems)
  assert.equal(message.match(/Cannot start/g)!.length, 1)
  assert.match(message, /has no runtime "runc" \(it has: \)\. Install it, or set WEBTASK_RUNTIME/)
  assert.match(message, /runc 1\.1\.5\+ds1 has known ways out of a container: use 1\.2\.8, 1\.3\.3, 1\.4\.0 or newer, or WEBTASK_RUNTIME=runsc/)
  assert.match(message, /WEBTASK_ALLOW_UNSAFE_ENGINE=runc,seccomp,architecture,memory,swap,pids,cpu$/)
})

test("an engine that does not say its runc's version may have any", () => {
  assert.match(stopMessage(engineProblems({ ...good, runcVersion: undefined }, 'runc')), /does not say which runc/)
})

test('under gVisor neither runc nor seccomp matters, but limits do', () => {
  assert.deepEqual(
    engineProblems({ ...bad, runtimes: ['runsc'] }, 'runsc').map(({ check }) => check),
    ['memory', 'swap', 'pids', 'cpu'],
  )
})

test('an override takes away exactly what it names, and never the missing runtime', () => {
  const problems = engineProblems(bad, 'runc')
  fc.assert(
    fc.property(fc.subarray([...ENGINE_CHECKS]), (allowed) => {
      const { stopping, overridden } = withOverrides(problems, allowed)
      assert.deepEqual(
        overridden.map(({ check }) => check),
        allowed,
      )
      assert.deepEqual(
        stopping.map(({ check }) => check),
        ['runtime', ...ENGINE_CHECKS.filter((check) => !allowed.includes(check))],
      )
    }),
  )
  assert.doesNotMatch(stopMessage(withOverrides(problems, ENGINE_CHECKS).stopping), /ALLOW_UNSAFE/)
})

test('the setting names checks, and no others', () => {
  assert.deepEqual(parseConfig({}).WEBTASK_ALLOW_UNSAFE_ENGINE, [])
  assert.deepEqual(parseConfig({ WEBTASK_ALLOW_UNSAFE_ENGINE: 'runc, swap' }).WEBTASK_ALLOW_UNSAFE_ENGINE, ['runc', 'swap'])
  assert.throws(
    () => parseConfig({ WEBTASK_ALLOW_UNSAFE_ENGINE: 'runc,everything' }),
    /must be a list of runc, seccomp, .* \(got "runc,everything"\)/,
  )
  assert.throws(() => parseConfig({ WEBTASK_ALLOW_UNSAFE_ENGINE: 'runtime' }), /must be a list of/)
})

/** An engine that says `info`, after it could not be reached for a while. */
function engine(info: EngineInfo, unreachable = 0): ContainerDriver {
  let left = unreachable
  return {
    async info() {
      if (left-- > 0) throw new Error('connect ENOENT')
      return info
    },
    imageId: async (image: string) => (image === 'there' ? 'sha256:1' : undefined),
  } as Partial<ContainerDriver> as ContainerDriver
}

test('the check waits for the engine, stops on what is not overridden, and logs what is', async () => {
  const warned: [object, string][] = []
  const waited: string[] = []
  const options = {
    runtime: 'runc' as const,
    image: 'there',
    allowed: [] as const,
    log: { warn: (fields: object, event: string) => warned.push([fields, event]) } as never,
    signal: new AbortController().signal,
    waiting: (reason: string) => waited.push(reason),
  }
  assert.deepEqual(await checkEngine(engine(good, 1), options), { agentImage: 'sha256:1', runtimes: good.runtimes })
  assert.deepEqual(waited, ['connect ENOENT'])
  const old = { ...good, runcVersion: '1.2.7' }
  await assert.rejects(checkEngine(engine(old), options), /runc 1\.2\.7 has known ways out/)
  assert.equal(warned.length, 0)
  assert.deepEqual(await checkEngine(engine(old), { ...options, allowed: ['runc', 'cpu'] as const }), {
    agentImage: 'sha256:1',
    runtimes: old.runtimes,
  })
  assert.deepEqual(
    warned.map(([fields, event]) => [(fields as { check: string }).check, event]),
    [['runc', 'engine.unsafe']],
  )
  await assert.rejects(checkEngine(engine(good), { ...options, image: 'gone' }), /image "gone" is not there: "npm start" builds it/)
})
