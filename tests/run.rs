//! `fairlead run` on DPDK's null device: ready, asked, ended, refused. No wire, no huge pages, no kernel mirror; as root,
//! because DPDK wants to lock memory.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(5);

struct World {
    folder: tempfile::TempDir,
    metrics: SocketAddr,
}

/// A running appliance; killed when dropped.
struct Appliance(Child);

impl Drop for Appliance {
    fn drop(&mut self) {
        // It has ended already in the good case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fairlead() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fairlead"))
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        // A port that is free now; nobody else on this machine picks it within a moment.
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { folder, metrics }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A configuration with one port on `device`, in `name`, with a state directory and sockets of its own by `name`.
    fn config(&self, name: &str, device: &str, metrics: SocketAddr) -> PathBuf {
        let file = self.path(&format!("{name}.yaml"));
        let text = format!(
            "apiVersion: fairlead.dev/v1alpha1\nkind: GatewayConfig\n\
             ports: [{{name: outside, device: \"{device}\", addresses: [192.0.2.1/24], tap: false}}]\n\
             workers: {{count: 1, idle: sleep}}\ndpdk: {{memoryMiB: 256, hugepages: never}}\n\
             kubernetes: {{manifests: {}}}\nforwarding: {{flowsPerWorker: 4096}}\n\
             admin: {{socket: {}}}\nmetrics: {{listen: \"{metrics}\"}}\nstateDir: {}\n",
            self.path("manifests").display(),
            self.path(&format!("{name}.sock")).display(),
            self.path(&format!("{name}-state")).display(),
        );
        fs::write(&file, text).unwrap();
        file
    }

    fn start(&self, config: &Path) -> Appliance {
        let child = fairlead().arg("run").arg("--config").arg(config).spawn().unwrap();
        let mut appliance = Appliance(child);
        let deadline = Instant::now() + START;
        while self.get("/readyz") != Some(200) {
            assert_eq!(appliance.0.try_wait().unwrap(), None, "it ended");
            assert!(Instant::now() < deadline, "not ready in time");
            sleep(Duration::from_millis(20));
        }
        appliance
    }

    /// The status of a page; none when nobody answers.
    fn get(&self, page: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(self.metrics).ok()?;
        stream.set_read_timeout(Some(STOP)).ok()?;
        write!(stream, "GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }
}

/// Runs to the end; exit code and stderr.
fn refused(config: &Path) -> (Option<i32>, String) {
    let output = fairlead().arg("run").arg("--config").arg(config).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn show(config: &Path, kind: &str) -> serde_json::Value {
    let output = fairlead().args(["show", kind, "-o", "json", "--config"]).arg(config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn it_gets_ready_answers_and_ends_cleanly() {
    let world = World::new();
    let config = world.config("gw", "net_null0,no-rx=1", world.metrics);
    let mut appliance = world.start(&config);
    assert_eq!((world.get("/healthz"), world.get("/metrics")), (Some(200), Some(200)));
    assert_eq!(show(&config, "ports")[0]["name"], "outside");
    for kind in
        ["services", "backends", "flows", "counters", "drops", "routes", "neighbors", "pools", "sources"]
    {
        assert!(show(&config, kind).is_array(), "{kind}");
    }

    let (code, said) = refused(&config);
    assert_eq!(code, Some(1));
    assert!(said.contains("is in use by process") && said.trim_end().lines().count() == 1, "{said}");
    assert_eq!(world.get("/readyz"), Some(200), "the first one is unharmed");

    let pid = Pid::from_child(&appliance.0);
    let asked = Instant::now();
    kill_process(pid, Signal::TERM).unwrap();
    let status = appliance.0.wait().unwrap();
    assert!(status.success() && asked.elapsed() < STOP, "{status} after {:?}", asked.elapsed());
    assert!(!world.path("gw.sock").exists(), "the socket is left behind");
}

/// In a network namespace of its own; skipped where there may be none.
#[test]
fn a_port_without_link_is_named_in_one_sentence() {
    let world = World::new();
    let config = world.config("gw", "net_af_packet0,iface=wire", world.metrics);
    let script = "ip link add wire type veth peer name far && ip link set wire up && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_fairlead"), "run", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("unshare failed") {
        eprintln!("skipped: a network namespace needs root");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    let sentences: Vec<_> = said.lines().filter(|line| line.starts_with("port outside: ")).collect();
    assert!(matches!(sentences[..], [line] if line.contains("has no link after 5 s")), "{said}");
}

/// Everything is taken back when the mirror cannot be made; in a network namespace of its own.
#[test]
fn a_mirror_that_cannot_be_made_leaves_the_kernel_as_it_was() {
    let world = World::new();
    let config = world.config("gw", "net_null0,no-rx=1", world.metrics);
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("tap: false}]", "tap: true}, {name: inside, device: \"net_null1,no-rx=1\", tap: true}]");
    fs::write(&config, text).unwrap();
    let script = "ip link set lo up && ip link add inside type veth peer name far && before=$(cat /proc/sys/net/ipv4/ip_local_port_range)
        \"$@\"; code=$?
        [ \"$before\" = \"$(cat /proc/sys/net/ipv4/ip_local_port_range)\" ] || echo 'the port range stays'
        ip link show outside 2>/dev/null && echo 'a TAP stays'
        exit $code";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_fairlead"), "run", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("unshare failed") {
        eprintln!("skipped: a network namespace needs root");
        return;
    }
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stdout).unwrap().as_str()),
        (Some(1), ""),
        "{said}"
    );
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with("port inside: cannot make its TAP") && last.contains("the name must be free"),
        "{said}"
    );
    assert!(!world.path("gw.sock").exists(), "the socket is left behind");
}

#[test]
fn a_failure_after_the_workers_started_ends_them_in_order() {
    let world = World::new();
    let config = world.config("gw", "net_null0,no-rx=1", world.metrics);
    fs::create_dir(world.path("gw-state")).unwrap();
    fs::write(world.path("gw-state/addresses"), "nonsense\n").unwrap();
    let asked = Instant::now();
    let (code, said) = refused(&config);
    assert!(code == Some(1) && asked.elapsed() < START, "{code:?} {said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("addresses in the stateDir is damaged: line 1"), "{said}");
    assert!(!world.path("gw.sock").exists(), "the socket is left behind");
    fs::remove_file(world.path("gw-state/addresses")).unwrap();
    drop(world.start(&config));
}

#[test]
fn a_worker_without_memory_says_so() {
    let world = World::new();
    let config = world.config("gw", "net_null0,no-rx=1", world.metrics);
    let text =
        fs::read_to_string(&config).unwrap().replace("flowsPerWorker: 4096", "flowsPerWorker: 134217728");
    fs::write(&config, text).unwrap();
    // Less address space than the 12.9 GB of the table, so that nothing is reserved in vain.
    let limited = "ulimit -v 12000000; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limited, "sh", env!("CARGO_BIN_EXE_fairlead"), "run", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().last().unwrap().contains("no memory for its flow table"), "{said}");
}

#[test]
fn what_is_missing_is_named_in_one_sentence() {
    let world = World::new();
    for (name, device, says) in [
        ("iface", "net_af_packet0,iface=nowhere0", "nowhere0"),
        ("pci", "0000:ff:1f.7", "0000:ff:1f.7"),
        ("driver", "net_nothing0", "net_nothing0"),
    ] {
        let (code, said) = refused(&world.config(name, device, world.metrics));
        assert_eq!(code, Some(1), "{said}");
        let sentences: Vec<_> = said.lines().filter(|line| line.contains(says)).collect();
        assert!(sentences.iter().any(|line| line.starts_with("port outside")), "{said}");
    }
}
