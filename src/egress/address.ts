/**
 * Which IP addresses are the public internet. Libraries disagree with each other here (`::7f00:1` is "unicast" to ipaddr.js), so the table is
 * ours and ipaddr.js only turns text into bytes. IPv4 is a refuse list; IPv6 is an allow list (2000::/3) with holes, so that every way to
 * write an IPv4 address inside IPv6 (compatible, mapped, NAT64) is refused by construction.
 */
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

const REFUSED_V4 = [
  ['0.0.0.0/8', 'this_network'],
  ['10.0.0.0/8', 'private'],
  ['100.64.0.0/10', 'shared'],
  ['127.0.0.0/8', 'loopback'],
  ['168.63.129.16/32', 'metadata'],
  ['169.254.0.0/16', 'link_local'],
  ['172.16.0.0/12', 'private'],
  ['192.0.0.0/24', 'protocol'],
  ['192.0.2.0/24', 'documentation'],
  ['192.31.196.0/24', 'as112'],
  ['192.52.193.0/24', 'amt'],
  ['192.88.99.0/24', 'relay'],
  ['192.168.0.0/16', 'private'],
  ['192.175.48.0/24', 'as112'],
  ['198.18.0.0/15', 'benchmarking'],
  ['198.51.100.0/24', 'documentation'],
  ['203.0.113.0/24', 'documentation'],
  ['224.0.0.0/4', 'multicast'],
  ['240.0.0.0/4', 'reserved'],
] as const

const GLOBAL_V6 = '2000::/3'

const REFUSED_V6 = [
  ['2001::/23', 'protocol'],
  ['2001:db8::/32', 'documentation'],
  ['2002::/16', 'relay'],
  ['2620:4f:8000::/48', 'as112'],
  ['3fff::/20', 'documentation'],
] as const

/** Why an address is not one we connect to; `not_global` is any IPv6 outside 2000::/3. */
export type AddressRefusal = 'not_an_address' | 'not_global' | (typeof REFUSED_V4)[number][1] | (typeof REFUSED_V6)[number][1]

/** A range of addresses of one family. */
export type AddressBlock = { readonly bytes: readonly number[]; readonly bits: number }
type Block = AddressBlock & { readonly why: AddressRefusal }

const V4_BLOCKS = REFUSED_V4.map(([cidr, why]) => block(cidr, why))
const V6_BLOCKS = REFUSED_V6.map(([cidr, why]) => block(cidr, why))
const V6_GLOBAL = block(GLOBAL_V6, 'not_global')

/**
 * Judges one address as a resolver or a socket spells it. Only the canonical notations are addresses: `127.1`, `0x7f000001`, leading zeros and
 * zone ids are `not_an_address`, because what they mean depends on who reads them.
 */
export function judge(address: string): 'public' | AddressRefusal {
  const family = address.includes('%') ? 0 : isIP(address)
  if (family === 0) return 'not_an_address'
  const bytes = ipaddr.parse(address).toByteArray()
  if (family === 4) return V4_BLOCKS.find((candidate) => contains(candidate, bytes))?.why ?? 'public'
  if (!contains(V6_GLOBAL, bytes)) return 'not_global'
  return V6_BLOCKS.find((candidate) => contains(candidate, bytes))?.why ?? 'public'
}

/** Reads `address/bits`, or an address alone; undefined when it is neither. */
export function parseBlock(text: string): AddressBlock | undefined {
  const [address = '', bits, ...more] = text.split('/')
  const family = address.includes('%') ? 0 : isIP(address)
  const most = family === 4 ? 32 : 128
  const kept = bits === undefined ? most : Number(bits)
  if (family === 0 || more.length > 0 || (bits !== undefined && !/^\d{1,3}$/.test(bits)) || kept > most) return undefined
  return { bytes: ipaddr.parse(address).toByteArray(), bits: kept }
}

/** Whether an address lies in a range; one that is mapped into the other family does not. */
export function isWithin(candidate: AddressBlock, address: string): boolean {
  if (address.includes('%') || isIP(address) === 0) return false
  const bytes = ipaddr.parse(address).toByteArray()
  return bytes.length === candidate.bytes.length && contains(candidate, bytes)
}

function block(cidr: string, why: AddressRefusal): Block {
  const [address, bits] = ipaddr.parseCIDR(cidr)
  return { bytes: address.toByteArray(), bits, why }
}

function contains(candidate: AddressBlock, bytes: readonly number[]): boolean {
  return bytes.every((byte, index) => {
    const kept = Math.min(8, Math.max(0, candidate.bits - index * 8))
    const mask = (0xff << (8 - kept)) & 0xff
    return (byte & mask) === ((candidate.bytes[index] ?? 0) & mask)
  })
}
