#!/bin/sh
# The shipped unit under a real systemd: PID 1 of namespaces of its own, on a veth, with every restriction of the unit.
# Started, watched, reloaded, killed, restarted and stopped as an operator would. Root; FAIRLEAD_BIN is the product.
# Where the host does not let systemd run in a namespace, the test says so and passes.
set -eu

# Seconds for everything.
limit=90

skip() {
    echo "tests/systemd.sh: SKIPPED, the unit was NOT tested: $*" >&2
    exit 0
}

# ---- inside: one mount, PID, network and cgroup namespace -------------------------------------------------------------

# A root of its own: the system's /usr, and nothing of its /etc, /var and /run that a unit could see or change.
make_root() {
    root=$1
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs "$root"
    cd "$root"
    mkdir -p usr etc/systemd/system etc/fairlead/manifests var/lib var/tmp run tmp root home proc sys dev report
    mount --rbind /usr usr
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/upper /mnt/work
    mount -t overlay -o lowerdir=/usr/bin,upperdir=/mnt/upper,workdir=/mnt/work overlay usr/bin
    install -m 755 "$binary" usr/bin/fairlead
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$link"; done
    cp -r /etc/ld.so.conf* /etc/ld.so.cache /etc/passwd /etc/group /etc/nsswitch.conf etc/
    [ ! -d /etc/alternatives ] || cp -r /etc/alternatives etc/
    : >etc/machine-id
    # Devices of its own: systemd makes and changes some.
    mount -t tmpfs -o mode=755 tmpfs dev
    mkdir dev/net dev/shm dev/pts
    for node in null zero full random urandom tty net/tun; do cp -a "/dev/$node" "dev/$node"; done
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=1777 tmpfs tmp
}

fill_root() {
    ip link set lo up
    ip link add wire type veth peer name far
    ip link set wire up
    ip link set far up
    cp "$here/deploy/systemd/fairlead.service" etc/systemd/system/
    # A watchdog that would bite within the test.
    mkdir -p etc/systemd/system/fairlead.service.d
    printf '[Service]\nWatchdogSec=2\n' >etc/systemd/system/fairlead.service.d/test.conf
    cat >etc/fairlead/config.yaml <<CONFIG
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- {name: outside, device: "net_af_packet0,iface=wire,framesz=2048,blocksz=65536,framecnt=1024", addresses: [192.0.2.1/24]}
workers: {count: 1, idle: sleep}
dpdk: {memoryMiB: 64}
kubernetes: {manifests: /etc/fairlead/manifests}
forwarding: {flowsPerWorker: 4096}
CONFIG
    mount --bind "$report" report
    cp "$here/tests/systemd.sh" report/steps
    cat >etc/systemd/system/steps.service <<UNIT
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh /report/steps steps
StandardOutput=append:/report/log
StandardError=append:/report/log
ExecStopPost=/bin/systemctl --no-block --force exit
UNIT
}

inside() {
    make_root "$1"
    fill_root
    exec env -i container=test PATH=/usr/sbin:/usr/bin chroot . /lib/systemd/systemd \
        --system --unit=steps.service --log-target=console --log-level=warning --show-status=no
}

# ---- the steps, run by that systemd --------------------------------------------------------------------------------

unit() { systemctl show fairlead -p "$1" --value; }

expect() { # WHAT GOT WANTED
    [ "$2" = "$3" ] || { echo "FAILED: $1 is '$2', expected '$3'"; systemctl status --no-pager -l fairlead; exit 1; }
    echo "ok: $1 is $3"
}

steps() {
    echo "reached" # systemd runs here; from now on a failure is ours
    systemctl start fairlead || { echo "FAILED: it does not start"; systemctl status --no-pager -l fairlead; exit 1; }
    expect "state after start" "$(unit ActiveState)" active
    pid=$(unit MainPID)
    expect "no new privileges" "$(awk '/^NoNewPrivs/ {print $2}' "/proc/$pid/status")" 1
    expect "system calls filtered (2)" "$(awk '/^Seccomp:/ {print $2}' "/proc/$pid/status")" 2
    expect "capabilities (net_admin, net_raw, ipc_lock)" \
        "$(awk '/^CapBnd/ {print $2}' "/proc/$pid/status")" 0000000000007000
    expect "the mirror's address" "$(ip -br address show dev outside | awk '{print $3}')" 192.0.2.1/24
    expect "show ports" "$(fairlead show ports | awk 'NR==2 {print $1}')" outside
    sleep 5
    expect "process after two watchdog periods" "$(unit MainPID)" "$pid"
    systemctl reload fairlead
    expect "state after reload" "$(unit ActiveState)/$(unit MainPID)" "active/$pid"
    systemctl kill --signal=KILL --kill-whom=main fairlead
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        sleep 1
        [ "$(unit ActiveState)/$(unit MainPID)" = "active/$pid" ] || [ "$(unit ActiveState)" != active ] || break
    done
    expect "state after a crash" "$(unit ActiveState)" active
    expect "automatic restarts" "$(unit NRestarts)" 1
    systemctl restart fairlead
    expect "state after restart" "$(unit ActiveState)" active
    expect "the kernel's ports meanwhile" "$(tr '\t' ' ' </proc/sys/net/ipv4/ip_local_port_range)" "61000 65535"
    systemctl stop fairlead
    expect "end" "$(unit ActiveState)/$(unit Result)/$(unit ExecMainStatus)" inactive/success/0
    expect "the kernel's ports afterwards" "$(tr '\t' ' ' </proc/sys/net/ipv4/ip_local_port_range)" "32768 60999"
    echo "passed"
}

# ---- outside ----------------------------------------------------------------------------------------------------------

case "${1:-}" in
inside) inside "$2" ;;
steps) steps; exit 0 ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd)
binary=$(realpath "${FAIRLEAD_BIN:-$here/target/release/fairlead}")
[ -x "$binary" ] || { echo "tests/systemd.sh: $binary is missing; run: make build" >&2; exit 1; }
[ "$(id -u)" = 0 ] || skip "it needs root"
[ -x /lib/systemd/systemd ] || skip "systemd is not installed"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/report" "$work/root"
export binary here report="$work/report"
status=0
# A new session's leader dies with its namespace; --kill-child ends everything inside whatever happens out here.
timeout --kill-after=5 "$limit" unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup \
    sh "$here/tests/systemd.sh" inside "$work/root" >"$work/systemd.log" 2>&1 || status=$?
log="$work/report/log"
if [ -f "$log" ] && grep -qx passed "$log"; then
    echo "tests/systemd.sh: $(grep -c '^ok:' "$log") checks of the unit under systemd passed"
    exit 0
fi
if [ -f "$log" ] && grep -qx reached "$log"; then
    cat "$log"
    echo "tests/systemd.sh: FAILED (see above)" >&2
    exit 1
fi
cat "$work/systemd.log" "$log" 2>/dev/null | tail -20 >&2
skip "systemd does not run in a namespace of this host (status $status, above)"
