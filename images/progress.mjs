/**
 * Progress for a person or a log. A step that ends within two seconds says nothing; a longer one shows
 * a spinner with the elapsed time at a terminal, and plain lines with elapsed seconds elsewhere.
 * Everything goes to stderr, so that stdout stays for results.
 */
const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']
const QUIET_MS = 2000
const PLAIN_EVERY_MS = 10_000

/** Makes the reporter: `note` prints a line, `step` runs work under a label and shows how long it takes. */
export function createProgress(stream = process.stderr) {
  return {
    note: (text) => void stream.write(`${text}\n`),
    step: (label, work) => (stream.isTTY ? spin(stream, label, work) : plain(stream, label, work)),
  }
}

async function plain(stream, label, work) {
  const begun = Date.now()
  let next = QUIET_MS
  const timer = setInterval(() => {
    const elapsed = Date.now() - begun
    if (elapsed < next) return
    stream.write(`${label}… ${seconds(elapsed)}\n`)
    next = elapsed + PLAIN_EVERY_MS
  }, 250)
  return finish(stream, { label, begun, timer, clear: '' }, work)
}

async function spin(stream, label, work) {
  const begun = Date.now()
  let frame = 0
  let detail = ''
  const timer = setInterval(() => {
    const elapsed = Date.now() - begun
    if (elapsed < QUIET_MS) return
    const text = `${FRAMES[frame++ % FRAMES.length]} ${label}… ${seconds(elapsed)}${detail && `  ${detail}`}`
    stream.write(`\r\u001b[K${text.slice(0, (stream.columns ?? 80) - 1)}`)
  }, 100)
  const show = (line) => (detail = line.trim())
  return finish(stream, { label, begun, timer, clear: '\r\u001b[K' }, () => work(show))
}

async function finish(stream, { label, begun, timer, clear }, work) {
  let verb = 'failed after'
  try {
    const result = await work(() => {})
    verb = 'done in'
    return result
  } finally {
    clearInterval(timer)
    const elapsed = Date.now() - begun
    if (elapsed >= QUIET_MS) stream.write(`${clear}${label}: ${verb} ${seconds(elapsed)}\n`)
  }
}

function seconds(ms) {
  return `${Math.round(ms / 1000)} s`
}
