import { headerOf, type WireAnswer } from './answers.ts'
import type { Arena, Heard } from './arena.ts'
import type { ExchangeCase, Facts } from './exchange-case.ts'
import { errorOf } from './webtask-trial.ts'
import { say, type WireResult } from './wire.ts'

const ECHO = 'module.exports = (ctx, req, res) => res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.rawHeaders }))'
const SMUGGLED = 'let runs = 0; module.exports = (ctx, cb) => cb(null, { smuggled: ctx.query.count === undefined ? ++runs : runs })'
const ANSWER_MS = 4_000

/** The attacker's webtasks and token for exchanges. */
export async function prepareFacts({ runtime, attacker }: Arena): Promise<Facts> {
  const ten = attacker()
  for (const [jtn, code] of Object.entries({ echo: ECHO, smuggled: SMUGGLED })) await runtime.issue({ ten, jtn, code })
  const at = `/api/run/${ten}`
  return {
    HELLO: `${at}/hello`,
    ECHO: `${at}/echo`,
    RUN: at,
    SMUGGLED: `${at}/smuggled`,
    TOKEN: await runtime.issue({ ten }),
    VICTIM: '/api/run/victim/hello',
  }
}

/** How often the request ran that may not run at all. */
export async function smuggledRuns({ runtime }: Arena, facts: Facts): Promise<number> {
  return (await runtime.ask(`${facts.SMUGGLED}?count=1`)).json().smuggled as number
}

export async function attackOver(arena: Arena, exchange: ExchangeCase, facts: Facts): Promise<Heard> {
  const { sent, most = 1, ms = ANSWER_MS, bodiless = false } = exchange
  const fill = (text: string) => text.replaceAll(/\$([A-Z]+)/g, (whole, name: string) => facts[name as keyof Facts] ?? whole)
  const bytes = typeof sent === 'string' ? Buffer.from(fill(sent), 'latin1') : undefined
  const result = await say(bytes ?? ((socket) => (sent as Exclude<typeof sent, string>)(socket, fill)), {
    port: arena.port,
    ms,
    answers: most,
    bodiless,
  })
  return judge(result, exchange, arena.secret)
}

function judge(result: WireResult, { hears, most = 1, bodiless = false }: ExchangeCase, secret: string): Heard {
  const problems: string[] = []
  const { answers } = result
  if (answers.length > most) problems.push(`${answers.length} answers, ${most} at most`)
  if (result.rest !== '') problems.push(`bytes that are no answer: ${JSON.stringify(result.rest.slice(0, 100))}`)
  if (answers.length === 0 && !result.closed) problems.push('neither answered nor closed')
  if (answers.length === 0 && !hears.includes('closed')) problems.push('closed without an answer')
  for (const answer of answers) {
    if (!hears.some((hear) => fits(answer, hear, bodiless))) problems.push(`unexpected: ${answer.status} ${answer.body.slice(0, 200)}`)
    if (answer.body.includes(secret)) problems.push("the victim's secret is in the answer")
    if (answer.status >= 400 && !bodiless && !isOurs(answer)) problems.push(`an error in another form: ${answer.status} ${answer.body.slice(0, 100)}`)
  }
  const heard = answers.map((answer) => errorOf(answer) ?? String(answer.status)).join(', ')
  return { heard: `${heard}${result.closed ? `${heard === '' ? '' : ', '}closed` : ''}`, problems }
}

function fits(answer: WireAnswer, hear: ExchangeCase['hears'][number], bodiless: boolean): boolean {
  if (typeof hear === 'number') return answer.status === hear
  if (typeof hear === 'string') return errorOf(answer) === hear || (bodiless && answer.status >= 400 && answer.status < 500)
  return answer.status === 200 && hear.test(answer.body)
}

/** The one form of all our refusals. */
function isOurs(answer: WireAnswer): boolean {
  if (!/^application\/(problem\+)?json/.test(headerOf(answer, 'content-type') ?? '') || errorOf(answer) === undefined) return false
  const { status, requestId } = JSON.parse(answer.body) as { status?: unknown; requestId?: unknown }
  return status === answer.status && requestId === headerOf(answer, 'x-request-id')
}
