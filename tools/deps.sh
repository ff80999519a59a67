#!/usr/bin/env bash
# Installs Debian packages by name.
#   deps.sh run        what `make build` and the server need; after it the build works offline
#   deps.sh test VENV  what lint and the tests need: analysers, peers, and the official clients in a virtual environment
set -euo pipefail

RUN="gcc g++ libc6-dev make meson ninja-build pkg-config git ca-certificates binutils
  libuv1-dev libjansson-dev libmd-dev libsqlite3-dev libcurl4-openssl-dev libseccomp-dev libhiredis-dev libtomlplusplus-dev
  crun skopeo umoci xz-utils zstd nftables iproute2 mmdebstrap python3 python3-yaml curl"
TEST="clang clang-format clang-tidy libclang-rt-14-dev cppcheck pmccabe libcmocka-dev python3-venv runc wrk
  nginx-light caddy redis-server docker-registry apache2-utils openssl busybox-static strace gdb procps vim-tiny
  docker.io podman netavark aardvark-dns uidmap slirp4netns fuse-overlayfs iptables
  dnsmasq-base runsc dropbear-bin openssh-client"
CLIENTS="opensandbox==1.1.1 opensandbox-cli==1.1.1 pytest==8.3.4 pytest-timeout==2.3.1 websockets==13.1 h11==0.14.0 pyte==0.8.2"
JS_CLIENT="@alibaba-group/opensandbox@0.1.11" # needs Node.js 20
LLHTTP=/usr/local/share/opensandbox/llhttp

# The names among the arguments that are not installed; one dpkg-query for all, it is slow.
absent() {
    local have p
    have=$(dpkg-query -W -f '${db:Status-Abbrev} ${binary:Package}\n' | sed -n 's/^ii *\([^ :]*\).*/\1/p')
    for p in "$@"; do
        grep -qxF -- "$p" <<<"$have" || echo "$p"
    done
}

install() {
    if ! command -v apt-get >/dev/null; then
        echo "This is neither Debian nor Ubuntu. Install the equivalents of:" "$@" >&2
        exit 1
    fi
    local want
    want=$(absent "$@")
    [ -n "$want" ] || return 0
    [ "$(id -u)" = 0 ] || { echo "Run as root, or install:" $want >&2; exit 1; }
    echo "installing:" $want
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends $want >/tmp/opensandbox-apt.log 2>&1 ||
        { tail -20 /tmp/opensandbox-apt.log >&2; exit 1; }
}

# Debian ships llhttp as C sources inside node-llhttp. They are unpacked outside the tree, so that nodejs itself,
# which that package depends on, is not installed.
llhttp() {
    [ -f $LLHTTP/share/llhttp/llhttp.c ] && return 0
    local dir
    dir=$(mktemp -d)
    (
        cd "$dir"
        apt-get download node-llhttp >/dev/null 2>&1 || { apt-get update -q >/dev/null && apt-get download node-llhttp >/dev/null; }
        dpkg-deb -x node-llhttp_*.deb x
    )
    mkdir -p $LLHTTP
    cp -r "$dir"/x/usr/share $LLHTTP/
    rm -rf "$dir"
}

case "${1:-}" in
run)
    install $RUN
    llhttp
    ;;
test)
    install $TEST
    venv=${2:?usage: deps.sh test VENV}
    if ! "$venv/bin/python" -c 'import opensandbox, pytest, pytest_timeout, websockets, h11, pyte' 2>/dev/null || [ ! -x "$venv/bin/osb" ]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check $CLIENTS
    fi
    if [ ! -d "$venv/js/node_modules/@alibaba-group/opensandbox" ]; then
        command -v npm >/dev/null || install nodejs npm
        npm install --silent --no-audit --no-fund --prefix "$venv/js" "$JS_CLIENT"
    fi
    ;;
*)
    echo "usage: deps.sh run | deps.sh test VENV" >&2
    exit 2
    ;;
esac
