#!/usr/bin/env bash
# Makes the image opensandbox/execd:local in the engine of DOCKER_HOST from nothing but execd: /execd, /bootstrap.sh (for servers
# that inject them) and /opt/opensandbox/bin/execd.
set -euo pipefail
execd=${1:?usage: images.sh EXECD}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
install -D -m 0755 "$execd" "$dir/execd"
install -D -m 0755 "$execd" "$dir/opt/opensandbox/bin/execd"
cat >"$dir/bootstrap.sh" <<'SH'
#!/bin/sh
# Starts the sandbox's command under execd; what the command is, execd init decides.
exec "${EXECD:-/opt/opensandbox/execd}" init -- "$@"
SH
chmod 0755 "$dir/bootstrap.sh"
tar -C "$dir" --owner=0 --group=0 --numeric-owner --mtime=@0 -c execd bootstrap.sh opt |
    docker import --change 'LABEL opensandbox.io/execd=init' --change 'ENTRYPOINT ["/execd"]' - opensandbox/execd:local
