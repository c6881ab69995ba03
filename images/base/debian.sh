#!/bin/sh
# Makes the file system of a minimal Debian and writes it to stdout as a tar, for machines that reach no image registry.
# debian.sh SUITE MIRROR [apt source line…]
set -eu
suite=$1 mirror=$2
shift 2
root=$(mktemp -d /var/tmp/webtask-debian.XXXXXX)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase "$suite" "$root" "$mirror" >&2
printf '%s\n' "$@" >"$root/etc/apt/sources.list"
# The machine's own way to its mirrors: a proxy, patience, leniency with an old mirror.
apt-config dump | grep -E '^Acquire::(https?::Proxy|Retries|Check-Valid-Until|Check-Date) ' >"$root/etc/apt/apt.conf.d/90webtask" || true
# What a container has no use for.
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root"/var/log/*.log \
  "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/etc/resolv.conf "$root"/etc/hostname
printf 'path-exclude=/usr/share/%s/*\n' doc man locale >"$root/etc/dpkg/dpkg.cfg.d/webtask"
tar --directory "$root" --numeric-owner --one-file-system -c .
