/** `npm run keys`: shows and changes the keys of a deployment. Running gateways notice by themselves. */
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { parseConfig } from './config.ts'
import { changeKeys, readKeyRecords } from './token/key-file.ts'
import type { KeyRecords, KeyUse } from './token/key-records.ts'
import { listKeys, promote, promotionTime, publish, retire, revoke, type ListedKey } from './token/key-rotation.ts'

const HELP = `Usage: npm run keys -- <command> [options]

Shows and changes the keys in the data directory (WEBTASK_DATA_DIR). Running gateways take a change up within a second.

Commands:
  list          the keys with state and ages
  rotate        makes new keys, waits until every gateway knows them, then lets them sign and seal; the old ones retire:
                what they signed and sealed stays good
  retire <kid>  takes the active key out of use in favour of the next one, or drops a next key
  revoke <kid>  ends a key for good: tokens that it signed, or whose secrets it sealed, get 401 within a second, and its
                secret part is deleted. Webtasks named by such tokens must be issued anew

States: next (known, not used yet), active (signs or seals), retiring (verifies and opens only), revoked (nothing).

Options:
  --use sig|enc       rotate only signing keys, or only key-encryption keys
  --overlap <seconds> rotate: how long the new keys are known before they are used (default 3, 1 to 86400)
  --publish           rotate: only make the new keys known; the next rotate goes on from there. For gateways that get a copy of
                      the data directory
  --json              print JSON
  --help              this text`

const OVERLAP_SECONDS = { least: 1, fallback: 3, most: 86_400 }

/** A mistake in how the command was called. */
class UsageError extends Error {}

interface Asked {
  readonly dir: string
  readonly json: boolean
  readonly uses: readonly KeyUse[]
  readonly overlapSeconds: number
  readonly publishOnly: boolean
}

const now = () => Date.now() / 1000

async function rotate(asked: Asked): Promise<void> {
  const { dir, uses, overlapSeconds } = asked
  const published = await changeKeys(dir, (ring) => publish(ring, { uses, now: now() }))
  if (asked.publishOnly) return report(published, asked, 'The new keys are known and not used yet: "npm run keys -- rotate" lets them sign and seal')
  const wait = promotionTime(published, { uses, overlapSeconds }) - now()
  if (wait > 0) {
    if (!asked.json) console.error(`The new keys are known; they take over in ${Math.ceil(wait)} s (Ctrl-C leaves them as next) …`)
    await sleep(wait * 1000)
  }
  const rotated = await changeKeys(dir, (ring) => promote(ring, { uses, now: now() }))
  report(rotated, asked, 'Rotated: what the old keys signed and sealed stays good until they are revoked')
}

async function main(args: readonly string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      use: { type: 'string' },
      overlap: { type: 'string' },
      publish: { type: 'boolean' },
      json: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) return console.log(HELP)
  const [command, kid, ...more] = positionals
  const takesKey = command === 'retire' || command === 'revoke'
  if (more.length > 0 || (!takesKey && kid !== undefined)) throw new UsageError('Too many words')
  if (command !== 'rotate' && (values.use ?? values.overlap ?? values.publish) !== undefined)
    throw new UsageError('--use, --overlap and --publish belong to rotate')
  const asked: Asked = {
    dir: path.join(path.resolve(parseConfig(process.env).WEBTASK_DATA_DIR), 'keys'),
    json: values.json ?? false,
    uses: parseUses(values.use),
    overlapSeconds: parseOverlap(values.overlap),
    publishOnly: values.publish ?? false,
  }
  if (command === 'list') return report(await readKeyRecords(asked.dir), asked)
  if (command === 'rotate') return rotate(asked)
  if (!takesKey) throw new UsageError(command === undefined ? 'Which command?' : `No such command: "${command}"`)
  if (kid === undefined) throw new UsageError(`Which key? ${command} needs the kid of one`)
  const change = command === 'retire' ? retire : revoke
  report(await changeKeys(asked.dir, (ring) => change(ring, kid, now())), asked, `Done: gateways know within a second`)
}

function parseUses(use: string | undefined): readonly KeyUse[] {
  if (use === undefined) return ['sig', 'enc']
  if (use === 'sig' || use === 'enc') return [use]
  throw new UsageError(`--use must be sig or enc (got "${use}")`)
}

function parseOverlap(text: string | undefined): number {
  const { least, fallback, most } = OVERLAP_SECONDS
  const seconds = text === undefined ? fallback : Number(text)
  if (!Number.isInteger(seconds) || seconds < least || seconds > most)
    throw new UsageError(`--overlap must be a whole number of seconds, ${least} to ${most} (got "${text}")`)
  return seconds
}

function report(ring: KeyRecords, asked: Asked, message?: string): void {
  const keys = listKeys(ring, now())
  if (asked.json) return console.log(JSON.stringify({ keys }, null, 2))
  console.log(table(keys))
  if (message !== undefined) console.log(`\n${message}`)
}

function table(keys: readonly ListedKey[]): string {
  const rows = keys.map(({ kid, use, state, ageSeconds, stateSeconds }) => [kid, use, state, `for ${span(stateSeconds)}`, span(ageSeconds)])
  const all = [['KID', 'USE', 'STATE', '', 'AGE'], ...rows]
  const widths = all[0]!.map((_, column) => Math.max(...all.map((row) => row[column]!.length)))
  return all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** The largest two-digit unit that says enough. */
function span(seconds: number): string {
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  const usage = error instanceof UsageError || (error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS'))
  console.error(`${error instanceof Error ? error.message : String(error)}${usage ? `\n\n${HELP}` : ''}`)
  process.exitCode = usage ? 2 : 1
}
