#!/bin/sh
# Fuzzes every target of every fuzz crate, or those named, for SECONDS each (default 60): fuzz.sh [SECONDS [TARGET...]]
#
# The crates have cargo-fuzz's layout, but need neither it nor a nightly Rust: the flags below are its own, and
# RUSTC_BOOTSTRAP lets a stable compiler take them. What the fuzzer finds interesting is kept under target/fuzz. A crash is
# left in the crate's artifacts/: fix it, then store the input in corpus/TARGET, where `cargo test` replays it.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
wanted=" $* "
host=$(rustc -vV | sed -n 's/^host: //p')
work=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Cdebug-assertions"
found=0
for manifest in $(git ls-files '*fuzz/Cargo.toml'); do
    crate=$(dirname "$manifest")
    cargo build -q --release --manifest-path "$manifest" --target "$host" --target-dir "$work"
    mkdir -p "$crate/artifacts"
    for target in $(sed -n '/^\[\[bin\]\]/,/^name/s/^name = "\(.*\)"/\1/p' "$manifest"); do
        case $wanted in *" $target "*|"  ") ;; *) continue ;; esac
        found=$((found + 1))
        echo "fuzz: $crate $target, $seconds s"
        mkdir -p "$work/corpus/$crate/$target" "$crate/corpus/$target"
        "$work/$host/release/$target" "$work/corpus/$crate/$target" "$crate/corpus/$target" \
            -artifact_prefix="$crate/artifacts/" -max_len=2048 -timeout=10 -max_total_time="$seconds" >"$work/$target.log" 2>&1 ||
            { tail -n 60 "$work/$target.log"; exit 1; }
        grep '^Done ' "$work/$target.log"
    done
done
echo "fuzz: $found targets, no finding"
