import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { startDeployment, type Answer, type Deployment } from '../support/deployment.ts'
import { startDns, type DnsServer } from '../support/dns-server.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

/**
 * The sample webtasks that the published client brings, run as they are. They are somebody else's code and some of them
 * attack, so exactly these bytes and no others.
 */
const PACKAGE = 'wt-cli@11.0.2'
const SHA256 = '6b1df1fd6480607abebc8ef0f015dda9f2bf8d0faf51af259023dacb482a4760'

/** No attack may hold another tenant's request back for longer than this (ms); the median stays far below it. */
const NEIGHBOUR_MAX_MS = 1_000
const NEIGHBOUR_MEDIAN_MS = 250
/** A sample that wants a host that there is not must say so at once (ms). */
const NO_HOST_MS = 8_000
/** Processes that stopped code had started must be gone within this time (ms). */
const CHILDREN_GONE_MS = 5_000
/** The default of WEBTASK_SANDBOX_PIDS. */
const PIDS = 128

const run = promisify(execFile)
const HELLO = 'module.exports = cb => cb(null, "hello")'
const FORM = { 'content-type': 'application/x-www-form-urlencoded' }

let folder: string
let samples: string
let runtime: Deployment
/** Knows no name, so that no sample reaches anybody on machines that have a way to the internet. */
let names: DnsServer
const tried = new Set<string>()
const table: { sample: string; asked: string; status: number; answer: string }[] = []

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'wt-samples-'))
  const { stdout } = await run('npm', ['pack', '--silent', '--pack-destination', folder, PACKAGE], { cwd: folder, timeout: 120_000 })
  const tarball = path.join(folder, stdout.trim().split('\n').at(-1)!)
  assert.equal(
    createHash('sha256')
      .update(await readFile(tarball))
      .digest('hex'),
    SHA256,
    `${PACKAGE} is not the package that these tests know`,
  )
  await run('tar', ['-xzf', tarball, '-C', folder])
  samples = path.join(folder, 'package/sample-webtasks')
  names = await startDns({})
  runtime = await startDeployment({ WEBTASK_INVOCATION_MS: '15000', WEBTASK_EGRESS_DNS: names.address })
})

after(async () => {
  await runtime?.[Symbol.asyncDispose]()
  await names?.[Symbol.asyncDispose]()
  await rm(folder, { recursive: true, force: true })
  const lines = table.map(({ sample, asked, status, answer }) => `| ${sample} | ${asked} | ${status} | ${answer.replaceAll('|', '\\|')} |`)
  console.log(['| sample | asked | status | answer |', '|---|---|---|---|', ...lines].join('\n'))
})

async function codeOf(sample: string): Promise<string> {
  tried.add(sample)
  return readFile(path.join(samples, `${sample}.js`), 'utf8')
}

/** Issues a sample under its own name, as `wt create` does; gives the way to ask it. */
async function create(
  sample: string,
  claims: Record<string, unknown> = {},
  on: Deployment = runtime,
): Promise<(sub?: string, options?: Parameters<Deployment['ask']>[1]) => Promise<Answer>> {
  const tenant = String(claims['ten'] ?? 'samples')
  const name = sample.split('/').at(-1)!
  await on.issue({ ten: tenant, jtn: name, code: await codeOf(sample), ...claims })
  return async (sub = '', options = {}) => {
    const answer = await on.ask(`/api/run/${tenant}/${name}${sub}`, { signal: AbortSignal.timeout(20_000), ...options })
    note(sample, `${options.method ?? 'GET'} ${sub}`.trim(), answer)
    return answer
  }
}

function note(sample: string, asked: string, { status, text }: Answer): void {
  let answer = text.replace(/\s+/g, ' ').trim()
  try {
    const { error, message } = JSON.parse(text)
    if (status >= 400) answer = `${error} — ${String(message).split('\n', 1)}`
  } catch {
    // Not JSON: shown as it is.
  }
  table.push({ sample, asked, status, answer: answer.slice(0, 120) })
}

function isJson(answer: Answer, expected: unknown): void {
  assert.equal(answer.status, 200, answer.text)
  assert.match(answer.headers.get('content-type')!, /^application\/json/)
  assert.deepEqual(answer.json(), expected)
}

function isHtml(answer: Answer, expected: string): void {
  assert.equal(answer.status, 200, answer.text)
  assert.match(answer.headers.get('content-type')!, /^text\/html/)
  assert.equal(answer.text.replace(/\s+/g, ''), expected.replace(/\s+/g, ''))
}

/** The code's own failure, told to its author: never the platform's, and not after a long wait. */
async function saysWhy(ask: () => Promise<Answer>, expected: { status: number; message: RegExp }): Promise<void> {
  const began = performance.now()
  const answer = await ask()
  const took = performance.now() - began
  assert.equal(answer.status, expected.status, answer.text)
  const body = answer.json()
  assert.match(body.message, expected.message)
  assert.equal(body.fault, 'tenant')
  assert.ok(took < NO_HOST_MS, `It took ${Math.round(took)} ms to say so`)
}

