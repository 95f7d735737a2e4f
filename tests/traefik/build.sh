#!/bin/sh
# Builds the ingress controller of the tests, Traefik, from source, once, and prints where the program is.
#
# It is kept under ~/.cache/fairlead/traefik by what it was built from; a cold build takes about three minutes of two cores.
# Where TRAEFIK names a program, that one is used instead.
set -eu

NAME=traefik
LEGO=github.com/go-acme/lego/v4
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/../go.sh"

build() {
    need_go Traefik "point TRAEFIK to a traefik program"
    say "building Traefik into $1 (about three minutes on two cores, once)"
    # Without the DNS services of 190 clouds, which only serve to get certificates and are most of what there is to compile.
    lego=$(cd "$HERE" && "$GO" mod download -json $LEGO | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    rm -rf "$1/lego"
    cp -r "$lego" "$1/lego"
    chmod -R u+w "$1/lego"
    cp "$HERE/dns/none.go" "$1/lego/providers/dns/zz_gen_dns_providers.go"
    cp "$HERE/go.mod" "$HERE/go.sum" "$1/"
    "$GO" mod edit -replace "$LEGO=$1/lego" "$1/go.mod"
    version=$(sed -n "s/.*github.com\/traefik\/traefik\/v3 v\([0-9.]*\).*/\1/p" "$HERE/go.mod")
    GOFLAGS="-modfile=$1/go.mod" go_build "$1/traefik" github.com/traefik/traefik/v3/cmd/traefik \
        "-X github.com/traefik/traefik/v3/pkg/version.Version=$version"
    rm -rf "$1/lego" "$1/go.mod" "$1/go.sum"
}

if [ -n "${TRAEFIK:-}" ]; then
    [ -x "$TRAEFIK" ] || die "TRAEFIK ($TRAEFIK) is no program"
    printf '%s\n' "$TRAEFIK"
    exit 0
fi
kept go.mod go.sum dns/none.go
[ -x "$folder/traefik" ] || build "$folder"
printf '%s\n' "$folder/traefik"
