/**
 * Compares what is recorded with what runs: orphans run without a record and are removed, ghosts are recorded
 * without running and are forgotten.
 */
export function drift(recorded: ReadonlySet<string>, running: ReadonlySet<string>): { orphans: string[]; ghosts: string[] } {
  return { orphans: [...running.difference(recorded)], ghosts: [...recorded.difference(running)] }
}
