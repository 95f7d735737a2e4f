#!/bin/sh
# Builds Kubernetes' control plane from source, once, and prints the folder in which each component is found by its
# own name: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubectl.
#
# The folder is kept under ~/.cache/fairlead/cluster by what it was built from; a cold build takes about five minutes of
# two cores. Where KUBEBUILDER_ASSETS names a folder that holds all six, that one is used instead.
set -eu

NAME=cluster
HERE=$(cd "$(dirname "$0")" && pwd)
COMPONENTS="etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl"
. "$HERE/../go.sh"

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
    need_go Kubernetes "point KUBEBUILDER_ASSETS to a
folder that holds: $COMPONENTS"
    say "building Kubernetes' control plane into $1 (about five minutes on two cores, once)"
    go_build "$1/cluster" . "$(version_flags)"
    for component in $COMPONENTS; do ln -sf cluster "$1/$component"; done
}

assets && exit 0
kept go.mod go.sum main.go
[ -z "$(missing_in "$folder")" ] || build "$folder"
printf '%s\n' "$folder"
