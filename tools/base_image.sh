#!/bin/sh
# base_image.sh OUT.tar [MIRROR...]: makes the base image (Debian 12 with bash and python3) as a plain root tarball, for
# `opensandbox-server image import`. Needs root and mmdebstrap; about 20 s and 40 MB of packages the first time.
# A copy is kept in /var/cache/opensandbox under a key of this script, the architecture and the mirrors; the same key
# is never built twice. MIRROR as mmdebstrap(1) takes it, e.g. "deb [trusted=yes] copy:/dir ./" for no network.
set -eu

[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
out=$1
shift
cache=/var/cache/opensandbox
tar=$cache/base-bookworm.tar
[ "$(id -u)" = 0 ] || { echo "base_image.sh: must run as root (mmdebstrap --mode=root makes files of root)" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "base_image.sh: mmdebstrap is missing: apt-get install mmdebstrap" >&2; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/.lock" # two builds at once would only fight over the same mirror
flock 9
key=$({ cat "$0"; dpkg --print-architecture; printf '%s\n' "$@"; } | sha256sum | cut -c1-64)
if [ "$(cat "$tar.key" 2>/dev/null || true)" = "$key" ] && [ -s "$tar" ]; then
    echo "base image: using $tar"
else
    echo "base image: building from Debian packages (about 20 s)"
    rm -f "$tar.key" "$tar.new"
    trap 'rm -f "$tar.new"' EXIT
    # A fixed time instead of the build's, so that the same packages make the same files (Debian 12.0).
    export SOURCE_DATE_EPOCH=1686355200
    TMPDIR=${TMPDIR:-/tmp} mmdebstrap --mode=root --variant=essential --include=python3 --format=tar \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm "$tar.new" "$@" 9>&-
    mv "$tar.new" "$tar"
    echo "$key" >"$tar.key"
    trap - EXIT
    echo "base image: built $(du -m "$tar" | cut -f1) MiB"
fi
if [ "$(realpath -m "$out")" != "$tar" ]; then
    cp --reflink=auto "$tar" "$out.new"
    mv "$out.new" "$out"
    echo "base image: $out"
fi
