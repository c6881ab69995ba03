import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createBudgetedDriver } from '../../src/sandbox/budgeted.ts'
import { EngineFailure, type ContainerDriver } from '../../src/sandbox/driver.ts'

/** An engine of which each act ends when the test says so. */
function startEngine() {
  const running: { what: string; end(error?: Error): void }[] = []
  const begun: string[] = []
  const act = (what: string) => {
    begun.push(what)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    running.push({
      what,
      end: (error) => {
        running.splice(
          running.findIndex((one) => one.what === what),
          1,
        )
        if (error === undefined) resolve()
        else reject(error)
      },
    })
    return promise
  }
  const engine = {
    create: async (name: string) => {
      await act(`create ${name}`)
      return name
    },
    start: (id: string) => act(`start ${id}`),
    pause: (id: string) => act(`pause ${id}`),
    unpause: (id: string) => act(`unpause ${id}`),
    remove: (id: string) => act(`remove ${id}`),
  } as unknown as ContainerDriver
  return { engine, running, begun, end: (what: string, error?: Error) => running.find((one) => one.what === what)!.end(error) }
}

const turn = () => new Promise(setImmediate)

test('four things at once, creates before thaws before freezes before removals, and removals still go on', async () => {
  const { engine, running, begun, end } = startEngine()
  const driver = createBudgetedDriver(engine, { now: () => 0, processors: 8, booted: async () => {} })
  const all = [driver.remove('r1'), driver.remove('r2'), driver.remove('r3')]
  await turn()
  assert.deepEqual(begun, ['remove r1', 'remove r2', 'remove r3'], 'nothing else wants the engine')
  for (const name of ['a', 'b', 'c']) all.push(driver.create(name, {}) as unknown as Promise<void>)
  all.push(driver.pause('p'), driver.unpause('u'), driver.remove('r4'))
  await turn()
  assert.equal(running.length, 4)
  assert.equal(begun.at(-1), 'create a')
  end('remove r1')
  await turn()
  end('remove r2')
  await turn()
  assert.deepEqual(begun.slice(-2), ['create b', 'create c'])
  end('remove r3')
  await turn()
  assert.equal(begun.at(-1), 'remove r4', 'one place is for removals')
  end('create a')
  await turn()
  await turn()
  assert.equal(begun.at(-1), 'unpause u')
  end('create b')
  await turn()
  await turn()
  assert.equal(begun.at(-1), 'pause p')
  while (running.length > 0) running[0]!.end()
  await Promise.all(all)
})

test('an engine that does not answer is not asked by everybody: after three failures they hear so at once', async () => {
  const { engine, begun, end } = startEngine()
  let now = 0
  const driver = createBudgetedDriver(engine, { now: () => now, processors: 8, booted: async () => {} })
  for (const id of ['1', '2', '3']) {
    const starting = driver.start(id)
    await turn()
    end(`start ${id}`, new EngineFailure('no answer'))
    await assert.rejects(starting, /no answer/)
  }
  await assert.rejects(driver.start('4'), /does not answer/)
  assert.equal(begun.length, 3)
  now = 600
  const trying = driver.start('5')
  await turn()
  await assert.rejects(driver.start('6'), /does not answer/)
  end('start 5')
  await trying
  const after = driver.start('7')
  await turn()
  end('start 7')
  await after
})

test('a container keeps its place until it has booted, though its start was answered', async () => {
  const { engine, begun, end } = startEngine()
  const boots = new Map<string, () => void>()
  const booted = (id: string) => new Promise<void>((resolve) => boots.set(id, resolve))
  const driver = createBudgetedDriver(engine, { now: () => 0, processors: 8, booted })
  const starts = ['1', '2', '3', '4', '5'].map((id) => driver.start(id))
  await turn()
  for (const id of ['1', '2', '3', '4']) end(`start ${id}`)
  await Promise.all(starts.slice(0, 4))
  await turn()
  assert.equal(begun.length, 4, 'four boot')
  boots.get('2')!()
  await turn()
  assert.equal(begun.at(-1), 'start 5')
  end('start 5')
  await starts[4]
})

test('a refusal of the engine is an answer', async () => {
  const { engine, end } = startEngine()
  const driver = createBudgetedDriver(engine, { now: () => 0, processors: 8, booted: async () => {} })
  for (let i = 0; i < 5; i += 1) {
    const starting = driver.start('x')
    await turn()
    end('start x', new Error('no such container'))
    await assert.rejects(starting, /no such container/)
  }
})

test('no more sandboxes are made at a time than there are processors, each started before the next is created, and thaws pass them', async () => {
  const { engine, begun, end } = startEngine()
  const driver = createBudgetedDriver(engine, { now: () => 0, processors: 1, booted: async () => {} })
  const make = async (name: string) => {
    await driver.create(name, {})
    await driver.start(name)
  }
  const made = ['a', 'b'].map(make)
  await turn()
  const thawed = driver.unpause('u')
  await turn()
  assert.deepEqual(begun, ['create a', 'unpause u'])
  for (const step of ['create a', 'start a', 'create b', 'start b']) {
    end(step)
    await turn()
    await turn()
  }
  assert.deepEqual(begun, ['create a', 'unpause u', 'start a', 'create b', 'start b'])
  end('unpause u')
  await Promise.all([...made, thawed])
})
