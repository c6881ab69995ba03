/**
 * Frames between gateway and agent: a 4-byte big-endian length, then that many bytes of UTF-8 JSON.
 * Zero dependencies: this folder is copied into the sandbox image.
 */

/** Largest frame the agent accepts (bytes): the largest code plus secrets and metadata. */
export const MAX_FRAME_TO_AGENT = 16 * 1024 * 1024
/** Largest frame the gateway accepts (bytes): logs and errors only. Nothing from a sandbox is trusted. */
export const MAX_FRAME_TO_GATEWAY = 256 * 1024

// Taken at once: in a worker, tenant code may replace the globals later.
const { parse, stringify } = JSON

export function encodeFrame(value: unknown): Buffer {
  const body = Buffer.from(stringify(value))
  const frame = Buffer.allocUnsafe(4 + body.length)
  frame.writeUInt32BE(body.length)
  body.copy(frame, 4)
  return frame
}

/**
 * Cuts a byte stream into frames. `push` returns the values completed by this chunk; throws on a frame over
 * `maxBytes` or on bad JSON, after which the stream must be destroyed.
 */
export function createFrameReader(maxBytes: number): { push(chunk: Buffer): unknown[] } {
  let chunks: Buffer[] = []
  let length = 0
  return {
    push(chunk) {
      chunks.push(chunk)
      length += chunk.length
      const values: unknown[] = []
      for (;;) {
        if (length < 4) return values
        // The four length bytes may be spread over chunks: join only when they are.
        if (chunks[0]!.length < 4) chunks = [Buffer.concat(chunks)]
        const size = chunks[0]!.readUInt32BE()
        if (size > maxBytes) throw new RangeError(`Frame of ${size} bytes is over the limit of ${maxBytes}`)
        if (length < 4 + size) return values
        const all = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
        values.push(parse(all.toString('utf8', 4, 4 + size)))
        const rest = all.subarray(4 + size)
        chunks = rest.length > 0 ? [rest] : []
        length = rest.length
      }
    },
  }
}
