import assert from 'node:assert/strict'
import { createHmac, generateKeyPairSync, sign } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startDeployment, type Answer, type Deployment } from '../support/deployment.ts'
import { eventually } from '../support/docker.ts'

let runtime: Deployment
let host: Server
let hostUrl: string
const pages = new Map<string, (incoming: IncomingMessage, outgoing: ServerResponse) => void>()
const visits: { path: string; etag: string | undefined; authorization: string | undefined }[] = []
let names = 0

before(async () => {
  host = createServer((incoming, outgoing) => {
    visits.push({ path: incoming.url!, etag: incoming.headers['if-none-match'], authorization: incoming.headers.authorization })
    const page = pages.get(incoming.url!)
    if (page === undefined) outgoing.writeHead(404).end()
    else page(incoming, outgoing)
  })
  host.listen(0, '127.0.0.1')
  await once(host, 'listening')
  const { port } = host.address() as AddressInfo
  hostUrl = `http://127.0.0.1:${port}`
  runtime = await startDeployment({ WEBTASK_CODE_HOSTS: `127.0.0.1:${port}` })
})

after(async () => {
  await runtime?.[Symbol.asyncDispose]()
  host.closeAllConnections()
  host.close()
})

const HELLO = "module.exports = cb => cb(null, 'hello')"
const SHOW =
  'module.exports = (ctx, cb) => cb(null, { data: ctx.data, body: ctx.body, raw: ctx.body_raw, params: ctx.params, secrets: ctx.secrets, meta: ctx.meta, token: ctx.token })'
const now = () => Math.floor(Date.now() / 1000)
const fresh = (stem: string) => `${stem}-${++names}`

function claimsOf(token: string): Record<string, any> {
  return JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString('utf8'))
}

/** The token with other claims under its old signature. */
function altered(token: string, change: Record<string, unknown>): string {
  const [header, , signature] = token.split('.')
  return [header, encode({ ...claimsOf(token), ...change }), signature].join('.')
}

