#!/usr/bin/env bash
# Makes our images in the engine of DOCKER_HOST, from what was built and this host's Debian packages; nothing is fetched.
#   opensandbox/execd:local    execd alone: /execd, /bootstrap.sh (for servers that inject them), /opt/opensandbox/bin/execd
#   opensandbox/egress:local   egress, and nft with the libraries it is linked with: the sidecar of network policies
set -euo pipefail
execd=${1:?usage: build.sh EXECD EGRESS} egress=${2:?usage: build.sh EXECD EGRESS}
engine=$(command -v docker || command -v podman) || { echo "docker or podman is needed: apt-get install docker.io" >&2; exit 1; }
nft=$(PATH=$PATH:/usr/sbin:/sbin command -v nft) || { echo "nft is needed: apt-get install nftables" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

import() { # directory, image, change...
    local dir=$1 image=$2 changes=()
    shift 2
    for c in "$@"; do changes+=(--change "$c"); done
    tar -C "$dir" --owner=0 --group=0 --numeric-owner --mtime=@0 --sort=name -c . | "$engine" import "${changes[@]}" - "$image"
    echo "$image"
}

dir=$work/execd
install -D -m 0755 "$execd" "$dir/execd"
install -D -m 0755 "$execd" "$dir/opt/opensandbox/bin/execd"
cat >"$dir/bootstrap.sh" <<'SH'
#!/bin/sh
# Starts the sandbox's command under execd; what the command is, execd init decides.
exec "${EXECD:-/opt/opensandbox/execd}" init -- "$@"
SH
chmod 0755 "$dir/bootstrap.sh"
import "$dir" opensandbox/execd:local 'LABEL opensandbox.io/execd=init' 'ENTRYPOINT ["/execd"]'

dir=$work/egress
install -D -m 0755 "$egress" "$dir/egress"
install -D -m 0755 "$(readlink -f "$nft")" "$dir/usr/sbin/nft"
# name => file (address), and the loader, which is a file alone
ldd "$nft" | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 0755 "$(readlink -f "$library")" "$dir$library"
done
install -d -m 0755 "$dir/etc" "$dir/proc" "$dir/sys" "$dir/dev" "$dir/var/egress/rules"
install -d -m 1777 "$dir/tmp"
import "$dir" opensandbox/egress:local 'LABEL opensandbox.io/egress=closed' 'ENTRYPOINT ["/egress"]' 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin'
