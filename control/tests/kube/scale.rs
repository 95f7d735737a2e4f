//! 10,000 Services with 25 endpoints each: how long until everything is in the tables, and how fast a change is.
//! Asked for by name, in release: `cargo test --release -p control --test kube -- --ignored --nocapture`.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use control::apply::{Applier, Control, Parts, Segments};
use control::compile::HealthChecks;
use control::config::GatewayConfig;
use control::kube::{Access, ApiServer, follow};
use control::metrics::Metrics;
use control::mirror::Voice;
use control::network::{Network, NetworkPort};
use control::state_dir::StateDir;
use control::workers::Workers;
use hdrhistogram::Histogram;
use packet::{MacAddr, Protocol};
use serde_json::{Value, json};
use tables::command::command_rings;
use tables::counters::WorkerCounters;
use tables::publish::mailboxes;
use tables::{Generation, Tables};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::server::{CIDRS, NODES, SERVICES, SLICES, Server};

const SERVICES_N: u32 = 10_000;
const ENDPOINTS: u32 = 25;
const SINGLE_CHANGES: u32 = 500;
const FLOOD_PER_SECOND: u32 = 1000;
const FLOOD_SECONDS: u32 = 10;

fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + number)
}

fn service(number: u32) -> Value {
    let address = vip(number);
    json!({"metadata": {"namespace": "scale", "name": format!("s{number}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}})
}

/// `turn` moves one endpoint, so that every version differs from the one before.
fn slice(number: u32, turn: u32) -> Value {
    let endpoint = |at: u32| {
        let last = if at == 0 { turn % 200 } else { 200 };
        let address = Ipv4Addr::from(0x0af4_0000 + (number * ENDPOINTS + at) % 0xffff + (last << 16));
        json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", at % 50), "targetRef": {"kind": "Pod", "namespace": "scale",
            "name": format!("pod-{number}-{at}"), "uid": "01234567-89ab-cdef-0123-456789abcdef"}})
    };
    json!({"metadata": {"namespace": "scale", "name": format!("s{number}-x"),
            "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>()})
}

fn rss_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Processor time of the threads that follow and compile; those of the scripted server and of the test are not counted.
fn own_cpu() -> Duration {
    let mut ticks = 0;
    for thread in fs::read_dir("/proc/self/task").unwrap().flatten() {
        // A thread may have ended since it was listed.
        let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { continue };
        let Some((head, after)) = stat.rsplit_once(')') else { continue };
        if !head.ends_with("(tokio-rt-worker") && !head.ends_with("(fairlead-apply") {
            continue;
        }
        // utime and stime, the 12th and 13th after the name in parentheses, in hundredths of a second.
        let fields = after.split_whitespace().skip(11).take(2);
        ticks += fields.map(|field| field.parse::<u64>().unwrap()).sum::<u64>();
    }
    Duration::from_millis(ticks * 10)
}

/// The scripted server on a thread of its own, so that what it costs is not taken for ours.
fn serve() -> Server {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            sender.send(Server::start().await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}

/// A backend that the worker shall tell of once its tables have it: the Service's address and the backend's.
type Awaited = Arc<Mutex<Option<(Ipv4Addr, Ipv4Addr)>>>;

/// The applier with one worker that does nothing but take tables.
struct Taker {
    applier: Applier,
    _control: Control,
    awaited: Awaited,
    /// When the worker saw the backend.
    sightings: std::sync::mpsc::Receiver<Instant>,
    ready: watch::Receiver<bool>,
    stop: Arc<AtomicBool>,
    worker: thread::JoinHandle<()>,
    _network: watch::Sender<Arc<Network>>,
}

fn start(folder: &std::path::Path, url: &str) -> Taker {
    let kubeconfig = folder.join("kubeconfig");
    let text = format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: k}}}}]\nclusters: [{{name: k, cluster: {{server: '{url}'}}}}]\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    let file = folder.join("config.yaml");
    let text = format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: GatewayConfig\n\
         ports: [{{name: outside, device: net_null0, addresses: [192.0.2.1/24], tap: false}}]\n\
         kubernetes: {{kubeconfig: {}}}\nroutes: [{{to: 10.0.0.0/8, via: 192.0.2.9}}]\n",
        kubeconfig.display()
    );
    fs::write(&file, text).unwrap();
    let (publisher, mut subscribers) = mailboxes(1, Tables::empty(Generation(0)));
    let mut subscriber = subscribers.remove(0);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let awaited = Awaited::default();
    let wanted = Arc::clone(&awaited);
    let (saw, sightings) = std::sync::mpsc::channel();
    let worker = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            subscriber.take();
            subscriber.sweep_completed();
            let is_there = |(vip, backend)| has(subscriber.current(), vip, backend);
            if wanted.lock().unwrap().take_if(|wanted| is_there(*wanted)).is_some() {
                saw.send(Instant::now()).unwrap();
            }
            thread::sleep(Duration::from_micros(50));
        }
    });
    let (sender, _desk) = command_rings(1, 1);
    let workers = Workers::new(vec![(Arc::new(WorkerCounters::new(1)), sender)]);
    let metrics = Metrics::new(workers.counters(), vec!["outside".into()], None);
    let port =
        NetworkPort::new(0, "outside", MacAddr([2, 0, 0, 0, 0, 1]), vec!["192.0.2.1/24".parse().unwrap()]);
    let (network, seen) = watch::channel(Arc::new(Network { ports: vec![port], ..Network::default() }));
    let state = Arc::new(StateDir::open(&folder.join("state")).unwrap());
    let (out, source) = mpsc::channel(64);
    let server = Arc::new(ApiServer::new(Access::Kubeconfig(kubeconfig)));
    drop(follow(server, None, Arc::clone(&state), out));
    let parts = Parts {
        config: GatewayConfig::load(&file).unwrap(),
        config_file: file,
        publisher,
        source,
        network: seen,
        rss: Arc::default(),
        resolver: None,
        devices: None,
        segments: Segments { voice: Voice::new(Vec::new()), heard: mpsc::channel(1).1 },
        bypasses: mpsc::channel(1).1,
        health_checks: watch::channel(HealthChecks::default()).0,
        probes: Arc::default(),
        state,
        workers,
        metrics: metrics.control.clone(),
        election: None,
    };
    let (applier, control, ready) = Applier::start(parts).unwrap();
    Taker { applier, _control: control, awaited, sightings, ready, stop, worker, _network: network }
}