function encode(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

function issuing(claims: unknown, token = runtime.master): Promise<Answer> {
  return runtime.ask('/api/tokens/issue', { method: 'POST', token, body: claims })
}

async function inspect(token: string, query = '', by = runtime.master): Promise<Record<string, any>> {
  const answer = await runtime.ask(`/api/tokens/inspect?token=${token}${query}`, { token: by })
  assert.equal(answer.status, 200, answer.text)
  return answer.json()
}

function revoking(token: string, by = runtime.master): Promise<Answer> {
  return runtime.ask(`/api/tokens/revoke?token=${token}`, { method: 'POST', token: by })
}

function running(container: string, token: string, code?: string, query = ''): Promise<Answer> {
  return runtime.ask(`/api/run/${container}${query}`, { method: 'POST', token, ...(code === undefined ? {} : { body: code }) })
}

function refused(answer: Answer, status: number, error: string, message: RegExp): void {
  assert.equal(answer.status, status, answer.text)
  const problem = answer.json()
  assert.equal(problem.error, error)
  assert.equal(problem.code, status)
  assert.match(problem.message, message)
}

/** Every place that takes a token as proof of who asks. */
async function answersToCredential(token: string): Promise<Answer[]> {
  const key = encodeURIComponent(token)
  return Promise.all([
    running('acme', token, HELLO),
    runtime.ask(`/api/run/acme?key=${key}`, { method: 'POST', body: HELLO }),
    issuing({ ten: 'acme' }, token),
    runtime.ask(`/api/tokens/issue?key=${key}`, { method: 'POST', body: { ten: 'acme' } }),
    runtime.ask(`/api/tokens/inspect?token=${runtime.master}`, { token }),
    runtime.ask(`/api/tokens/revoke?token=${runtime.master}`, { method: 'POST', token }),
  ])
}

describe('issuing', () => {
  test('answers with the bare token as plain text, readable as a JWS that is no "JWT"', async () => {
    const answer = await issuing({ ten: 'acme' })
    assert.equal(answer.status, 200)
    assert.match(answer.headers.get('content-type')!, /^text\/plain/)
    assert.equal(answer.headers.get('location'), null)
    assert.match(answer.headers.get('x-request-id')!, /^[\d.]+$/)
    const [header] = answer.text.split('.')
    const { alg, typ } = JSON.parse(Buffer.from(header!, 'base64url').toString())
    assert.deepEqual({ alg, typ }, { alg: 'Ed25519', typ: 'wt+jwt' })
    const { ten, jti, iat, ca, dd } = claimsOf(answer.text)
    assert.deepEqual({ ten, ca, dd }, { ten: 'acme', ca: [claimsOf(runtime.master).jti], dd: 0 })
    assert.match(jti, /^[0-9a-f]{32}$/)
    assert.ok(Math.abs(iat - now()) < 10)
  })

  test('a named webtask gets its public URL in Location, and that URL runs it for anybody', async () => {
    const name = fresh('hello')
    const answer = await issuing({ ten: 'acme', jtn: name, code: HELLO })
    assert.equal(answer.status, 200)
    assert.equal(answer.headers.get('location'), `${runtime.url}/api/run/acme/${name}`)
    assert.deepEqual(
      { jtn: claimsOf(answer.text).jtn, url: claimsOf(answer.text).url },
      { jtn: name, url: `webtask://localhost/api/data/code/acme%2F${name}` },
    )
    const run = await fetch(answer.headers.get('location')!)
    assert.equal(await run.text(), '"hello"')
  })

  test('issuing the same name again replaces code, secrets and metadata at once', async () => {
    const name = fresh('again')
    await runtime.issue({ ten: 'acme', jtn: name, code: SHOW, ectx: { s: '1' }, meta: { m: '1' } })
    assert.deepEqual((await runtime.ask(`/api/run/acme/${name}`)).json().secrets, { s: '1' })
    await runtime.issue({ ten: 'acme', jtn: name, code: SHOW, ectx: { s: '2' }, meta: { m: '2' } })
    const { secrets, meta } = (await runtime.ask(`/api/run/acme/${name}`)).json()
    assert.deepEqual({ secrets, meta }, { secrets: { s: '2' }, meta: { m: '2' } })
    await runtime.issue({ ten: 'acme', jtn: name, code: HELLO })
    assert.equal((await runtime.ask(`/api/run/acme/${name}`)).text, '"hello"')
  })

  test('the key parameter serves as well as the Authorization header', async () => {
    const answer = await runtime.ask(`/api/tokens/issue?key=${runtime.master}`, { method: 'POST', body: { ten: 'acme' } })
    assert.equal(answer.status, 200)
    assert.equal(claimsOf(answer.text).ten, 'acme')
  })

  test('numbers that arrive as strings count as numbers', async () => {
    const exp = now() + 3600
    const token = await runtime.issue({ ten: 'acme', exp: String(exp), nbf: '1', dd: '0', dr: '1', pb: '1', mb: '1', ls: '5', lto: '100' })
    const { exp: end, nbf, dd, dr, pb, mb, ls, lto } = claimsOf(token)
    assert.deepEqual({ end, nbf, dd, dr, pb, mb, ls, lto }, { end: exp, nbf: 1, dd: 0, dr: 1, pb: 1, mb: 1, ls: 5, lto: 100 })
    assert.equal((await running('acme', token, HELLO)).text, '"hello"')
    refused(await issuing({ ten: 'acme', exp: 'soon' }), 400, 'bad_request', /exp/)
  })

  for (const [what, claims, message] of [
    ['a claim of the wrong type', { ten: 7 }, /"ten"/],
    ['a container that is no name', { ten: 'a/b' }, /"ten"/],
    ['a webtask name that is no name', { ten: 'acme', jtn: '../x', code: HELLO }, /"jtn"/],
    ['a name without code', { ten: 'acme', jtn: 'empty' }, /"jtn"/],
    ['secrets without fixed code', { ten: 'acme', ectx: { a: 'b' } }, /"ectx"/],
    ['a name without one container', { jtn: 'x', code: HELLO }, /"(ten|jtn|code)"/],
    ['code beside a URL', { ten: 'acme', code: HELLO, url: 'https://example.com/x.js' }, /"code"/],
    ['a code URL with a password', { ten: 'acme', url: 'https://u:p@example.com/x.js' }, /"url"/],
    ['an exp before nbf', { ten: 'acme', exp: 5, nbf: 6 }, /"exp"/],
    ['a body that is no object', [1], /object/],
  ] as const) {
    test(`${what} is refused with 400 and the name of what is wrong`, async () => refused(await issuing(claims), 400, 'bad_request', message))
  }

  test('a body that is no JSON is refused with 400 that says so', async () => {
    const answer = await runtime.ask('/api/tokens/issue', {
      method: 'POST',
      token: runtime.master,
      body: '{"ten":',
      headers: { 'content-type': 'application/json' },
    })
    refused(answer, 400, 'bad_request', /JSON/)
  })

  test('code over the limit is refused with 413 that names the limit', async () => {
    refused(await issuing({ ten: 'acme', jtn: 'big', code: `//${'x'.repeat(1_048_576)}` }), 413, 'code_too_large', /1048576/)
  })
})

describe('inspecting', () => {
  test('shows the claims, with secrets, code and metadata only when asked', async () => {
    const name = fresh('inspected')
    const token = await runtime.issue({
      ten: 'acme',
      jtn: name,
      code: HELLO,
      ectx: { password: 'hunter2' },
      pctx: { p: '1' },
      meta: { colour: 'red' },
    })
    const plain = await inspect(token)
    assert.deepEqual({ ...plain, ectx: 'sealed' }, { ...withoutEnvelope(token), ectx: 'sealed', webtask_url: `${runtime.url}/api/run/acme/${name}` })
    assert.equal(typeof plain.ectx, 'string')
    assert.ok(!JSON.stringify(plain).includes('hunter2'))

    const full = await inspect(token, '&decrypt=true&fetch_code=true&meta=1')
    assert.deepEqual(full.ectx, { password: 'hunter2' })
    assert.deepEqual(full.secrets, { password: 'hunter2' })
    assert.equal(full.code, HELLO)
    assert.deepEqual(full.meta, { colour: 'red' })
  })

  test('the string "false" means false', async () => {
    const token = await runtime.issue({ ten: 'acme', jtn: fresh('no'), code: HELLO, ectx: { password: 'hunter2' }, meta: { a: 'b' } })
    for (const no of ['false', '0']) {
      const shown = await inspect(token, `&decrypt=${no}&fetch_code=${no}&meta=${no}`)
      assert.equal(typeof shown.ectx, 'string')
      assert.deepEqual([shown.secrets, shown.code, shown.meta], [undefined, undefined, undefined])
    }
  })

  test('the code behind a URL is shown too', async () => {
    pages.set('/shown.js', (_incoming, outgoing) => void outgoing.end(HELLO))
    const token = await runtime.issue({ ten: 'acme', url: `${hostUrl}/shown.js` })
    assert.equal((await inspect(token, '&fetch_code=true')).code, HELLO)
  })

  test('an expired token can still be inspected by its ancestor', async () => {
    assert.equal((await inspect(await runtime.issue({ ten: 'acme', exp: 1 }))).exp, 1)
  })

  test('only an ancestor or the token itself may, and none that fixes code or holds secrets', async () => {
    const parent = await runtime.issue({ ten: 'acme', dd: 2 })
    const child = await runtime.issue({ dd: 1 }, parent)
    const bound = await runtime.issue({ code: HELLO, ectx: { s: 'x' } }, child)
    assert.equal((await inspect(child, '', parent)).ten, 'acme')
    assert.deepEqual((await inspect(bound, '&decrypt=true', parent)).ectx, { s: 'x' })
    assert.equal((await inspect(child, '', child)).dd, 1)
    const stranger = await runtime.issue({ ten: 'acme', dd: 5 })
    for (const [subject, by] of [
      [child, stranger],
      [parent, child],
      [runtime.master, parent],
      [bound, bound],
    ] as const) {
      refused(await runtime.ask(`/api/tokens/inspect?token=${subject}&decrypt=true`, { token: by }), 403, 'forbidden', /inspect/)
    }
  })

  test('what is no token of this deployment is refused with 400', async () => {
    refused(await runtime.ask('/api/tokens/inspect', { token: runtime.master }), 400, 'bad_request', /token/)
    refused(await runtime.ask('/api/tokens/inspect?token=junk', { token: runtime.master }), 400, 'bad_request', /token/)
  })

  test('the reply can be issued again verbatim', async () => {
    const name = fresh('verbatim')
    const token = await runtime.issue({ ten: 'acme', jtn: name, code: SHOW, ectx: { s: '1' }, pctx: { p: '1' }, meta: { m: '1' }, pb: 1, mb: 1 })
    const again = await runtime.issue(await inspect(token, '&decrypt=true&meta=1'))
    const { secrets, params, meta } = (await runtime.ask(`/api/run/acme/${name}`)).json()
    assert.deepEqual({ secrets, params, meta }, { secrets: { s: '1' }, params: { p: '1' }, meta: { m: '1' } })
    assert.notEqual(claimsOf(again).jti, claimsOf(token).jti)
  })
})

function withoutEnvelope(token: string): Record<string, unknown> {
  const { iss: _iss, aud: _aud, ...claims } = claimsOf(token)
  return claims
}

describe('revoking', () => {
  const ways: [string, (token: string) => Promise<Answer>][] = [
    ['in the query', (token) => revoking(token)],
    ['in a JSON body', (token) => runtime.ask('/api/tokens/revoke', { method: 'POST', token: runtime.master, body: { token } })],
    [
      'in a form',
      (token) =>
        runtime.ask('/api/tokens/revoke', {
          method: 'POST',
          token: runtime.master,
          body: `token=${token}`,
          headers: { 'content-type': 'application/x-www-form-urlencoded' },
        }),
    ],
  ]
  for (const [way, revoke] of ways) {
    test(`a token revoked ${way} is refused from then on`, async () => {
      const token = await runtime.issue({ ten: 'acme' })
      assert.equal((await running('acme', token, HELLO)).status, 200)
      assert.equal((await revoke(token)).status, 200)
      refused(await running('acme', token, HELLO), 401, 'token_invalid', /not valid/)
    })
  }

  test('takes all descendants along, everywhere, within a second', async () => {
    const tenant = await runtime.issue({ ten: 'acme', dd: 2 })
    const child = await runtime.issue({ dd: 1 }, tenant)
    const name = fresh('doomed')
    const webtask = await runtime.issue({ jtn: name, code: HELLO }, child)
    const bystander = await runtime.issue({ ten: 'acme', dd: 2 })
    assert.equal((await running('acme', webtask)).status, 200)
    assert.equal((await runtime.ask(`/api/run/acme/${name}`)).status, 200)
    const began = performance.now()
    assert.equal((await revoking(tenant)).status, 200)
    const answers = (await Promise.all([tenant, child, webtask].map(answersToCredential))).flat()
    for (const answer of answers) refused(answer, 401, 'token_invalid', /not valid/)
    assert.equal((await runtime.ask(`/api/run/acme/${name}`)).status, 401)
    assert.ok(performance.now() - began < 1000)
    assert.equal((await running('acme', bystander, HELLO)).status, 200)
  })

  test('a token may revoke itself, unless its "dr" is 1; then an ancestor may', async () => {
    const free = await runtime.issue({ ten: 'acme' })
    assert.equal((await revoking(free, free)).status, 200)
    refused(await running('acme', free, HELLO), 401, 'token_invalid', /not valid/)
    const kept = await runtime.issue({ ten: 'acme', dr: 1 })
    refused(await revoking(kept, kept), 403, 'forbidden', /dr/)
    assert.equal((await running('acme', kept, HELLO)).status, 200)
    assert.equal((await revoking(kept)).status, 200)
    refused(await running('acme', kept, HELLO), 401, 'token_invalid', /not valid/)
  })

  test('neither a stranger nor a descendant may', async () => {
    const parent = await runtime.issue({ ten: 'acme', dd: 1 })
    const child = await runtime.issue({}, parent)
    const stranger = await runtime.issue({ ten: 'acme', dd: 5 })
    for (const by of [stranger, child]) refused(await revoking(parent, by), 403, 'forbidden', /revoked/)
    refused(await revoking(runtime.master, parent), 403, 'forbidden', /revoked/)
    assert.equal((await running('acme', parent, HELLO)).status, 200)
  })

  test('twice is no error, and what is no token is 400', async () => {
    const token = await runtime.issue({ ten: 'acme' })
    assert.equal((await revoking(token)).status, 200)
    assert.equal((await revoking(token)).status, 200)
    refused(await revoking('junk'), 400, 'bad_request', /token/)
    refused(await runtime.ask('/api/tokens/revoke', { method: 'POST', token: runtime.master }), 400, 'bad_request', /token/)
    refused(await runtime.ask('/api/tokens/revoke', { method: 'POST', token: runtime.master, body: '{"token":null}' }), 400, 'bad_request', /token/)
    refused(
      await runtime.ask('/api/tokens/revoke', {
        method: 'POST',
        token: runtime.master,
        body: 'null',
        headers: { 'content-type': 'application/json' },
      }),
      400,
      'bad_request',
      /token/,
    )
  })
})

describe('three kinds of token', () => {
  test('the master token reaches every container and issues for any', async () => {
    for (const container of ['acme', 'globex']) {
      assert.equal((await running(container, runtime.master, HELLO)).text, '"hello"')
      assert.equal(claimsOf(await runtime.issue({ ten: container })).ten, container)
    }
  })

  test('a tenant token runs and issues in its own container, and nowhere else', async () => {
    const tenant = await runtime.issue({ ten: 'acme', dd: 1 })
    assert.equal((await running('acme', tenant, HELLO)).text, '"hello"')
    refused(await running('globex', tenant, HELLO), 403, 'forbidden', /"globex"/)
    refused(await runtime.ask(`/api/run/globex?key=${tenant}`, { method: 'POST', body: HELLO }), 403, 'forbidden', /"globex"/)
    assert.equal((await issuing({ jtn: fresh('mine'), code: HELLO }, tenant)).status, 200)
    refused(await issuing({ ten: 'globex', jtn: 'mine', code: HELLO }, tenant), 403, 'forbidden', /"ten"/)
    refused(await issuing({ ten: 'ACME' }, tenant), 403, 'forbidden', /"ten"/)
  })

  test('a webtask token runs its own code alone, and cannot issue', async () => {
    const webtask = await runtime.issue({ ten: 'acme', code: SHOW })
    const answer = await runtime.ask('/api/run/acme', {
      method: 'POST',
      token: webtask,
      body: "module.exports = cb => cb(null, 'other')",
      headers: { 'content-type': 'text/plain' },
    })
    assert.equal(answer.json().raw, "module.exports = cb => cb(null, 'other')")
    assert.equal(answer.json().token, webtask)
    refused(await running('acme', webtask, undefined, `?webtask_url=${encodeURIComponent(`${hostUrl}/x.js`)}`), 400, 'bad_request', /webtask_url/)
    refused(await running('globex', webtask), 403, 'forbidden', /"globex"/)
    refused(await issuing({ ten: 'acme' }, webtask), 403, 'forbidden', /may not issue/)
  })

  test('a bound token that may derive derives only for the same code', async () => {
    const bound = await runtime.issue({ ten: 'acme', code: SHOW, dd: 1, ectx: { a: '1' }, pctx: { p: '1' } })
    refused(await issuing({ code: HELLO }, bound), 403, 'forbidden', /code/)
    refused(await issuing({ url: `${hostUrl}/x.js` }, bound), 403, 'forbidden', /code/)
    refused(await issuing({ jtn: 'taken' }, bound), 403, 'forbidden', /name/)
    refused(await issuing({ ectx: { a: '2' } }, bound), 403, 'forbidden', /ectx/)
    refused(await issuing({ pctx: { p: '2' } }, bound), 403, 'forbidden', /pctx/)
    const child = await runtime.issue({ ectx: { b: '2' }, pctx: { q: '2' } }, bound)
    const { secrets, params } = (await running('acme', child)).json()
    assert.deepEqual({ secrets, params }, { secrets: { a: '1', b: '2' }, params: { p: '1', q: '2' } })
  })

  test('a token with names may manage only these', async () => {
    const token = await runtime.issue({ ten: 'acme', dd: 1, jtnm: ['one', 'two'] })
    assert.equal((await issuing({ jtn: 'one', code: HELLO }, token)).status, 200)
    refused(await issuing({ jtn: 'three', code: HELLO }, token), 403, 'forbidden', /jtn/)
  })
})

describe('narrowing', () => {
  const cases: [what: string, parent: unknown, within: unknown[], wider: unknown[]][] = [
    ['a literal', 'acme', ['acme'], ['globex', 'acme,globex', '/acme/', ['acme', 'globex']]],
    ['a list', 'acme, globex', ['acme', 'globex', 'globex,acme', ['acme']], ['initech', 'acme,initech', '/./']],
    ['a regex', '/^foo[0-9]$/', ['foo1', 'foo1,foo2', '/^foo[0-9]$/'], ['foo10', 'xfoo1', '/^foo/', '/^foo[0-9]/']],
    ['an array', ['acme', '/^foo[0-9]$/'], ['acme', 'foo3', ['foo3', 'acme']], ['foo33', ['acme', 'globex']]],
  ]
  for (const [what, ten, within, wider] of cases) {
    test(`containers given as ${what} can be kept or narrowed, not widened`, async () => {
      const parent = await runtime.issue({ ten, dd: 1 })
      assert.deepEqual(claimsOf(await runtime.issue({}, parent)).ten, claimsOf(parent).ten)
      for (const narrower of within) assert.equal((await issuing({ ten: narrower }, parent)).status, 200, JSON.stringify(narrower))
      for (const more of wider) refused(await issuing({ ten: more }, parent), 403, 'forbidden', /"ten"/)
    })
  }

  test('a regex token reaches what it matches, and nothing else', async () => {
    const token = await runtime.issue({ ten: ['/^foo[0-9]$/', 'acme'] })
    for (const container of ['foo1', 'acme']) assert.equal((await running(container, token, HELLO)).text, '"hello"')
    for (const container of ['foo10', 'foo', 'globex']) refused(await running(container, token, HELLO), 403, 'forbidden', /does not reach/)
  })

  test('each generation has less depth, down to a token that derives nothing', async () => {
    let token = await runtime.issue({ ten: 'acme', dd: 3 })
    for (const dd of [2, 1, 0]) {
      refused(await issuing({ dd: dd + 1 }, token), 403, 'forbidden', /"dd"/)
      token = await runtime.issue({ dd }, token)
    }
    refused(await issuing({}, token), 403, 'forbidden', /may not issue/)
    assert.equal((await running('acme', token, HELLO)).text, '"hello"')
    assert.equal(claimsOf(token).ca.length, 4)
  })

  test('a child never outlives its parent', async () => {
    const exp = now() + 3600
    const parent = await runtime.issue({ ten: 'acme', dd: 1, exp })
    refused(await issuing({ exp: exp + 1 }, parent), 403, 'forbidden', /"exp"/)
    assert.equal(claimsOf(await runtime.issue({}, parent)).exp, exp)
    assert.equal(claimsOf(await runtime.issue({ exp: exp - 1 }, parent)).exp, exp - 1)
  })

  test('container limits pass on and only shrink', async () => {
    const parent = await runtime.issue({ ten: 'acme', dd: 1, ls: 10 })
    assert.equal(claimsOf(await runtime.issue({ ls: 100 }, parent)).ls, 10)
    assert.equal(claimsOf(await runtime.issue({ ls: 5 }, parent)).ls, 5)
    assert.equal(claimsOf(await runtime.issue({}, parent)).ls, 10)
  })
})

describe('what a token carries', () => {
  test('secrets reach the code and are nowhere readable in the token', async () => {
    const secret = 'correct horse battery staple'
    const token = await runtime.issue({ ten: 'acme', code: SHOW, ectx: { password: secret, nested: { inner: secret } } })
    assert.deepEqual((await running('acme', token)).json().secrets, { password: secret, nested: { inner: secret } })
    const layers = [token, ...token.split('.').map(decoded), ...claimsOf(token).ectx.split('.').map(decoded)].join('\n')
    for (const form of [secret, Buffer.from(secret).toString('base64url').slice(1, -2), Buffer.from(secret).toString('hex')])
      assert.ok(!layers.includes(form))
    assert.ok(!layers.includes('password'))
    assert.ok(!runtime.output().includes(secret))
  })

  test('secrets cut from one token into another are refused', async () => {
    const rich = await runtime.issue({ ten: 'acme', code: SHOW, ectx: { password: 'x' } })
    const poor = await runtime.issue({ ten: 'acme', code: SHOW })
    refused(await running('acme', altered(poor, { ectx: claimsOf(rich).ectx })), 401, 'token_invalid', /not valid/)
    refused(await issuing({ ten: 'acme', code: SHOW, ectx: claimsOf(rich).ectx }), 400, 'bad_request', /ectx/)
  })

  test('parameters are signed and readable', async () => {
    const token = await runtime.issue({ ten: 'acme', code: SHOW, pctx: { colour: 'red' } })
    assert.deepEqual(claimsOf(token).pctx, { colour: 'red' })
    assert.deepEqual((await running('acme', token)).json().params, { colour: 'red' })
    refused(await running('acme', altered(token, { pctx: { colour: 'blue' } })), 401, 'token_invalid', /not valid/)
  })

  test('metadata reaches the code as ctx.meta and is not in the token', async () => {
    const name = fresh('meta')
    const token = await runtime.issue({ ten: 'acme', jtn: name, code: SHOW, meta: { 'wt-colour': 'red' } })
    assert.equal(claimsOf(token).meta, undefined)
    assert.deepEqual((await runtime.ask(`/api/run/acme/${name}`)).json().meta, { 'wt-colour': 'red' })
  })

  test('pb decides whether a body is parsed: 0 never, 1 always, 2 by the number of parameters', async () => {
    const post = { method: 'POST', body: { a: 1 } }
    const http = 'module.exports = (ctx, req, res) => res.end(JSON.stringify(ctx.body ?? null))'
    for (const [code, pb, parsed] of [
      [SHOW, 0, undefined],
      [SHOW, 1, { a: 1 }],
      [SHOW, 2, { a: 1 }],
    ] as const) {
      const token = await runtime.issue({ ten: 'acme', code, pb })
      assert.deepEqual((await runtime.ask('/api/run/acme', { ...post, token })).json().body, parsed)
    }
    for (const [pb, parsed] of [
      [0, 'null'],
      [1, '{"a":1}'],
      [2, 'null'],
    ] as const) {
      const token = await runtime.issue({ ten: 'acme', code: http, pb })
      assert.equal((await runtime.ask('/api/run/acme', { ...post, token })).text, parsed)
    }
  })

  test('mb merges the body into ctx.data, and never over a secret', async () => {
    const post = { method: 'POST', body: { a: 'body', s: 'body' } }
    for (const [mb, data] of [
      [0, { s: 'secret' }],
      [1, { a: 'body', s: 'secret' }],
    ] as const) {
      const token = await runtime.issue({ ten: 'acme', code: SHOW, mb, ectx: { s: 'secret' } })
      assert.deepEqual((await runtime.ask('/api/run/acme', { ...post, token })).json().data, data)
    }
  })

  test('stored code is kept when its own URL is issued again', async () => {
    const name = fresh('kept')
    const { url } = claimsOf(await runtime.issue({ ten: 'acme', jtn: name, code: SHOW, meta: { state: 'on' } }))
    await runtime.issue({ ten: 'acme', jtn: name, url, meta: { state: 'off' } })
    assert.deepEqual((await runtime.ask(`/api/run/acme/${name}`)).json().meta, { state: 'off' })
  })

  test('stored code of another container cannot be issued, whoever asks', async () => {
    const name = fresh('private')
    const { url } = claimsOf(await runtime.issue({ ten: 'acme', jtn: name, code: HELLO }))
    const globex = await runtime.issue({ ten: 'globex', dd: 1 })
    const spellings = [
      url,
      url.replace('%2F', '/'),
      url.replace('%2F', '%2f'),
      url.replace('acme', '%61cme'),
      url.replace('code/', 'code/globex%2F..%2F'),
      url.replace('webtask:', 'WEBTASK:'),
    ]
    for (const spelling of spellings) {
      refused(await issuing({ ten: 'globex', url: spelling }, globex), 403, 'forbidden', /"url"/)
      refused(await issuing({ ten: 'globex', jtn: 'stolen', url: spelling }, globex), 403, 'forbidden', /"url"/)
      refused(await issuing({ ten: 'globex', jtn: 'stolen', url: spelling }), 403, 'forbidden', /"url"/)
    }
    assert.equal((await runtime.ask('/api/run/globex/stolen')).status, 404)
  })
})

function decoded(part: string): string {
  return Buffer.from(part, 'base64url').toString('latin1')
}

describe('code from a URL', () => {
  function publish(path: string, code: string): { url: string; set(next: string): void; asked(): number; conditional(): number } {
    let current = code
    let version = 1
    pages.set(path, (incoming, outgoing) => {
      const etag = `"${version}"`
      if (incoming.headers['if-none-match'] === etag) return void outgoing.writeHead(304, { etag }).end()
      outgoing.writeHead(200, { etag, 'content-type': 'text/javascript' }).end(current)
    })
    const mine = () => visits.filter((visit) => visit.path === path)
    return {
      url: hostUrl + path,
      set(next) {
        current = next
        version += 1
      },
      asked: () => mine().length,
      conditional: () => mine().filter((visit) => visit.etag !== undefined).length,
    }
  }

  test('runs by token and by name, and is fetched once for all of them', async () => {
    const page = publish('/by-url.js', HELLO)
    const name = fresh('by-url')
    const token = await runtime.issue({ ten: 'acme', jtn: name, url: page.url, ectx: { s: 'x' } })
    assert.equal((await running('acme', token)).text, '"hello"')
    assert.equal((await runtime.ask(`/api/run/acme/${name}`)).text, '"hello"')
    assert.equal(page.asked(), 1)
    assert.equal(visits.find((visit) => visit.path === '/by-url.js')?.authorization, undefined)
  })

  test('is fetched once for 50 simultaneous callers', async () => {
    const page = publish('/popular.js', HELLO)
    const serve = pages.get('/popular.js')!
    pages.set('/popular.js', (incoming, outgoing) => void sleep(300).then(() => serve(incoming, outgoing)))
    const token = await runtime.issue({ ten: 'acme', url: page.url })
    const answers = await Promise.all(Array.from({ length: 50 }, () => running('acme', token)))
    assert.deepEqual(new Set(answers.map(({ text }) => text)), new Set(['"hello"']))
    assert.equal(page.asked(), 1)
  })

  test('is fetched anew at once with webtask_no_cache=1', async () => {
    const page = publish('/changing.js', "module.exports = cb => cb(null, 'one')")
    const token = await runtime.issue({ ten: 'acme', url: page.url })
    assert.equal((await running('acme', token)).text, '"one"')
    page.set("module.exports = cb => cb(null, 'two')")
    assert.equal((await running('acme', token)).text, '"one"')
    assert.equal((await running('acme', token, undefined, '?webtask_no_cache=1')).text, '"two"')
    assert.equal((await running('acme', token)).text, '"two"')
    assert.equal(page.conditional(), 0)
  })

  test('is revalidated by its ETag after some seconds, and a change is taken up', async () => {
    const page = publish('/validated.js', "module.exports = cb => cb(null, 'one')")
    const token = await runtime.issue({ ten: 'acme', url: page.url })
    assert.equal((await running('acme', token)).text, '"one"')
    await eventually(
      'the host is asked whether its code changed',
      async () => {
        assert.equal((await running('acme', token)).text, '"one"')
        return page.conditional() === 1
      },
      12_000,
    )
    assert.equal(page.asked(), 2)
    page.set("module.exports = cb => cb(null, 'two')")
    await eventually('the changed code runs', async () => (await running('acme', token)).text === '"two"', 12_000)
    assert.equal(page.asked(), 3)
  })

  test('is kept apart by container: one does not see what another fetched', async () => {
    const page = publish('/apart.js', HELLO)
    for (const ten of ['acme', 'globex']) assert.equal((await running(ten, await runtime.issue({ ten, url: page.url }))).text, '"hello"')
    assert.equal(page.asked(), 2)
  })

  test('a token that names the hash of its code runs nothing else', async () => {
    const page = publish('/pinned.js', HELLO)
    const cph = `sha256-${Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.from(HELLO))).toString('base64url')}`
    const token = await runtime.issue({ ten: 'acme', url: page.url, cph })
    assert.equal((await running('acme', token)).text, '"hello"')
    page.set("module.exports = cb => cb(null, 'evil')")
    refused(await running('acme', token, undefined, '?webtask_no_cache=1'), 502, 'code_unavailable', /hash/)
  })
})

describe('a token that names the hash of its code', () => {
  const EVIL = "module.exports = cb => cb(null, 'evil')"
  const cphOf = async (code: string) => `sha256-${Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.from(code))).toString('base64url')}`

  test('does not run what its name stands for later, by token or by inspection', async () => {
    const name = fresh('bound')
    const cph = await cphOf(HELLO)
    const bound = await runtime.issue({ ten: 'acme', jtn: name, code: HELLO, cph, ectx: { s: 'x' } })
    assert.equal(claimsOf(bound)['cph'], cph)
    assert.equal((await running('acme', bound)).text, '"hello"')
    await runtime.issue({ ten: 'acme', jtn: name, code: EVIL })
    refused(await running('acme', bound), 502, 'code_unavailable', /hash/)
    refused(await runtime.ask(`/api/tokens/inspect?token=${bound}&fetch_code=1`, { token: runtime.master }), 502, 'code_unavailable', /hash/)
    assert.equal((await runtime.ask(`/api/run/acme/${name}`)).text, '"evil"')
    await runtime.issue({ ten: 'acme', jtn: name, code: HELLO })
    assert.equal((await running('acme', bound)).text, '"hello"')
  })

  test('does not run stored code of another hash under a name either', async () => {
    const [name, other] = [fresh('stored'), fresh('stored')]
    const stored = await runtime.issue({ ten: 'acme', jtn: name, code: EVIL })
    await runtime.issue({ ten: 'acme', jtn: other, url: claimsOf(stored)['url'], cph: await cphOf(HELLO) })
    refused(await runtime.ask(`/api/run/acme/${other}`), 502, 'code_unavailable', /hash/)
    await runtime.issue({ ten: 'acme', jtn: other, url: claimsOf(stored)['url'], cph: await cphOf(EVIL) })
    assert.equal((await runtime.ask(`/api/run/acme/${other}`)).text, '"evil"')
  })

  test('cannot be widened by what is derived from it, and a child may add the hash', async () => {
    const open = await runtime.issue({ ten: 'acme', url: `${hostUrl}/nothing.js`, dd: 2 })
    const cph = await cphOf(HELLO)
    const bound = await runtime.issue({ cph, dd: 1 }, open)
    refused(await issuing({ cph: await cphOf(EVIL) }, bound), 403, 'forbidden', /cph/)
    assert.equal(claimsOf(await runtime.issue({}, bound))['cph'], cph)
    refused(await issuing({ ten: 'acme', code: EVIL, cph }), 400, 'bad_request', /not the hash/)
    refused(await issuing({ ten: 'acme', code: HELLO, cph: cph.slice(0, -1) }), 400, 'bad_request', /cph/)
  })

  test('inline code without a name is bound to its hash by itself', async () => {
    const token = await runtime.issue({ ten: 'acme', code: HELLO })
    assert.equal(claimsOf(token)['cph'], await cphOf(HELLO))
  })
})

describe('a token that is not valid', () => {
  const ours = () => runtime.issue({ ten: 'acme', dd: 1 })
  const other = generateKeyPairSync('ed25519')

  function resigned(token: string, header: object, signature: (input: string) => Buffer): string {
    const input = `${encode(header)}.${token.split('.')[1]}`
    return `${input}.${signature(input).toString('base64url')}`
  }

  function headerOf(token: string): Record<string, string> {
    return JSON.parse(Buffer.from(token.split('.')[0]!, 'base64url').toString())
  }

  const forgeries: [what: string, make: (token: string) => string | Promise<string>][] = [
    ['garbage', () => 'garbage'],
    ['three parts of garbage', () => 'a.b.c'],
    ['empty parts', () => '..'],
    ['an altered payload', (token) => altered(token, { ten: 'globex' })],
    ['a dropped restriction', (token) => altered(token, { ten: undefined })],
    ['an added claim', (token) => altered(token, { admin: true })],
    ['an altered signature', (token) => token.slice(0, -10) + (token.at(-10) === 'A' ? 'B' : 'A') + token.slice(-9)],
    ['spare bits in the signature', (token) => token.slice(0, -1) + String.fromCharCode(token.charCodeAt(token.length - 1) + 1)],
    ['a cut signature', (token) => token.slice(0, -3)],
    ['no signature', (token) => token.slice(0, token.lastIndexOf('.') + 1)],
    ['alg none', (token) => `${encode({ ...headerOf(token), alg: 'none' })}.${token.split('.')[1]}.`],
    ['alg none with the old signature', (token) => [encode({ ...headerOf(token), alg: 'none' }), ...token.split('.').slice(1)].join('.')],
    [
      'an HMAC of its own',
      (token) =>
        resigned(token, { ...headerOf(token), alg: 'HS256' }, (input) => createHmac('sha256', headerOf(token)['kid']!).update(input).digest()),
    ],
    [
      "somebody else's key under our key id",
      (token) => resigned(token, headerOf(token), (input) => sign(null, Buffer.from(input), other.privateKey)),
    ],
    [
      'a key of its own in the header',
      (token) =>
        resigned(token, { ...headerOf(token), jwk: other.publicKey.export({ format: 'jwk' }) }, (input) =>
          sign(null, Buffer.from(input), other.privateKey),
        ),
    ],
    [
      'an unknown key id',
      (token) => resigned(token, { ...headerOf(token), kid: '../../etc/passwd' }, (input) => sign(null, Buffer.from(input), other.privateKey)),
    ],
    ['the type JWT', (token) => [encode({ ...headerOf(token), typ: 'JWT' }), ...token.split('.').slice(1)].join('.')],
    ['padding', (token) => `${token}==`],
    ['a fourth part', (token) => `${token}.AAAA`],
    ['two tokens', (token) => `${token},${token}`],
    ['9000 characters', () => `a.${'b'.repeat(9000)}.c`],
    ['a real token that is made too long', (token) => token.replace('.', `.${'A'.repeat(8192)}`)],
    ['an end in the past', () => runtime.issue({ ten: 'acme', exp: now() - 1 })],
    ['an end at the beginning of time', () => runtime.issue({ ten: 'acme', exp: '1' })],
    ['a beginning in the future', () => runtime.issue({ ten: 'acme', nbf: now() + 1000 })],
    [
      'a revocation',
      async () => {
        const token = await ours()
        await revoking(token)
        return token
      },
    ],
  ]

  test('gets one and the same 401 whatever is wrong with it, as Bearer and as key', async () => {
    const token = await ours()
    const seen = new Map<string, string[]>()
    for (const [what, make] of forgeries) {
      const text = await make(token)
      const answers = await Promise.all([
        running('acme', text, HELLO),
        runtime.ask(`/api/run/acme?key=${encodeURIComponent(text)}`, { method: 'POST', body: HELLO }),
        issuing({ ten: 'acme' }, text),
      ])
      for (const { status, headers, text: body } of answers) {
        const { requestId, ...problem } = JSON.parse(body)
        assert.match(requestId, /^[\d.]+$/)
        assert.equal(headers.get('x-request-id'), requestId, `${what}: ${body}`)
        const form = JSON.stringify({ status, problem, type: headers.get('content-type'), challenge: headers.get('www-authenticate') })
        seen.set(form, [...(seen.get(form) ?? []), what])
      }
    }
    assert.equal(seen.size, 1, JSON.stringify([...seen], null, 1))
    const [{ status, problem, challenge }] = [...seen.keys()].map((text) => JSON.parse(text)) as [any]
    assert.equal(status, 401)
    assert.deepEqual(problem, {
      type: 'urn:webtask:error:token_invalid',
      title: problem.title,
      status: 401,
      detail: 'The token is not valid',
      code: 401,
      error: 'token_invalid',
      message: 'The token is not valid',
      fault: 'caller',
    })
    assert.match(challenge, /^Bearer/)
    assert.equal((await running('acme', token, HELLO)).status, 200)
  })

  test('and no token at all says how to send one', async () => {
    refused(await runtime.ask('/api/run/acme', { method: 'POST', body: HELLO }), 401, 'token_missing', /Authorization: Bearer/)
    refused(await runtime.ask('/api/tokens/issue', { method: 'POST', body: {} }), 401, 'token_missing', /key=/)
    refused(
      await runtime.ask('/api/run/acme', { method: 'POST', body: HELLO, headers: { authorization: `Basic ${runtime.master}` } }),
      401,
      'token_missing',
      /Bearer/,
    )
  })

  test('expires while it is in use', async () => {
    const token = await runtime.issue({ ten: 'acme', exp: now() + 2 })
    assert.equal((await running('acme', token, HELLO)).status, 200)
    const answer = await eventually(
      'the token has expired',
      async () => {
        const asked = await running('acme', token, HELLO)
        return asked.status === 200 ? undefined : asked
      },
      4000,
    )
    refused(answer, 401, 'token_invalid', /not valid/)
  })

  test('the scheme Bearer is read in any case', async () => {
    for (const scheme of ['bearer', 'BEARER']) {
      assert.equal(
        (await runtime.ask('/api/run/acme', { method: 'POST', body: HELLO, headers: { authorization: `${scheme} ${runtime.master}` } })).status,
        200,
      )
    }
  })

  test('an upload with a bad token is answered, not cut off', async () => {
    const answer = await runtime.ask('/api/run/acme', { method: 'POST', token: 'garbage', body: new Uint8Array(20_000_000) })
    refused(answer, 401, 'token_invalid', /not valid/)
  })

  test('methods that the token API does not have are refused with 405', async () => {
    refused(await runtime.ask('/api/tokens/issue', { token: runtime.master }), 405, 'method_not_allowed', /POST/)
    refused(await runtime.ask('/api/tokens/inspect', { method: 'POST', token: runtime.master }), 405, 'method_not_allowed', /GET/)
  })
})
