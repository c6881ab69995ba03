/**
 * URLs that lead, or might be taken to lead, to addresses that are not the public internet: the first, a middle and the last address
 * of every special block, written in all the ways that some parser somewhere understands.
 */

/** IANA's special-purpose blocks and what clouds use, as first, middle and last address. */
const V4_BLOCKS: readonly (readonly [name: string, addresses: readonly string[]])[] = [
  ['this network', ['0.0.0.0', '0.1.2.3', '0.255.255.255']],
  ['private 10', ['10.0.0.0', '10.11.12.13', '10.255.255.255']],
  ['shared', ['100.64.0.0', '100.100.100.200', '100.127.255.255']],
  ['loopback', ['127.0.0.1', '127.1.2.3', '127.255.255.255']],
  ['link-local', ['169.254.0.0', '169.254.169.254', '169.254.255.255']],
  ['private 172', ['172.16.0.0', '172.17.0.1', '172.31.255.255']],
  ['protocol assignments', ['192.0.0.0', '192.0.0.170', '192.0.0.255']],
  ['documentation 1', ['192.0.2.0', '192.0.2.2', '192.0.2.255']],
  ['relay', ['192.88.99.0', '192.88.99.1', '192.88.99.255']],
  ['private 192', ['192.168.0.0', '192.168.1.1', '192.168.255.255']],
  ['benchmarking', ['198.18.0.0', '198.19.0.1', '198.19.255.255']],
  ['documentation 2', ['198.51.100.0', '198.51.100.7', '198.51.100.255']],
  ['documentation 3', ['203.0.113.0', '203.0.113.7', '203.0.113.255']],
  ['multicast', ['224.0.0.0', '239.255.255.250', '239.255.255.255']],
  ['reserved', ['240.0.0.0', '250.1.2.3', '255.255.255.255']],
  ['platform of a cloud', ['168.63.129.16']],
]

const V6: readonly string[] = [
  '::', '::1', '100::', '100:0:0:1::1', 'fc00::', 'fd00:ec2::254', 'fdff:ffff::1', 'fe80::', 'fe80::1', 'febf::1', 'fec0::1', 'ff00::1', 'ff02::1', 'ffff::1',
  '2001::1', '2001:1::1', '2001:2::1', '2001:10::1', '2001:20::1', '2001:1ff::1', '2001:db8::', '2001:db8:ffff::1', '2002::1', '3fff::1', '3fff:fff::1',
  '4000::1', '5f00::1', '64:ff9b::1', '64:ff9b:1::1', '2620:4f:8000::1', '1::', '1fff::1', '8000::1',
] // prettier-ignore

const FULL_WIDTH = { 0: '０', 1: '１', 2: '２', 3: '３', 4: '４', 5: '５', 6: '６', 7: '７', 8: '８', 9: '９', '.': '。' } as const
const CIRCLED = ['⓪', '①', '②', '③', '④', '⑤', '⑥', '⑦', '⑧', '⑨'] as const

const bytesOf = (address: string) => address.split('.').map(Number) as [number, number, number, number]
const number = ([a, b, c, d]: readonly [number, number, number, number]) => ((a * 256 + b) * 256 + c) * 256 + d
const hex = (value: number, width = 0) => value.toString(16).padStart(width, '0')
const groups = ([a, b, c, d]: readonly [number, number, number, number]) => `${hex(a * 256 + b)}:${hex(c * 256 + d)}`

/** Every spelling of an IPv4 address as a host of a URL. */
function v4Hosts(address: string): readonly string[] {
  const bytes = bytesOf(address)
  const [a, b, c, d] = bytes
  const whole = number(bytes)
  return [
    address,
    `${address}.`,
    bytes.map((byte) => `0x${hex(byte)}`).join('.'),
    bytes.map((byte) => `0${byte.toString(8)}`).join('.'),
    bytes.map((byte) => `00000${byte.toString(8)}`).join('.'),
    `0x${hex(a)}.${b}.0${c.toString(8)}.${d}`,
    `0x${hex(whole, 8)}`,
    `0${whole.toString(8)}`,
    String(whole),
    `${a}.${(b * 256 + c) * 256 + d}`,
    `${a}.${b}.${c * 256 + d}`,
    [...address].map((letter) => FULL_WIDTH[letter as keyof typeof FULL_WIDTH]).join(''),
    [...address].map((letter) => (letter === '.' ? '.' : CIRCLED[Number(letter)])).join(''),
    [...address].map((letter) => `%${hex(letter.charCodeAt(0), 2)}`).join(''),
    address.replaceAll('.', '%2e'),
    `[::ffff:${address}]`,
    `[::ffff:${groups(bytes)}]`,
    `[0:0:0:0:0:ffff:${groups(bytes)}]`,
    `[::${address}]`,
    `[::ffff:0:${address}]`,
    `[64:ff9b::${address}]`,
    `[64:ff9b:1::${address}]`,
    `[2002:${groups(bytes)}::1]`,
    `[2001:0:${groups(bytes)}::1]`,
    `[2001::${groups([255 - a, 255 - b, 255 - c, 255 - d])}]`,
    `[fe80::5efe:${address}]`,
    `[::ffff:${address}%25eth0]`,
  ]
}

