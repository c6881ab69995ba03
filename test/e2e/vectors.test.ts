import assert from 'node:assert/strict'
import path from 'node:path'
import { after, before, test, type TestContext } from 'node:test'
import type { Claims } from '../../src/token/claims.ts'
import { loadKeyring } from '../../src/token/key-file.ts'
import { mergeObjects } from '../../src/token/plain-json.ts'
import { newTokenId, signToken } from '../../src/token/sign.ts'
import { startDeployment, type Answer, type Deployment } from '../support/deployment.ts'
import { VECTORS } from '../support/vectors.ts'

let runtime: Deployment
before(async () => {
  runtime = await startDeployment()
})
after(() => runtime?.[Symbol.asyncDispose]())

/** Asks several at once; every answer must be the uniform 401. Says how long answers took. */
async function allRefused(t: TestContext, asks: readonly { what: string; ask: () => Promise<Answer> }[]): Promise<void> {
  const times: number[] = []
  const queue = [...asks]
  const worker = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const began = performance.now()
      const answer = await next.ask()
      times.push(performance.now() - began)
      assert.equal(answer.status, 401, `${next.what}: ${answer.text}`)
      assert.equal(answer.json().error, 'token_invalid', next.what)
    }
  }
  await Promise.all([worker(), worker()])
  times.sort((a, b) => a - b)
  t.diagnostic(`${times.length} requests, all 401, p99 ${times[Math.ceil(times.length * 0.99) - 1]!.toFixed(1)} ms`)
}

const run = (token: string, how: 'header' | 'key') =>
  runtime.ask(`/api/run/acme${how === 'key' ? `?key=${encodeURIComponent(token)}` : ''}`, {
    method: 'POST',
    body: "module.exports = cb => cb(null, 'ran')",
    ...(how === 'header' ? { token } : {}),
  })

test('no vector is taken for a token by a running gateway, in the header or as key', async (t) => {
  const asks = [...VECTORS.jws, ...VECTORS.jwe].flatMap(({ from, name, text }) => [
    { what: `${from}: ${name}, key`, ask: () => run(text, 'key') },
    // Not every text can stand in a header, and none at all is no token.
    ...(/^[\x20-\x7e]+$/.test(text) ? [{ what: `${from}: ${name}, header`, ask: () => run(text, 'header') }] : []),
    { what: `${from}: ${name}, issue`, ask: () => runtime.ask(`/api/tokens/issue?key=${encodeURIComponent(text)}`, { method: 'POST', body: {} }) },
  ])
  await allRefused(t, asks)
})

test('no vector is taken for the secrets of a token, even in one signed with the keys of the deployment', async (t) => {
  const keyring = await loadKeyring(path.join(runtime.dataDir, 'keys'), { create: false, now: 0 })
  const issuer = `webtask:${runtime.id}`
  const claims: Claims = {
    jti: newTokenId(),
    iat: Math.floor(Date.now() / 1000),
    ca: [],
    ten: ['acme'],
    url: 'webtask://localhost/api/data/code/acme%2Fnothing',
    pctx: mergeObjects(),
    dd: 1,
    dr: 0,
    mb: 0,
    pb: 2,
    limits: {},
  }
  const good = await runtime.ask('/api/tokens/issue', { method: 'POST', token: await signToken({ ...claims, dd: 2 }, { keyring, issuer }), body: {} })
  assert.equal(good.status, 200, 'without secrets the same token is good')
  const asks = []
  for (const { name, text } of VECTORS.jwe) {
    const token = await signToken({ ...claims, ectx: text }, { keyring, issuer }).catch(() => undefined)
    if (token === undefined) continue
    asks.push({ what: `${name}, run`, ask: () => run(token, 'header') })
    asks.push({ what: `${name}, issue`, ask: () => runtime.ask('/api/tokens/issue', { method: 'POST', token, body: {} }) })
  }
  assert.ok(asks.length > 300, `${asks.length} fit into a token`)
  await allRefused(t, asks)
})