/// Whether a Service's flows may go to a backend by these tables.
fn has(tables: &Tables, vip: Ipv4Addr, backend: Ipv4Addr) -> bool {
    let Some(frontend) = tables.index.vip(vip.into(), Protocol::Tcp, 80) else { return false };
    let pools = tables.service(frontend.service).into_iter().flat_map(|service| &service.pools);
    let mut backends = pools.flat_map(|pool| pool.backends.iter()).filter_map(|id| tables.backend(*id));
    backends.any(|at| at.address == backend)
}

impl Taker {
    /// From `sent` until the worker has the slice's moved endpoint as a backend, in microseconds.
    fn took(&self, number: u32, turn: u32, sent: Instant) -> u64 {
        let backend = Ipv4Addr::from(0x0af4_0000 + (number * ENDPOINTS) % 0xffff + ((turn % 200) << 16));
        *self.awaited.lock().unwrap() = Some((vip(number), backend));
        let seen = tokio::task::block_in_place(|| self.sightings.recv_timeout(Duration::from_secs(30)));
        let seen = seen.unwrap_or_else(|_| panic!("not in force: slice {number}, turn {turn}"));
        u64::try_from(seen.duration_since(sent).as_micros()).unwrap()
    }
}

#[ignore = "measures; run in release, on an idle machine"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_services() {
    let server = serve();
    for number in 0..SERVICES_N {
        server.put(SERVICES, service(number));
        server.put(SLICES, slice(number, 0));
    }
    server.put(NODES, json!({"metadata": {"name": "node-0"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}}));
    server.put(CIDRS, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}}));
    server.forget_history();
    let folder = tempfile::tempdir().unwrap();
    let before = rss_mib();
    let (begun, cpu_before) = (Instant::now(), own_cpu());
    let mut taker = start(folder.path(), &server.url());
    taker.ready.wait_for(|ready| *ready).await.unwrap();
    let own = own_cpu().saturating_sub(cpu_before);
    println!("first request to ready: {:?}, own processor time {own:?}", begun.elapsed());
    let memory = rss_mib() - before;
    println!("memory at ready: {memory} MiB more than the {before} MiB of the scripted server");

    let mut single = Histogram::<u64>::new(3).unwrap();
    for turn in 1..=SINGLE_CHANGES {
        let number = turn * 7919 % SERVICES_N;
        let sent = Instant::now();
        server.put(SLICES, slice(number, turn));
        single.record(taker.took(number, turn, sent)).unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    print_row("one change, watch event to worker", &single);

    let mut flood = Histogram::<u64>::new(3).unwrap();
    let begun = Instant::now();
    // Ten every 10 ms: a timer is no finer than a millisecond.
    for tick in 0..FLOOD_PER_SECOND * FLOOD_SECONDS / 10 {
        let due = begun + Duration::from_millis(10) * tick;
        sleep(due.saturating_duration_since(Instant::now())).await;
        let turns = 1000 + tick * 10..1010 + tick * 10;
        for turn in turns.clone() {
            server.put(SLICES, slice(turn % SERVICES_N, turn));
        }
        if tick % 10 == 9 {
            let sent = Instant::now();
            flood.record(taker.took((turns.end - 1) % SERVICES_N, turns.end - 1, sent)).unwrap();
        }
    }
    let took = begun.elapsed();
    print_row("the same while 1,000 others change a second", &flood);
    println!("{} changes in {took:?}; memory {} MiB", FLOOD_PER_SECOND * FLOOD_SECONDS, rss_mib());

    let stopped = taker.applier.stop().unwrap();
    taker.stop.store(true, Ordering::Relaxed);
    taker.worker.join().unwrap();
    drop(stopped);
    assert!(own < Duration::from_secs(2) && memory < 1024, "own work {own:?}, {memory} MiB");
    assert!(single.value_at_quantile(0.99) < 5_000, "p99 {} us", single.value_at_quantile(0.99));
    // A queue that grows would show here: ten seconds of arrears, not milliseconds.
    assert!(flood.max() < 200_000 && took < Duration::from_secs(u64::from(FLOOD_SECONDS) + 1), "{took:?}");
}

fn print_row(what: &str, us: &Histogram<u64>) {
    let at = |quantile| us.value_at_quantile(quantile);
    println!("{what}: p50 {} us, p99 {} us, max {} us ({} samples)", at(0.5), at(0.99), us.max(), us.len());
}
