#!/bin/bash
# Every test there is, in two sequences side by side; `make test` runs it.
#
# Tests on wires wait most of their time: for packets, timers, servers. What only computes is done meanwhile, in a scheduling
# class that gets what nobody else wants. Its output is shown last.
set -u
cd "$(dirname "$0")/.." || exit 1

# Kubernetes is in both: it is begun at once, and who comes second waits for it and, where it could not be built, tries
# again and tells why. What holds a lock of cargo's while the other sequence wants it has all processors until it is done;
# layers come first, so that Kubernetes' tests are past those locks by then.
COMPUTED="cluster layers instructions lint doc"
ON_WIRES="setup-test unit dpdk-test build e2e systemd-test container-test cluster e2e-kubernetes kube-proxy"

said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT
idle="chrt --idle 0"
$idle true 2>/dev/null || idle="nice -n 19"

# A process group each, so that nothing of either goes on when this is ended.
set -m
# shellcheck disable=SC2086
$idle make --no-print-directory -k $COMPUTED >"$said" 2>&1 </dev/null &
computed=$!
# shellcheck disable=SC2086
make --no-print-directory $ON_WIRES </dev/null &
on_wires=$!
trap 'kill -- -$computed -$on_wires 2>/dev/null; exit 1' INT TERM HUP

wait $on_wires
on_wires_status=$?
echo "make test: $ON_WIRES: status $on_wires_status; now $COMPUTED:"
wait $computed
computed_status=$?
cat "$said"
echo "make test: status $on_wires_status of tests on wires, $computed_status of what is computed"
[ $on_wires_status = 0 ] && [ $computed_status = 0 ]
