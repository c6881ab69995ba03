/**
 * Turns source text into a webtask. The language is not declared anywhere, so it is found by trying: CommonJS, then an
 * ES module, then the same with TypeScript's types taken out.
 */
import { pathToFileURL } from 'node:url'
import type { Failure, WebtaskSource } from '../protocol/messages.ts'
import { describe, ownStack } from './describe.ts'
import { createPackageRequire, withoutVersion } from './packages.ts'
import { privateCopy } from './records.ts'
import { unavailableStorage } from './storage.ts'
import { classify, exportOf, unwrapDefault, type Webtask } from './webtask.ts'

const { compileFunction, constants, SourceTextModule } = process.getBuiltinModule('node:vm')
const { registerHooks, stripTypeScriptTypes } = process.getBuiltinModule('node:module')

/** Longest text in a refusal (characters). */
const MAX_FIELD = 8 * 1024

export interface LoadOptions {
  readonly source: WebtaskSource
  /** Holds `node_modules`; the code runs as if it were a file there. */
  readonly packagesDir: string
}

/** What one attempt came to: a value, or a syntax error that leaves the next attempt worth trying. */
type Attempt = { readonly exported: unknown } | { readonly syntaxError: Error }

export async function loadWebtask({ source, packagesDir }: LoadOptions): Promise<Webtask | Failure> {
  const code = source.code.replace(/^\uFEFF/, '').replace(/^#!.*/, '')
  try {
    const attempt = await tryLanguages(code, { source, packagesDir })
    return 'syntaxError' in attempt ? compileFailure(attempt.syntaxError) : classify(attempt.exported)
  } catch (thrown) {
    return compileFailure(thrown)
  }
}

async function tryLanguages(code: string, options: LoadOptions): Promise<Attempt> {
  const isTypeScript = /\.[mc]?ts$/.test(pathOf(options.source.url))
  const plain = isTypeScript ? undefined : await tryJavaScript(code, { ...options, extension: 'js' })
  if (plain && 'exported' in plain) return plain
  let stripped: string
  try {
    stripped = stripTypeScriptTypes(code, { mode: 'strip', sourceUrl: `${options.packagesDir}/webtask.${isTypeScript ? 'ts' : 'js'}` })
  } catch (error) {
    // It is TypeScript for certain only when it uses a part of the language that cannot be stripped.
    const unsupported = (error as { code?: unknown }).code === 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX'
    return { syntaxError: plain && !unsupported ? located(plain.syntaxError, error as Error) : (error as Error) }
  }
  if (plain && stripped === code) return plain
  return tryJavaScript(stripped, { ...options, extension: 'ts' })
}

/** V8 does not say where in a module the error is, but the parser of types, which stumbled over the same place, does. */
function located(error: Error, elsewhere: Error): Error {
  if (/^\S*webtask\.\w+:\d/.test(String(error.stack))) return error
  const [place] = String(elsewhere.stack).split(/\n\w*Error/, 1)
  error.stack = `${place}\n${error.name}: ${error.message}`
  return error
}

type ScriptOptions = LoadOptions & { readonly extension: 'js' | 'ts' }

async function tryJavaScript(code: string, options: ScriptOptions): Promise<Attempt> {
  const script = tryScript(code, options)
  if ('exported' in script) return script
  const module = await tryModule(code, options)
  return 'exported' in module || meansModule(script.syntaxError) ? module : script
}

/** The syntax errors of code that was clearly meant as an ES module. */
const meansModule = ({ message }: Error): boolean =>
  /^(Cannot use import statement|Unexpected token 'export'|Cannot use 'import\.meta'|await is only valid|Identifier '(__filename|__dirname|require|module|exports)' has already)/.test(
    message,
  )

function tryScript(code: string, { source, packagesDir, extension }: ScriptOptions): Attempt {
  const filename = `${packagesDir}/webtask.${extension}`
  let run: Function
  try {
    run = compileFunction(code, ['exports', 'require', 'module', '__filename', '__dirname'], {
      filename,
      importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    })
  } catch (error) {
    return { syntaxError: error as Error }
  }
  const module = {
    id: filename,
    filename,
    exports: {} as unknown,
    loaded: false,
    children: [],
    paths: [`${packagesDir}/node_modules`],
    require: createPackageRequire(filename),
    webtask: {
      meta: privateCopy(source.meta),
      params: privateCopy(source.params),
      secrets: privateCopy(source.secrets),
      storage: unavailableStorage,
    },
  }
  const returned: unknown = run.call(module.exports, module.exports, module.require, module, filename, packagesDir)
  module.loaded = true
  return { exported: unwrapDefault(returned || module.exports) }
}

async function tryModule(code: string, { packagesDir, extension }: ScriptOptions): Promise<Attempt> {
  const url = pathToFileURL(`${packagesDir}/webtask.${extension === 'ts' ? 'mts' : 'mjs'}`).href
  try {
    // `import` alone would give the error without its place, and not apart from errors that running code throws.
    void new SourceTextModule(code, { identifier: url })
  } catch (error) {
    return { syntaxError: error as Error }
  }
  // The module exists in memory only, under the name of a file beside the packages so that bare imports find them.
  registerHooks({
    resolve(specifier, context, next) {
      if (specifier === url) return { url, format: 'module', shortCircuit: true }
      const plain = context.parentURL === url ? withoutVersion(specifier) : undefined
      return next(plain ?? specifier, context)
    },
    load: (address, context, next) => (address === url ? { format: 'module', source: code, shortCircuit: true } : next(address, context)),
  })
  return { exported: exportOf((await import(url)) as Record<string, unknown>) }
}

function compileFailure(thrown: unknown): Failure {
  const { details, message, name, stack } = describe(thrown)
  const missing = (thrown as { code?: unknown } | null)?.code
  const isMissing = missing === 'MODULE_NOT_FOUND' || missing === 'ERR_MODULE_NOT_FOUND'
  const first = message.split('\n', 1)[0]!
  const text = typeof details === 'string' ? details : message
  return {
    status: 400,
    error: cut(`Unable to compile submitted JavaScript: ${isMissing ? `Error: ${first}` : text}`),
    message: cut(isMissing ? `Compilation failed: ${first}` : message),
    details: cut(text),
    ...(name === undefined ? {} : { name: cut(name) }),
    ...(stack === undefined ? {} : { stack: cut(ownStack(stack)) }),
  }
}

/** All of it together must fit into one frame. */
const cut = (text: string): string => text.slice(0, MAX_FIELD)

function pathOf(url: string | null): string {
  return URL.parse(url ?? '')?.pathname ?? ''
}
