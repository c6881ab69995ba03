/** One HTTP answer as it came over the wire, read by a parser that forgives nothing: what it cannot read is `rest`. */
export interface WireAnswer {
  readonly status: number
  /** Names in lower case, in the order of the wire. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** One character for each byte. */
  readonly body: string
  /** Answers of 100 to 199 that came before it. */
  readonly informational: number
}

export interface Read {
  readonly answers: readonly WireAnswer[]
  /** Bytes that are no whole answer. */
  readonly rest: string
}

const HEAD_END = '\r\n\r\n'

export function headerOf(answer: WireAnswer, name: string): string | undefined {
  return answer.headers.find(([known]) => known === name)?.[1]
}

/** Reads all whole answers. `ended`: nothing will follow, so a body without a length is whole. `bodiless`: to HEAD. */
export function readAnswers(text: string, { ended, bodiless = false }: { ended: boolean; bodiless?: boolean }): Read {
  const answers: WireAnswer[] = []
  let informational = 0
  let at = 0
  for (;;) {
    const headEnd = text.indexOf(HEAD_END, at)
    if (headEnd < 0) break
    const [line = '', ...fields] = text.slice(at, headEnd).split('\r\n')
    const status = Number(/^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(line)?.[1] ?? Number.NaN)
    if (Number.isNaN(status)) break
    const bodyAt = headEnd + HEAD_END.length
    if (status < 200) {
      informational += 1
      at = bodyAt
      continue
    }
    const headers = fields.map((field): [string, string] => {
      const colon = field.indexOf(':')
      return [field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim()]
    })
    const body = bodiless || status === 204 || status === 304 ? { text: '', end: bodyAt } : readBody(text, { at: bodyAt, headers, ended })
    if (body === undefined) break
    answers.push({ status, headers, body: body.text, informational })
    informational = 0
    at = body.end
  }
  return { answers, rest: text.slice(at) }
}

function readBody(
  text: string,
  { at, headers, ended }: { at: number; headers: readonly (readonly [string, string])[]; ended: boolean },
): { text: string; end: number } | undefined {
  const value = (name: string) => headers.find(([known]) => known === name)?.[1]
  if (value('transfer-encoding')?.toLowerCase() === 'chunked') return readChunks(text, at)
  const length = value('content-length')
  if (length !== undefined) {
    const end = at + Number(length)
    return text.length >= end ? { text: text.slice(at, end), end } : undefined
  }
  return ended ? { text: text.slice(at), end: text.length } : undefined
}

function readChunks(text: string, from: number): { text: string; end: number } | undefined {
  const parts: string[] = []
  for (let at = from; ;) {
    const lineEnd = text.indexOf('\r\n', at)
    if (lineEnd < 0) return undefined
    const size = Number.parseInt(text.slice(at, lineEnd), 16)
    const end = lineEnd + 2 + size
    if (Number.isNaN(size) || text.length < end + 2) return undefined
    parts.push(text.slice(lineEnd + 2, end))
    at = end + 2
    if (size === 0) return { text: parts.join(''), end: at }
  }
}
