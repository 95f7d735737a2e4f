#!/bin/sh
# Builds Kubernetes' control plane from source, once, and prints the folder in which each component is found by its
# own name: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubectl.
#
# The folder is kept under ~/.cache/fairlead/cluster by what it was built from; a cold build takes about five minutes of
# two cores. Where KUBEBUILDER_ASSETS names a folder that holds all six, that one is used instead.
set -eu

COMPONENTS="etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl"
GO_MIN=1.26
GO=${GO:-go}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/cluster
HERE=$(cd "$(dirname "$0")" && pwd)

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing_in() {
    for component in $COMPONENTS; do
        [ -x "$1/$component" ] || printf '%s ' "$component"
    done
}

assets() {
    [ -n "${KUBEBUILDER_ASSETS:-}" ] || return 1
    missing=$(missing_in "$KUBEBUILDER_ASSETS")
    if [ -n "$missing" ]; then
        say "KUBEBUILDER_ASSETS ($KUBEBUILDER_ASSETS) lacks ${missing% }; building all of them instead"
        return 1
    fi
    printf '%s\n' "$KUBEBUILDER_ASSETS"
}

check_go() {
    command -v "$GO" >/dev/null || die "Go $GO_MIN or newer is needed to build Kubernetes and there is no '$GO' on the PATH.
Install it from the Go project's own site (Debian 12's is too old), set GO=/path/to/go, or point KUBEBUILDER_ASSETS to a
folder that holds: $COMPONENTS"
    have=$($GO env GOVERSION | sed 's/^go//')
    oldest=$(printf '%s\n%s\n' "$GO_MIN" "$have" | sort -V | head -n 1)
    [ "$oldest" = "$GO_MIN" ] || die "Go $GO_MIN or newer is needed to build Kubernetes; '$GO' is $have. Install a newer one
from the Go project's own site and set GO=/path/to/go."
}

# The server says what version it is only if the linker is told; the module's requirement is where it stands.
version_flags() {
    version=$(sed -n 's/.*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$HERE/go.mod")
    minor=${version#v1.}
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf -- '-X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s ' \
            $package "$version" $package $package "${minor%%.*}"
    done
}

build() {
    check_go
    say "building Kubernetes' control plane into $1 (about five minutes on two cores, once)"
    mkdir -p "$1"
    (cd "$HERE" && CGO_ENABLED=0 "$GO" build -trimpath -ldflags "-s -w $(version_flags)" -o "$1/cluster.new" .) >&2 ||
        die "go build failed (above); the modules come from $($GO env GOPROXY)"
    mv "$1/cluster.new" "$1/cluster"
    for component in $COMPONENTS; do ln -sf cluster "$1/$component"; done
}

assets && exit 0
key=$(cd "$HERE" && cat go.mod go.sum main.go | sha256sum | cut -c 1-16)
folder=$CACHE/$key
mkdir -p "$CACHE"
# Two builds at once would only be slower; whoever comes second finds it done.
exec 9>"$CACHE/.lock"
flock 9
[ -z "$(missing_in "$folder")" ] || build "$folder"
printf '%s\n' "$folder"
