/** Reads what code threw or called back with. Whatever it is (null, a string, a trap), reading it never throws. */

import { parse, stringify } from './natives.ts'

const MAX_TEXT = 32 * 1024
/** Frames of the agent's own files say nothing to the code's author. */
const AGENT_DIR = import.meta.url.slice(0, import.meta.url.lastIndexOf('/') + 1)

export interface Description {
  /** The thrown thing in full: a string for errors, JSON data for plain objects. */
  readonly details: unknown
  readonly message: string
  readonly name?: string
  readonly stack?: string
}

export function describe(thrown: unknown): Description {
  const isObject = (typeof thrown === 'object' && thrown !== null) || typeof thrown === 'function'
  const text = asText(thrown)
  if (!isObject) return { details: text, message: text }
  // As text, an object that is no error says nothing.
  const message = readText(thrown, 'message') ?? (text === '[object Object]' ? (readText(thrown, 'error') ?? asJson(thrown)) : undefined) ?? text
  const name = readText(thrown, 'name')
  const stack = readText(thrown, 'stack')
  return {
    details: (readText(thrown, 'stack') === undefined ? asData(thrown) : undefined) ?? text,
    message,
    ...(name === undefined ? {} : { name }),
    ...(stack === undefined ? {} : { stack: ownStack(stack) }),
  }
}

/** A stack without the agent's and Node's loader frames. */
export function ownStack(stack: string): string {
  return stack
    .split('\n')
    .filter((line) => !isPlatformFrame(line))
    .join('\n')
}

function isPlatformFrame(line: string): boolean {
  if (!/^\s+at /.test(line)) return false
  return line.includes(AGENT_DIR) || /node:(internal\/|diagnostics_channel:|vm:|_http_server:|events:)/.test(line)
}

function readText(holder: unknown, key: 'message' | 'name' | 'stack' | 'error'): string | undefined {
  try {
    const value = (holder as Record<string, unknown>)[key]
    return typeof value === 'string' ? value.slice(0, MAX_TEXT) : undefined
  } catch {
    return undefined
  }
}

function asText(thrown: unknown): string {
  try {
    return String(thrown).slice(0, MAX_TEXT)
  } catch {
    return 'Something that cannot be shown as text'
  }
}

function asJson(thrown: unknown): string | undefined {
  try {
    const json = stringify(thrown)
    return json !== undefined && json.length <= MAX_TEXT ? json : undefined
  } catch {
    return undefined
  }
}

function asData(thrown: unknown): unknown {
  const json = asJson(thrown)
  return json === undefined ? undefined : parse(json)
}
