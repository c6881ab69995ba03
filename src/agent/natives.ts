/**
 * Globals as they were before any tenant code ran. Code replaces them in good faith (`Promise = require('bluebird')`)
 * and in bad; either way the platform's part of the thread keeps its own.
 */
export const NativePromise = Promise
export const { parse, stringify } = JSON
export const { byteLength } = Buffer
