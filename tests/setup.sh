#!/bin/sh
# deploy/setup.sh where Rust is missing or too old, with every program it may call under our control: what it installs when
# rustup can be had, and what it says when it cannot. Touches nothing outside a folder of its own.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
status=0

# A PATH of the plain tools, with all packages installed, no cargo, and a network that resolves nothing.
fresh() {
    rm -rf "$folder/bin" "$folder/home"
    mkdir -p "$folder/bin" "$folder/home"
    for tool in sh awk sort head id rm mktemp mkdir chmod cat; do
        ln -s "$(command -v $tool)" "$folder/bin/$tool"
    done
    program dpkg-query 'printf installed'
    program curl 'echo "curl: (6) Could not resolve host" >&2; exit 6'
}

program() { printf '#!/bin/sh\n%s\n' "$2" >"$folder/bin/$1"; chmod 755 "$folder/bin/$1"; }

# A Rust of this version, in the folder where programs are looked for.
rust() { program rustc "echo 'rustc $1 (abc 2026-01-01)'"; program cargo 'exit 0'; }

# What a rustup installer does that works; $where: into which folder.
installer="mkdir -p \"\$where\" && for tool in rustc cargo; do printf '#!/bin/sh\necho \"rustc 1.99.0\"\n' >\"\$where/\$tool\"; chmod 755 \"\$where/\$tool\"; done"

# expect NAME CODE WORDS: the script ends with CODE and says WORDS.
expect() {
    code=0
    said=$(env -i PATH="$folder/bin" HOME="$folder/home" TMPDIR="$folder" deploy/setup.sh build 2>&1) || code=$?
    case "$code $said" in
        "$2 "*"$3"*) echo "ok     setup: $1" ;;
        *) echo "FAILED setup: $1: exit code $code, expected $2 and '$3', said: $said"; status=1 ;;
    esac
}

fresh
expect "no Rust and no network: what to do is named" 1 "Install it by hand"
expect "no Rust and no network: where to get it is named" 1 "https://rustup.rs"

fresh; rust 1.63.0
expect "a Rust that is too old counts as none" 1 "Rust 1.95 or newer is needed"

fresh; rust 1.95.0
expect "a Rust that is new enough is used" 0 ""

fresh; program rustup 'exit 1'
expect "a rustup that fails is told" 1 "cannot install Rust 1.95 here"

fresh; rust 1.63.0; program rustup "where='$folder/bin'; case \$1 in toolchain) $installer;; esac"
expect "a rustup that is there brings a newer Rust" 0 "installing it with rustup"

# curl ... -o FILE is not how it is called: the script comes on standard output.
fresh; program curl "cat <<'END'
where=\"\$HOME/.cargo/bin\"; $installer
END"
expect "rustup's own installer is fetched and run" 0 "installing it with rustup"

fresh; program curl 'echo "exit 1"'
expect "an installer that fails is told" 1 "cannot install Rust 1.95 here"
exit $status
