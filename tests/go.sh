# Building programs of Go modules once and keeping them under ~/.cache/fairlead. To be sourced, with NAME set.

GO_MIN=1.26
GO=${GO:-go}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/$NAME

say() { printf '%s: %s\n' "$NAME" "$*" >&2; }
die() { say "$*"; exit 1; }

# need_go WHAT OTHERWISE: what is built, and what else can be done.
need_go() {
    command -v "$GO" >/dev/null || die "Go $GO_MIN or newer is needed to build $1 and there is no '$GO' on the PATH.
Install it from the Go project's own site (Debian 12's is too old), set GO=/path/to/go, or $2"
    have=$($GO env GOVERSION | sed 's/^go//')
    oldest=$(printf '%s\n%s\n' "$GO_MIN" "$have" | sort -V | head -n 1)
    [ "$oldest" = "$GO_MIN" ] || die "Go $GO_MIN or newer is needed to build $1; '$GO' is $have. Install a newer one
from the Go project's own site and set GO=/path/to/go."
}

# go_build PROGRAM PACKAGE FLAGS: in this folder's module.
go_build() {
    # What -w would leave out is not made in the first place.
    (cd "$HERE" && CGO_ENABLED=0 "$GO" build -trimpath -gcflags=all=-dwarf=false -ldflags "-s -w $3" -o "$1.new" "$2") >&2 ||
        die "go build failed (above); the modules come from $($GO env GOPROXY)"
    mv "$1.new" "$1"
}

# kept FILE...: the folder named after these files' content, for whoever builds from them. Two builds at once would only be
# slower: from here on there is one at a time, and whoever comes second finds it done.
kept() {
    folder=$CACHE/$(cd "$HERE" && cat "$@" | sha256sum | cut -c 1-16)
    mkdir -p "$folder"
    exec 9>"$CACHE/.lock"
    flock 9
}