describe('a published sample answers as its author meant', () => {
  test('hello-world', async () => isJson(await (await create('hello-world'))(), 'Hello, world!'))

  test('es6', async () => isJson(await (await create('es6'))(), 'Welcome to ES6 arrows!'))

  test('es6-template-literals', async () => isHtml(await (await create('es6-template-literals'))('?name=Ann'), '<h1>Howdy, Ann!</h1>'))

  test('json-response', async () => {
    const began = Date.now()
    const answer = await (await create('json-response'))()
    const { now, ...rest } = answer.json()
    isJson(answer, { now, flag: true, name: 'Auth0', amount: 200, details: { history: [1, 2, 3, 4], average: 2.5 } })
    assert.deepEqual(Object.keys(rest), ['flag', 'name', 'amount', 'details'])
    assert.ok(Math.abs(Date.parse(now) - began) < 60_000, `"now" is ${now}`)
  })

  test('url-query-parameter', async () => {
    const ask = await create('url-query-parameter')
    isJson(await ask('?name=Ann%20B'), 'Hello, Ann B')
    isJson(await ask(), 'Hello, Anonymous')
  })

  test('html-response', async () => {
    const ask = await create('html-response')
    const page = (name: string) => `<html><head><title>Welcome to Webtasks</title></head><body><h1>Hello, ${name}</h1></body></html>`
    isHtml(await ask('?name=Ann'), page('Ann'))
    isHtml(await ask(), page('Anonymous'))
    isHtml(await ask(`?name=${encodeURIComponent('<b>')}`), page('&lt;b&gt;'))
  })

  test('httppost', async () => isJson(await (await create('httppost'))('', { method: 'POST', body: 'foo=bar', headers: FORM }), 'Hello, world! bar'))

  test('express, with every method on every path', async () => {
    // Its documentation says --no-parse --no-merge.
    const ask = await create('express', { pb: 0, mb: 0 })
    isJson(await ask(), { id: 1 })
    isJson(await ask('/any/path?x=1'), { id: 1 })
    isJson(await ask('/sample/path', { method: 'POST', body: { deep: { list: [1, 'ä'] } } }), { deep: { list: [1, 'ä'] } })
    isJson(await ask('/x', { method: 'PUT', body: { a: 1 } }), { id: 1 })
    isJson(await ask('/x', { method: 'DELETE' }), { id: 1 })
    const unrouted = await ask('/sample/other', { method: 'POST', body: {} })
    assert.deepEqual([unrouted.status, unrouted.text.includes('Cannot POST')], [404, true], 'what Express itself says')
  })

  test('logging, whose lines appear in the log of the deployment with their tenant', async () => {
    const answer = await (await create('logging'))('?a=1')
    isJson(answer, 'Hello, world')
    const lines = await eventually('both lines in the log', () => {
      const found = events(runtime, 'webtask.output').filter(({ requestId }) => requestId === answer.headers.get('x-request-id'))
      return found.length >= 2 && found
    })
    assert.deepEqual(
      lines.map(({ tenant, line, stream }) => [tenant, line, stream]),
      [
        ['samples', 'foo', 'info'],
        ['samples', "request received { a: '1' }", 'info'],
      ],
    )
  })

  test('bundled-webtask, its two files in one', async () => {
    const ask = await createBundled()
    isJson(await ask('?q=1'), { externalData: { external: 'data' }, query: { q: '1' }, secrets: { secret: 's' } })
    isJson(await ask('', { method: 'POST', body: { a: 1 } }), {
      body: { a: 1 },
      externalData: { external: 'data' },
      query: {},
      secrets: { secret: 's' },
    })
    const waited = await ask('/async')
    assert.deepEqual([waited.status, waited.text], [200, 'OK'])
  })

  test('github-tag-hook, as far as it goes without its host', async () => {
    const ask = await create('github-tag-hook', { pb: 1, ectx: { GITHUB_TOKEN: 'secret' } })
    const push = (ref: string, file: string) =>
      ask('', {
        method: 'POST',
        body: { ref, before: 'b', after: 'a', repository: { full_name: 'ann/x' }, commits: [{ id: 'c1', added: [], modified: [file] }] },
      })
    isJson(await push('refs/heads/other', 'package.json'), 'Push event does not affect the ref `refs/heads/master`.')
    isJson(await push('refs/heads/master', 'README.md'), 'Commits `c1` do not affect the file `package.json`.')
    await saysWhy(() => ask(), { status: 400, message: /must be created with the `--parse` flag/ })
    await saysWhy(() => push('refs/heads/master', 'package.json'), { status: 400, message: /github\.com/ })
  })
})

