import Docker from 'dockerode'

/** The engine, asked from outside: tests believe it and not our records. */
export const docker = new Docker()

export async function containersOf(deployment: string, part?: 'sandbox' | 'redis'): Promise<Docker.ContainerInfo[]> {
  const label = [`webtask.deployment=${deployment}`, ...(part === undefined ? [] : [`webtask.part=${part}`])]
  return docker.listContainers({ all: true, filters: { label } })
}

/** Looks until `look` gives something, up to `ms`; then fails saying what was waited for. */
export async function eventually<T>(what: string, look: () => Promise<T | undefined | false> | T | undefined | false, ms = 10_000): Promise<T> {
  const end = performance.now() + ms
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== false) return found
    if (performance.now() > end) throw new Error(`Waited ${ms} ms in vain for: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}
