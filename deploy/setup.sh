#!/bin/sh
# Prepares a Debian 12 machine to build Fairlead and to run its lab: packages, Rust, huge pages.
# Idempotent; takes a second when there is nothing to do. Needs root only for what is missing.
#
#   deploy/setup.sh            everything
#   deploy/setup.sh build      only what building needs
#   deploy/setup.sh count      that, and valgrind, which counts instructions for `make instructions`
#   deploy/setup.sh wire       that, and testpmd, which `make bench-wire` compares with
set -eu

RUST_MIN=1.95
HUGEPAGES=${HUGEPAGES:-512}   # of 2 MiB; best effort, the appliance also runs without
WHAT=${1:-all}

BUILD_PACKAGES="build-essential ca-certificates clang curl dpdk git libclang-dev libdpdk-dev pkg-config"
LAB_PACKAGES="bind9-dnsutils dnsmasq-base ethtool ffmpeg iperf3 iproute2 iputils-ping iputils-tracepath libnginx-mod-rtmp libusrsctp-dev mosquitto systemd
mosquitto-clients nftables nginx-light procps tcpdump traceroute"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

missing_packages() {
    for package in "$@"; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || printf '%s ' "$package"
    done
}

# The lab starts its own nginx and mosquitto inside namespaces; the packages must not start theirs on the host.
apt_install() {
    [ "$(id -u)" = 0 ] || die "packages are missing: $*; run this as root, or: apt-get install --no-install-recommends $*"
    command -v apt-get >/dev/null || die "no apt-get here; install what these Debian packages hold: $*"
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
    fi
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be absent or old: try as it is, then refresh and try again.
    # shellcheck disable=SC2068
    apt-get install -y -q --no-install-recommends $@ >/tmp/fairlead-apt.log 2>&1 ||
        { apt-get update -q >>/tmp/fairlead-apt.log 2>&1 || true
          apt-get install -y -q --no-install-recommends $@ >>/tmp/fairlead-apt.log 2>&1; } ||
        { tail -n 20 /tmp/fairlead-apt.log >&2; die "apt-get could not install the packages (log: /tmp/fairlead-apt.log)"; }
    for unit in nginx mosquitto; do
        case " $* " in *" $unit"*) disable_unit $unit ;; esac
    done
}

disable_unit() {
    if [ -d /run/systemd/system ]; then systemctl disable --quiet "$1" 2>/dev/null || true; fi
}

packages() {
    # shellcheck disable=SC2046,SC2086
    missing=$(missing_packages $@)
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086
        apt_install $missing
    fi
}

rust_is_enough() {
    command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
    have=$(rustc --version 2>/dev/null | awk '{print $2}') || return 1
    [ "$(printf '%s\n%s\n' "$RUST_MIN" "$have" | sort -V | head -n 1)" = "$RUST_MIN" ]
}

rust() {
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    export PATH
    if ! rust_is_enough; then
        say "Rust $RUST_MIN or newer is needed; installing it with rustup"
        if command -v rustup >/dev/null; then
            rustup toolchain install stable --profile minimal --component clippy --component rustfmt >/dev/null &&
                rustup default stable >/dev/null || no_rust
        else
            installer=$(mktemp)
            curl --proto '=https' --tlsv1.2 -sSf --max-time 300 https://sh.rustup.rs >"$installer" || no_rust
            sh "$installer" -y --no-modify-path --profile minimal --default-toolchain stable \
                -c clippy -c rustfmt >/dev/null || no_rust
            rm -f "$installer"
        fi
        rust_is_enough || no_rust
    fi
    for tool in clippy rustfmt; do
        if ! cargo ${tool%rustfmt} --version >/dev/null 2>&1 && ! command -v $tool >/dev/null; then
            rustup component add $tool >/dev/null 2>&1 || say "no $tool: 'make lint' will not run; add it with: rustup component add $tool"
        fi
    done
}

no_rust() {
    die "cannot install Rust $RUST_MIN here (no way to static.rust-lang.org?). Install it by hand, for example with
  curl https://sh.rustup.rs | sh      (https://rustup.rs explains mirrors and offline installers)
and run this again with cargo on the PATH. Debian 12's own rustc (1.63) is too old."
}

# Where the host forbids it (a container, no memory in one piece) the appliance runs on ordinary pages: slower, not worse.
hugepages() {
    [ "$(id -u)" = 0 ] || return 0
    control=/proc/sys/vm/nr_hugepages
    [ -e $control ] || return 0
    if [ "$(cat $control)" -lt "$HUGEPAGES" ]; then
        { echo "$HUGEPAGES" >$control; } 2>/dev/null || true
        say "huge pages: $(cat $control) of $HUGEPAGES"
    fi
    if [ "$(cat $control)" -gt 0 ] && ! grep -q ' hugetlbfs ' /proc/mounts; then
        mkdir -p /dev/hugepages && mount -t hugetlbfs nodev /dev/hugepages 2>/dev/null ||
            say "no hugetlbfs mount: the appliance will use ordinary pages"
    fi
}

case $WHAT in
    build) packages "$BUILD_PACKAGES" ;;
    count) packages "$BUILD_PACKAGES valgrind" ;;
    wire) packages "$BUILD_PACKAGES dpdk-dev" ;;
    all) packages "$BUILD_PACKAGES $LAB_PACKAGES" ;;
    *) die "usage: $0 [build|count|wire|all]" ;;
esac
rust
[ "$WHAT" = build ] || hugepages