function v6Hosts(address: string): readonly string[] {
  return [`[${address}]`, `[${address}%25eth0]`, `[${address}%eth0]`, `[${address.toUpperCase()}]`]
}

/** Names and texts that no table of addresses holds. */
const NAMES: readonly string[] = [
  'localhost', 'localhost.', 'LOCALHOST', 'ＬＯＣＡＬＨＯＳＴ', 'localhost.localdomain', 'a.localhost', 'ip6-localhost', 'metadata', 'metadata.google.internal',
  'metadata.google.internal.', 'instance-data', 'kubernetes.default.svc.cluster.local', 'host.docker.internal', 'gateway.docker.internal', 'db', 'redis', 'printer.local', 'router.lan',
  'x.home.arpa', '1.0.0.127.in-addr.arpa', 'a.onion', 'a.test', 'a.invalid', 'wpad', 'intranet', 'x.corp', '127.1', '0', '0x0', '017700000001', '0177.1', '127.0.1',
] // prettier-ignore

/** Ways to wrap a host into a URL that reads differently to different parsers. `H` is the host. */
const WRAPPINGS: readonly string[] = [
  'https://H/', 'https://H:443/', 'http://H/', 'https://H:8443/', 'https://user@H/', 'https://user:word@H/', 'https://example.com@H/', 'https://example.com%40H/',
  'https://H#@example.com/', 'https://H?@example.com/', 'https://H\\@example.com/', 'https://example.com\\@H/', 'https:/H/', 'https:H/', 'https:///H/', 'https:\\\\H\\',
  '//H/', 'https://H\t/', 'h\nttps://H/', ' https://H/', 'https://H\u0000.example.com/', 'ftp://H/', 'file://H/etc/passwd', 'gopher://H/', 'jar:https://H!/', 'javascript://H/',
  'HTTPS://H/', 'https://H%00/', 'https://H%0d%0aX:y/', 'https://[H]/', 'https://H.:443/', 'https://-H/', 'https://H:443@example.com:80/', 'unix:H', 'data:text/javascript,H',
] // prettier-ignore

/** Hosts that are no public place, each once. */
export function innerHosts(): readonly string[] {
  const four = V4_BLOCKS.flatMap(([, addresses]) => addresses.flatMap(v4Hosts))
  return [...new Set([...four, ...V6.flatMap(v6Hosts), ...NAMES])]
}

/** Whole URLs: each inner host as it is, and some of them in every wrapping. */
export function ssrfUrls(): readonly string[] {
  const wrapped = ['127.0.0.1', 'localhost', '169.254.169.254', '[::1]', '2130706433', '[::ffff:127.0.0.1]'].flatMap((host) =>
    WRAPPINGS.map((wrapping) => wrapping.replace('H', host)),
  )
  return [...new Set([...innerHosts().map((host) => `https://${host}/code.js`), ...wrapped])]
}

/** Public names, as wildcard DNS services have them, with the address that each would resolve to. */
export function rebindingNames(): readonly (readonly [name: string, address: string])[] {
  const four = V4_BLOCKS.flatMap(([, addresses]) =>
    addresses.map((address) => [`${address.replaceAll('.', '-')}.wildcard.example.com`, address] as const),
  )
  const embedded = V4_BLOCKS.flatMap(([, addresses]) =>
    addresses.slice(0, 1).flatMap((address) => {
      const bytes = bytesOf(address)
      const name = `v6-${address.replaceAll('.', '-')}.wildcard.example.com`
      return [`::ffff:${address}`, `::${address}`, `64:ff9b::${groups(bytes)}`, `2002:${groups(bytes)}::1`, `2001:0:${groups(bytes)}::1`].map(
        (target) => [name, target] as const,
      )
    }),
  )
  const six = V6.map((address, index) => [`six-${index}.wildcard.example.com`, address] as const)
  return [...four, ...embedded, ...six]
}