describe('a sample that needs what is not there says so itself, without a long wait', () => {
  test('request: no such host', async () => saysWhy(await create('request'), { status: 400, message: /auth0\.com/ }))

  test('google-places-api: no such host', async () => {
    const ask = await create('google-places-api', { ectx: { gpakey: 'secret' } })
    await saysWhy(() => ask('', { method: 'POST', body: 'longitude=100.5&latitude=13.7&radius=100', headers: FORM }), {
      status: 400,
      message: /maps\.googleapis\.com/,
    })
  })

  test('mongodb: no secret, then no such host', async () => {
    await saysWhy(await create('mongodb'), { status: 400, message: /^MONGO_URL secret is missing$/ })
    const ask = await create('mongodb', { ectx: { MONGO_URL: 'mongodb://webtask:supersecret@db.example.com:47592/webtask-examples' } })
    await saysWhy(ask, { status: 400, message: /^failed to connect to server \[db\.example\.com:47592\]/ })
  })

  test('unverified-emails: no parameter, then no such host', async () => {
    await saysWhy(await create('unverified-emails'), { status: 400, message: /^Missing parameter AUTH0_TENANT$/ })
    const ask = await create('unverified-emails', { pctx: { AUTH0_TENANT: 'acme' }, ectx: { AUTH0_JWT: 'secret' } })
    await saysWhy(ask, { status: 400, message: /acme\.auth0\.com/ })
  })

  test('csharp: no Edge.js in the image', async () => saysWhy(await create('csharp'), { status: 500, message: /^Cannot find module 'edge'/ }))

  test('counter: no storage yet', async () => saysWhy(await create('counter'), { status: 400, message: /^Storage is not available yet$/ }))
})

describe('a sample that attacks hurts nobody else, and its tenant can go on', () => {
  let attacked: Deployment

  before(async () => {
    attacked = await startDeployment({ WEBTASK_INVOCATION_MS: '2000' })
    for (const ten of ['attacker', 'neighbour']) {
      await attacked.issue({ ten, jtn: 'hello', code: HELLO })
      assert.equal((await attacked.ask(`/api/run/${ten}/hello`)).text, '"hello"')
    }
  })

  after(() => attacked?.[Symbol.asyncDispose]())

  /** Attacks while a neighbour asks and asks; gives the attacker's answer when all that must hold around it has held. */
  async function attack(ask: () => Promise<Answer>): Promise<Answer> {
    const stop = new AbortController()
    const neighbour = neighbourOf(attacked, stop.signal)
    let answer: Answer
    try {
      answer = await ask()
      // What the attack left behind may hurt as well.
      for (let i = 0; i < 20; i += 1) await attacked.ask('/api/run/neighbour/hello')
    } finally {
      stop.abort()
    }
    const times = await neighbour
    assert.ok(times.at(-1)! < NEIGHBOUR_MAX_MS, `A neighbour waited ${times.at(-1)} ms`)
    assert.ok(times[times.length >> 1]! < NEIGHBOUR_MEDIAN_MS, `Half of the neighbours waited over ${times[times.length >> 1]} ms`)
    return answer
  }

  /** What was loaded before, and what is new. */
  async function goesOn(): Promise<void> {
    const loaded = await attacked.ask('/api/run/attacker/hello')
    assert.deepEqual([loaded.status, loaded.text], [200, '"hello"'], 'a webtask that was loaded before')
    for (let nth = 1; nth <= 8; nth += 1) {
      const fresh = await attacked.run('attacker', `module.exports = cb => cb(null, 'new ${performance.now()}')`)
      assert.equal(fresh.status, 200, `Webtask ${nth} that is loaded after the attack: ${fresh.text}`)
    }
  }

  test('attack-cpu: 504, and the next webtask of the tenant works', async () => {
    const answer = await attack(await create('attack-cpu', { ten: 'attacker' }, attacked))
    assert.deepEqual([answer.status, answer.json().error, answer.json().fault], [504, 'invocation_timeout', 'tenant'])
    await goesOn()
  })

  test("attack-ram: stopped as the code's own failure, and the next webtask of the tenant works", async () => {
    const answer = await attack(await create('attack-ram', { ten: 'attacker' }, attacked))
    assert.ok(answer.status === 500 || (answer.status === 502 && answer.json().error === 'memory_limit'), answer.text)
    assert.equal(answer.json().fault, 'tenant')
    await goesOn()
  })

  test('attack-forkbomb: contained, and the next webtask of the tenant works', async () => {
    const { answer, most } = await bomb(await create('attack-forkbomb', { ten: 'attacker' }, attacked))
    assert.ok([500, 502, 504].includes(answer.status), answer.text)
    assert.equal(answer.json().fault, 'tenant')
    assert.ok(most <= PIDS, `${most} processes and threads`)
    await goesOn()
  })

  // There is no `node` on the sample's search path, so that it fails at its first child: this one finds it.
  test('attack-forkbomb that does find node: contained by the limit of processes, and the next webtask of the tenant works', async () => {
    const code = (await codeOf('attack-forkbomb')).replace("spawn('node'", 'spawn(process.execPath')
    const sharp = await attacked.issue({ ten: 'attacker', code })
    const { answer, most } = await bomb(async () => {
      const answer = await attacked.ask('/api/run/attacker', { method: 'POST', token: sharp })
      note('attack-forkbomb', 'with process.execPath', answer)
      return answer
    })
    assert.ok([500, 502, 504].includes(answer.status), answer.text)
    assert.equal(answer.json().fault, 'tenant')
    assert.ok(most > PIDS / 2, `It came to only ${most} processes and threads, so that nothing was tested`)
    assert.ok(most <= PIDS, `${most} processes and threads`)
    // Whether they are ended or their container is: what the code started ends with the code.
    await eventually('the children of the stopped code to be gone', async () => (await alive()) === 0, CHILDREN_GONE_MS)
    await goesOn()
  })

  /** Attacks, and gives the most processes and threads that the engine saw in a sandbox until after the answer. */
  async function bomb(ask: () => Promise<Answer>): Promise<{ answer: Answer; most: number }> {
    let most = 0
    const look = async () => {
      most = Math.max(most, await busiest())
    }
    const stop = new AbortController()
    const watching = (async () => {
      while (!stop.signal.aborted) await look()
    })()
    const answer = await attack(ask).finally(() => stop.abort())
    await watching
    await look()
    return { answer, most }
  }

  /** Processes beside init and agent in all sandboxes. Those that are dead and not yet collected do nothing any more. */
  async function alive(): Promise<number> {
    const counts = (await containersOf(attacked.id, 'sandbox')).map(async ({ Id }) => {
      const top = (await docker
        .getContainer(Id)
        .top({ ps_args: '-eo pid,stat' })
        .catch(() => undefined)) as { Processes: string[][] } | undefined
      return Math.max(0, (top?.Processes ?? []).filter(([, state]) => !state!.startsWith('Z')).length - 2)
    })
    return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0)
  }

  /** Processes and threads, as the engine counts them, in the sandbox that has most. */
  async function busiest(): Promise<number> {
    const counts = (await containersOf(attacked.id, 'sandbox')).map(async ({ Id }) => {
      const stats = (await docker
        .getContainer(Id)
        .stats({ stream: false, 'one-shot': true })
        .catch(() => undefined)) as { pids_stats?: { current?: number } } | undefined
      return stats?.pids_stats?.current ?? 0
    })
    return Math.max(0, ...(await Promise.all(counts)))
  }
})

