import { headerOf, type WireAnswer } from './answers.ts'
import type { Arena, Heard } from './arena.ts'
import type { WebtaskCase } from './webtask-case.ts'
import { say, type WireResult } from './wire.ts'

/** The longest that any answer may take (ms): its time, a second to end the code, and what starting a sandbox anew takes. */
const ANSWER_MS = 8_000

/** Runs hostile code once, over a connection that is then used for an innocent request: what is smuggled would be its answer. */
export async function attackBy(arena: Arena, { code, hears: expected, underGvisor = [], without = [], request }: WebtaskCase): Promise<Heard> {
  const text = code.replaceAll('$TRAPS', JSON.stringify(arena.traps.places)).replaceAll('$VICTIM', 'victim')
  const { runtime, port, isGvisor } = arena
  const hears = isGvisor ? [...expected, ...underGvisor] : expected
  const path = `/api/run/${arena.attacker()}`
  const token = request === undefined ? runtime.master : await runtime.issue({ ten: arena.attacker(), code: text })
  const { method, headers = {}, body } = request ?? { method: 'POST', body: text }
  const bytes = Buffer.from(body ?? '')
  const fields = { host: 'localhost', authorization: `Bearer ${token}`, 'content-length': String(bytes.length), ...headers }
  const head = [`${method} ${path} HTTP/1.1`, ...Object.entries(fields).map(([name, value]) => `${name}: ${value}`)].join('\r\n')
  const result = await say(
    async (socket) => {
      socket.write(Buffer.concat([Buffer.from(`${head}\r\n\r\n`), bytes]))
    },
    { port, ms: ANSWER_MS, bodiless: method === 'HEAD' },
  )
  return judge(result, { hears, without, secret: arena.secret })
}

/** Our own answers name their error; anything else is the code's. */
export function errorOf(answer: WireAnswer): string | undefined {
  if (answer.status < 400) return undefined
  try {
    const { type } = JSON.parse(answer.body) as { type?: unknown }
    return typeof type === 'string' && type.startsWith('urn:webtask:error:') ? type.slice('urn:webtask:error:'.length) : undefined
  } catch {
    return undefined
  }
}

function judge(result: WireResult, expected: { hears: WebtaskCase['hears']; without: readonly string[]; secret: string }): Heard {
  const problems: string[] = []
  const [answer, ...more] = result.answers
  if (result.late) problems.push(`no answer within ${ANSWER_MS} ms`)
  if (more.length > 0) problems.push(`${more.length} answers that nobody asked for`)
  if (answer !== undefined && result.rest !== '') problems.push(`bytes after the answer: ${JSON.stringify(result.rest.slice(0, 100))}`)
  if (answer !== undefined && answer.body.includes(expected.secret)) problems.push("the victim's secret is in the answer")
  const heard = answer === undefined ? 'cut' : (errorOf(answer) ?? `${answer.status} ${answer.body.slice(0, 60).replaceAll(/[^\x20-\x7e]/g, '.')}`)
  const isExpected = expected.hears.some((hear) =>
    typeof hear === 'string' ? heard === hear : answer !== undefined && answer.status === 200 && hear.test(answer.body),
  )
  if (!isExpected)
    problems.push(
      `unexpected: ${answer === undefined ? `cut ${JSON.stringify(result.rest.slice(0, 100))}` : `${answer.status} ${answer.body.slice(0, 300)}`}`,
    )
  for (const name of expected.without)
    if (answer !== undefined && headerOf(answer, name) !== undefined) problems.push(`the header ${name} came through`)
  return { heard, problems }
}
