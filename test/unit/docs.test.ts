import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, test } from 'node:test'
import { describeSettings, parseConfig } from '../../src/config.ts'
import { ERRORS } from '../../src/errors.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const DOCS = ['README.md', 'ARCHITECTURE.md', 'SECURITY.md'] as const
const read = (name: string) => readFileSync(path.join(ROOT, name), 'utf8')
const packageJson = JSON.parse(read('package.json')) as Record<'scripts' | 'dependencies' | 'devDependencies' | 'overrides', Record<string, string>>

/** No setting takes this: too large for a number, none of the words, no URL, too long for a name. */
const IMPOSSIBLE = '9'.repeat(30)

/** What a setting accepts, in the words with which `parseConfig` refuses what it does not. */
function rangeOf(name: string): string {
  try {
    parseConfig({ [name]: IMPOSSIBLE })
    return 'any text'
  } catch (error) {
    const [, rule = ''] = new RegExp(`^ +${name}: (.*) \\(got "${IMPOSSIBLE}"\\)$`, 'm').exec((error as Error).message) ?? []
    const [, least, most] = /^must be between (\d+) and (\d+)$/.exec(rule) ?? []
    if (least !== undefined) return `${least} to ${most}`
    const [, words] = /expected one of (.*)$/.exec(rule) ?? []
    if (words !== undefined)
      return words
        .split('|')
        .map((word) => `\`${JSON.parse(word)}\``)
        .join(', ')
    return rule.replace(/^must (be|start with) /, '').replace(/;.*/, '')
  }
}

const row = (...cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`

const SETTINGS = describeSettings().map(({ name, fallback, means }) =>
  row(`\`${name}\``, fallback === '' ? '–' : `\`${fallback}\``, rangeOf(name), means),
)
const ERROR_ROWS = Object.entries(ERRORS).map(([code, { status, fault, means }]) => row(`\`${code}\``, String(status), fault, means))

/** The body rows of the one table between two marks in README, with the padding of their cells taken out. */
function tableRows(mark: string): string[] {
  const [, part] = new RegExp(`<!-- ${mark} -->(.*?)<!-- /${mark} -->`, 's').exec(read('README.md')) ?? []
  assert.ok(part, `README.md must have its ${mark} between <!-- ${mark} --> and <!-- /${mark} -->`)
  const rows = part.split('\n').filter((line) => line.startsWith('|'))
  return rows.slice(2).map((line) => line.replace(/ +\|/g, ' |').replace(/\| +/g, '| '))
}

function sameRows(mark: string, expected: readonly string[]): void {
  const found = tableRows(mark)
  const missing = expected.filter((line) => !found.includes(line))
  const extra = found.filter((line) => !expected.includes(line))
  assert.ok(missing.length + extra.length === 0, `README.md differs from the code.\nPaste:\n${missing.join('\n')}\nRemove:\n${extra.join('\n')}`)
  assert.deepEqual(found, expected, 'The rows stand in the order of the code')
}

test('README shows every setting with its default, its range and its meaning', () => sameRows('settings', SETTINGS))

test('README shows every error with its status and its fault', () => sameRows('errors', ERROR_ROWS))

test('ARCHITECTURE gives a reason for every package', () => {
  const text = read('ARCHITECTURE.md')
  const { dependencies, devDependencies, overrides } = packageJson
  const silent = Object.keys({ ...dependencies, ...devDependencies, ...overrides }).filter((name) => !text.includes(`\`${name}\``))
  assert.deepEqual(silent, [])
})

for (const doc of DOCS) {
  describe(doc, () => {
    const text = read(doc)
    /** Text between backticks, fenced blocks aside. */
    const spans = [...text.replace(/^```.*?^```/gms, '').matchAll(/`([^`\n]+)`/g)].map((match) => match[1]!)

    test('names only npm scripts that exist', () => {
      const named = [...text.matchAll(/\bnpm (?:run (?:--silent )?([\w:-]+)|(start|test)\b)/g)].map((match) => match[1] ?? match[2]!)
      assert.deepEqual(
        named.filter((name) => !(name in packageJson.scripts)),
        [],
      )
    })

    test('names only settings that exist', () => {
      const known = describeSettings().map(({ name }) => name)
      assert.deepEqual(
        [...text.matchAll(/\b(?:WEBTASK_\w+|REDIS_URL)\b/g)].map(([name]) => name).filter((name) => !known.includes(name)),
        [],
      )
    })

    test('links only to files and headings that exist', () => {
      const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!).filter((link) => !/^[a-z]+:/.test(link))
      const broken = links.filter((link) => {
        const [file = '', heading] = link.split('#', 2)
        const target = file === '' ? doc : file
        return !existsSync(path.join(ROOT, target)) || (heading !== undefined && !headings(target).includes(heading))
      })
      assert.deepEqual(broken, [])
    })

    test('names only files that exist', () => {
      // Paths in the tree and bare names of source files; what the runtime makes while it runs stands below data/ or /.
      const paths = spans.filter((span) => /^(src|images|test)\/[\w./*-]*$/.test(span) || /^[\w-][\w./-]*\.(ts|mjs|lua|md|yaml|json)$/.test(span))
      const missing = paths
        .filter((name) => !name.startsWith('data/'))
        .filter((name) => {
          const fixed = name.replace(/\/?[^/]*\*.*$/, '')
          return !existsSync(path.join(ROOT, fixed)) && !existsSync(path.join(ROOT, 'src', fixed))
        })
      assert.deepEqual(missing, [])
    })
  })
}

/** The anchors that a Markdown file's headings get. */
function headings(file: string): string[] {
  return [...read(file).matchAll(/^#+ (.*)$/gm)].map((match) =>
    match[1]!
      .toLowerCase()
      .replace(/[^\w\s-]/g, '')
      .replaceAll(' ', '-'),
  )
}
