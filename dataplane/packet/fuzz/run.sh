#!/bin/sh
# Fuzzes every target for SECONDS each (default 60): run.sh [SECONDS]
#
# The flags are those of cargo-fuzz; RUSTC_BOOTSTRAP lets a stable compiler take them. New inputs go to target/corpus; a
# crash is left in artifacts: fix it, then store the input in corpus/TARGET, where `cargo test -p packet` replays it.
set -eu
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-target}
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
 -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Cdebug-assertions" \
    cargo build --release --target "$host" --target-dir "$target_dir"
mkdir -p artifacts
for target in parse rewrite reply; do
    mkdir -p "$target_dir/corpus/$target"
    "$target_dir/$host/release/$target" "$target_dir/corpus/$target" "corpus/$target" \
        -artifact_prefix=artifacts/ -max_len=2048 -max_total_time="${1:-60}" -print_final_stats=1
done
