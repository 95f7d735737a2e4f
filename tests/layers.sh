#!/bin/sh
# The direction of dependencies and the two places that are special, checked:
#   * every normal dependency between our crates is one that tests/layers.txt allows;
#   * only dataplane/src/io/dpdk.rs names the DPDK crates in the data plane, and nothing else outside ffi/ does;
#   * `unsafe` is written under ffi/ only, and every other crate forbids it.
set -eu
cd "$(dirname "$0")/.."
status=0
complain() { echo "layers: $*" >&2; status=1; }

# "crate -> crate" for every direct normal dependency between packages of this workspace, all features on.
crates=$(cargo metadata --format-version 1 --no-deps --offline 2>/dev/null || cargo metadata --format-version 1 --no-deps)
names=$(printf '%s' "$crates" | tr ',' '\n' | sed -n 's/.*"packages":\[{"name":"\([^"]*\)".*/\1/p; s/^{"name":"\([^"]*\)"$/\1/p' | sort -u)
members=$(for name in $names; do cargo pkgid -p "$name" >/dev/null 2>&1 && echo "$name"; done)
found=$(for name in $members; do
    cargo tree -q -p "$name" -e normal --depth 1 --all-features --prefix none -f '{p}' 2>/dev/null |
        sed 1d | sed -n 's/^\([^ ]*\) v[^ ]* (\/.*/\1/p' | sort -u | while read -r used; do echo "$name -> $used"; done
done | sort -u)
foreign=$(printf '%s\n' "$found" | grep -vxFf tests/layers.txt || true)
[ -z "$foreign" ] || complain "arrows between crates that tests/layers.txt does not allow:
$foreign"

# Code, not prose: comments are cut off before looking.
code() { sed 's@//.*@@' "$1"; }
sources=$(git ls-files --cached --others --exclude-standard '*.rs')
for file in $sources; do
    [ -e "$file" ] || continue
    case $file in
        ffi/*) continue ;;
        dataplane/src/io/dpdk.rs | build.rs) ;;
        *) code "$file" | grep -qE '(^|[^a-z_."])(dpdk|dpdk_sys)::' && complain "$file names DPDK" ;;
    esac
    [ "$file" = build.rs ] || { code "$file" | grep -qE '(^|[^a-z_"])unsafe +(\{|fn|impl|extern|trait)' && complain "$file has unsafe code"; }
done
for root in src/main.rs src/lib.rs control/src/lib.rs dataplane/src/lib.rs dataplane/packet/src/lib.rs \
    dataplane/tables/src/lib.rs deploy/lab/src/lib.rs deploy/lab/src/main.rs perf/src/lib.rs; do
    [ ! -e "$root" ] || grep -q 'forbid(unsafe_code)' "$root" || complain "$root does not forbid unsafe code"
done

[ $status = 0 ] && echo "layers: $(printf '%s\n' "$found" | wc -l) arrows, all allowed"
exit $status
