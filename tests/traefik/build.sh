#!/bin/sh
# Builds the ingress controller of the tests, Traefik, from source, once, and prints where the program is.
#
# It is kept under ~/.cache/fairlead/traefik by what it was built from; a cold build takes about six minutes of two cores.
# Where TRAEFIK names a program, that one is used instead.
set -eu

NAME=traefik
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/../go.sh"

build() {
    need_go Traefik "point TRAEFIK to a traefik program"
    say "building Traefik into $1 (about six minutes on two cores, once)"
    version=$(sed -n "s/.*github.com\/traefik\/traefik\/v3 v\([0-9.]*\).*/\1/p" "$HERE/go.mod")
    go_build "$1/traefik" github.com/traefik/traefik/v3/cmd/traefik \
        "-X github.com/traefik/traefik/v3/pkg/version.Version=$version"
}

if [ -n "${TRAEFIK:-}" ]; then
    [ -x "$TRAEFIK" ] || die "TRAEFIK ($TRAEFIK) is no program"
    printf '%s\n' "$TRAEFIK"
    exit 0
fi
kept go.mod go.sum
[ -x "$folder/traefik" ] || build "$folder"
printf '%s\n' "$folder/traefik"