test('no sample was left out', async () => {
  const names = (await readdir(samples, { withFileTypes: true }))
    .filter((entry) => entry.isDirectory() || entry.name.endsWith('.js'))
    .map(({ name }) => name.replace(/\.js$/, ''))
  assert.ok(names.length >= 20)
  assert.deepEqual(
    names.filter((name) => !tried.has(name)),
    [],
  )
})

/** `wt create --bundle` joins files before it sends them; so does this, with less ado. */
async function createBundled(): ReturnType<typeof create> {
  const read = (file: string) => readFile(path.join(samples, 'bundled-webtask', file), 'utf8')
  tried.add('bundled-webtask')
  const code = `const files = { './data': (module) => {${await read('data.js')}\n} }
const bundled = (name) => { if (!files[name]) return require(name); const made = { exports: {} }; files[name](made); return made.exports }
;((require) => {${await read('index.js')}\n})(bundled)`
  await runtime.issue({ ten: 'samples', jtn: 'bundled-webtask', code, ectx: { secret: 's' } })
  return async (sub = '', options = {}) => {
    const answer = await runtime.ask(`/api/run/samples/bundled-webtask${sub}`, options)
    note('bundled-webtask', `${options.method ?? 'GET'} ${sub}`.trim(), answer)
    return answer
  }
}

function events(deployment: Deployment, name: string): Record<string, unknown>[] {
  return deployment
    .output()
    .split('\n')
    .filter((line) => line.startsWith('{') && line.endsWith('}'))
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ msg }) => msg === name)
}

/** Another tenant, one request after the other until the signal; gives how long each took, the shortest first. Fails at the first bad answer. */
async function neighbourOf(deployment: Deployment, signal: AbortSignal): Promise<number[]> {
  const times: number[] = []
  while (!signal.aborted) {
    const began = performance.now()
    const answer = await deployment.ask('/api/run/neighbour/hello')
    times.push(Math.round(performance.now() - began))
    assert.equal(answer.status, 200, `A neighbour was hurt: ${answer.text}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return times.toSorted((a, b) => a - b)
}
