#!/bin/sh
# What can be known of deploy/Containerfile without a container engine: what it copies is there; its last stage's packages are
# Debian 12's and bring every library that the program needs, and the plug-ins that DPDK opens for the devices that the
# documentation names. FAIRLEAD_BIN is the product. Not here: that an engine builds it.
set -eu
cd "$(dirname "$0")/.."

file=deploy/Containerfile
binary=${FAIRLEAD_BIN:?the release binary}
# Drivers of devices that the documentation and the lab name, and of common NICs.
drivers="net-af-packet net-af-xdp net-memif net-virtio net-i40e net-ice net-ixgbe net-mlx5 net-vmxnet3 bus-pci bus-vdev"

fail() { echo "tests/container.sh: $*" >&2; exit 1; }

for source in $(sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' $file); do
    git ls-files --error-unmatch "$source" >/dev/null 2>&1 || [ "$source" = . ] || fail "$file copies $source, which is not in the repository"
done
git check-ignore -q target || fail "target is not ignored, and .dockerignore leaves it out"

. /etc/os-release
if [ "${ID:-} ${VERSION_ID:-}" != "debian 12" ] || ! apt-cache show librte-meta-net >/dev/null 2>&1; then
    echo "tests/container.sh: SKIPPED, the image's packages were NOT tested: this is not Debian 12 with package lists" >&2
    exit 0
fi

# The last stage's packages, and all they depend on.
wanted=$(sed -n '/^FROM debian:12-slim/,$p' $file | tr '\\\n' '  ' | sed -n 's/.*apt-get install -y --no-install-recommends \([^&]*\)&&.*/\1/p')
[ -n "$wanted" ] || fail "no packages found in the last stage of $file"
# shellcheck disable=SC2086
apt-cache show $wanted >/dev/null || fail "Debian 12 has not all of: $wanted"
# shellcheck disable=SC2086
closure=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances $wanted |
    grep -v '[<|]' | sed 's/^.*: //; s/^ *//' | sort -u)
has() { printf '%s\n' "$closure" | grep -qx "$1"; }

count=0
for library in $(ldd "$binary" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p'); do
    # By its last part: dpkg knows some below /lib, some below /usr/lib.
    package=$(dpkg -S "*-linux-gnu/$(basename "$(readlink -f "$library")")" 2>/dev/null | head -n 1 | cut -d: -f1)
    [ -n "$package" ] || fail "$library belongs to no package"
    has "$package" || [ "$(dpkg-query -W -f '${Priority}' "$package")" = required ] ||
        fail "the program needs $library of $package, which the image would not have"
    count=$((count + 1))
done
[ $count -gt 10 ] || fail "the program needs $count libraries only: was it built with DPDK?"
for driver in $drivers; do
    has "librte-${driver}23" || has "librte-${driver}-23" || fail "no driver $driver in the image"
done
echo "tests/container.sh: the image would have $count libraries and every driver named"
