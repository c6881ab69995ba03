import { randomBytes } from 'node:crypto'
import { open, readFile, rename, rm } from 'node:fs/promises'

/** Plans as they were given, by name, and who has which; the version grows with every change. */
export interface PlanRecords {
  readonly version: number
  readonly plans: Readonly<Record<string, string>>
  readonly holders: Readonly<Record<string, string>>
}

/** The durable copy of the plans: what Redis may lose, this has. Several processes may share it. */
export interface PlanFile {
  read(): Promise<PlanRecords | undefined>
  /** Resolves when the disk has these or newer ones. */
  write(records: PlanRecords): Promise<void>
}

export function openPlanFile(file: string): PlanFile {
  async function read(): Promise<PlanRecords | undefined> {
    const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw error
    })
    return text === undefined ? undefined : (JSON.parse(text) as PlanRecords)
  }
  return {
    read,
    async write(records) {
      if (((await read())?.version ?? 0) > records.version) return
      const fresh = `${file}.${randomBytes(4).toString('hex')}`
      try {
        await using handle = await open(fresh, 'wx', 0o600)
        await handle.writeFile(JSON.stringify(records))
        await handle.datasync()
        await rename(fresh, file)
      } catch (error) {
        await rm(fresh, { force: true })
        throw error
      }
    },
  }
}
