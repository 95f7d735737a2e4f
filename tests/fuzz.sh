#!/bin/sh
# Fuzzes every target of every fuzz crate for the given number of seconds.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: cargo-fuzz is not installed: cargo install cargo-fuzz, and rustup toolchain install nightly" >&2
    exit 1
fi
found=0
for manifest in $(git ls-files '*fuzz/Cargo.toml'); do
    crate=$(dirname "$manifest")
    for target in $(cd "$crate" && cargo +nightly fuzz list); do
        found=$((found + 1))
        echo "fuzz: $crate $target, $seconds s"
        (cd "$crate" && cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -timeout=10)
    done
done
echo "fuzz: $found targets, no finding"
