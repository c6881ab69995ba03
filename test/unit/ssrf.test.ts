import assert from 'node:assert/strict'
import test from 'node:test'
import { createCodeFetcher } from '../../src/egress/fetch-code.ts'
import { WebtaskError } from '../../src/errors.ts'
import { rebindingNames, ssrfUrls } from '../support/ssrf-spellings.ts'

const PUBLIC = '93.184.215.14'

/** A fetcher that believes a resolver of ours, and writes down whom it would call instead of calling. */
function spied(resolve: (host: string) => readonly string[]) {
  const dialled: string[] = []
  const fetch = createCodeFetcher({
    rules: { allow: [] },
    resolve: async (host) => resolve(host),
    async dial(address) {
      dialled.push(address)
      throw new Error('Nobody is called here')
    },
  })
  const refusal = (url: string) =>
    fetch({ url }).then(
      () => assert.fail(`"${url}" was fetched`),
      (error: unknown) => error as Error,
    )
  return { dialled, refusal }
}

test(`none of ${ssrfUrls().length} spellings of inner places is connected to, whatever its name resolves to`, async () => {
  assert.ok(ssrfUrls().length >= 300)
  const inner = spied(() => ['127.0.0.1'])
  for (const url of ssrfUrls()) assert.ok((await inner.refusal(url)) instanceof WebtaskError, url)
  assert.deepEqual(inner.dialled, [])
})

test('a spelling is not taken for a public name: none of them reaches even a resolver that says that all is public', async () => {
  const asked: string[] = []
  const open = spied((host) => {
    asked.push(host)
    return [PUBLIC]
  })
  for (const url of ssrfUrls()) await open.refusal(url)
  // What is left are URLs in which the inner place is only decoration: their host is the public one.
  assert.deepEqual(
    [...new Set(asked)].filter((host) => host !== 'example.com' && !host.endsWith('.example.com')),
    [],
  )
})

test(`a public name that resolves to an inner address is refused: ${rebindingNames().length} names, alone and beside a public address`, async () => {
  for (const [name, address] of rebindingNames()) {
    for (const answer of [[address], [PUBLIC, address], [address, PUBLIC], [address, address]]) {
      const { dialled, refusal } = spied(() => answer)
      assert.match((await refusal(`https://${name}/code.js`)).message, /not public/, `${name} → ${answer.join()}`)
      assert.deepEqual(dialled, [])
    }
  }
})

test('a name that changes between two looks is judged each time it is looked up', async () => {
  let looks = 0
  const { dialled, refusal } = spied(() => (looks++ % 2 === 0 ? [PUBLIC] : ['127.0.0.1']))
  for (let i = 0; i < 4; i += 1) await refusal('https://rebinding.example.com/')
  assert.deepEqual(new Set(dialled), new Set([PUBLIC]))
})
