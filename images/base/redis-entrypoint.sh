#!/bin/sh
# Bare flags mean redis-server; root becomes the user redis. Protected mode is off as in the official image: the container's network is the fence.
set -eu
case ${1:-} in -* | *.conf) set -- redis-server "$@" ;; esac
[ "$1" = redis-server ] || exec "$@"
set -- "$@" --protected-mode no
[ "$(id -u)" = 0 ] || exec "$@"
find . ! -user redis -exec chown redis:redis {} +
exec setpriv --reuid=redis --regid=redis --clear-groups -- "$@"
