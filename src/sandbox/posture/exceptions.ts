import { onlySockets, isGvisor } from './control.ts'
import type { SandboxFacts } from './facts.ts'

/** A control that is failed on purpose, why, and when that holds; anything else that fails it stays a FAIL. */
export interface Exception {
  readonly control: string
  readonly reason: string
  holds(facts: SandboxFacts): boolean
}

const SOCKETS =
  "The two mounts are the directories of the sandbox's own sockets, read-only: without them there would have to be a network. They hold nothing else"

/** Every documented exception. There is no other place for one. */
export const EXCEPTIONS: readonly Exception[] = [
  { control: 'PSS baseline: HostPath volumes', reason: SOCKETS, holds: onlySockets },
  { control: 'PSS restricted: volume types', reason: SOCKETS, holds: onlySockets },
  {
    control: 'CIS 5.2',
    reason: 'The engine has no AppArmor here: the kernel lacks it, or it is switched off. Where it is on, the engine applies its profile by itself',
    holds: ({ host }) => !host.securityOptions.some((option) => option.includes('apparmor')),
  },
  {
    control: 'CIS 5.3',
    reason: 'The engine has no SELinux here: the kernel lacks it, or it is switched off, or AppArmor is in its place',
    holds: ({ host }) => !host.securityOptions.some((option) => option.includes('selinux')),
  },
  {
    control: 'CIS 5.27',
    reason: 'A HEALTHCHECK would be a periodic exec into a hostile container. Health is seen on the connections that requests use',
    holds: () => true,
  },
  {
    control: 'webtask 3',
    reason:
      'Remapping is a setting of the whole engine (userns-remap) that only its operator can make. Sandboxes never run as root, and runsc has a user namespace of its own',
    holds: (facts) => !isGvisor(facts) && /^[1-9]\d{5,}:[1-9]\d{5,}$/.test(facts.inspected.Config.User),
  },
]
