//! What a change of the cluster costs: from its arrival at the applier until every worker has taken the tables that hold
//! it, at 10,000 Services of 25 endpoints; and the first load of them all. Two shipped workers on memory ports, idle, so
//! that they sleep for up to 1 ms between two looks.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use control::{
    apply::{Applier, Parts, Segments, SourceEvent},
    compile::HealthChecks,
    config::GatewayConfig,
    metrics::Metrics,
    mirror::Voice,
    model::{Change, Endpoint, EndpointSlice, ObjectKey, Service, ServicePort, ServiceType, SlicePort},
    network::{Network, NetworkPort},
    state_dir::StateDir,
    workers::Workers,
};
use cpu::TscClock;
use dataplane::{
    idle::IdleMode,
    io::{Capabilities, mem::MemPort},
    worker::{Worker, WorkerConfig, WorkerLinks},
};
use packet::{Family, MacAddr, Protocol};
use perf::{Random, Sampler, Unit};
use tables::{
    Generation, PortSet, Tables, WorkerId, capture::capture_ring, command::command_rings,
    counters::WorkerCounters, flow::FlowTableConfig, publish::mailboxes, punt::frame_ring,
    tcp_state::Timeouts,
};
use tokio::sync::{mpsc, watch};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 25;
const WORKERS: u16 = 2;
/// Longest wait for the workers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two changes, so that none is gathered with the one before.
const PAUSE: Duration = Duration::from_millis(3);

const CONFIG: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{name: outside, device: net_null0, addresses: [192.0.2.1/24], tap: false}]
workers: {count: 2}
kubernetes: {manifests: /nowhere}
routes: [{to: 11.0.0.0/8, via: 192.0.2.9}]
pools: [{name: public, cidrs: [203.0.0.0/16]}]
";

fn main() -> io::Result<()> {
    let mut sampler = Sampler::new("change");
    let before = resident_bytes();
    let mut stand = Stand::start()?;
    let all: Vec<Change> =
        (0..SERVICES).flat_map(|number| [service(number), slice(number, ENDPOINTS)]).collect();
    sampler.runs(&format!("first load of {SERVICES} Services x {ENDPOINTS} endpoints"), 1, || {
        stand.apply(all.clone());
    });
    drop(all);
    sampler.value(
        "memory of it, with the cluster's objects and all tables",
        Unit::Bytes,
        resident_bytes() - before,
    );
    let mut random = Random::new(7);
    let runs = sampler.options().pick(3_000, 100);
    let next = || {
        thread::sleep(PAUSE);
        let number =
            u32::try_from(random.next() % u64::from(SERVICES)).expect("below the number of Services");
        slice(number, ENDPOINTS - 1 - u32::try_from(random.next() % 3).expect("small"))
    };
    sampler.prepared_runs("one EndpointSlice changes", runs, next, |change| stand.apply(vec![change]));
    stand.stop();
    sampler.finish()
}

/// Control's applier and its workers.
struct Stand {
    applier: Applier,
    changes: mpsc::Sender<SourceEvent>,
    workers: Workers,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _network: watch::Sender<Arc<Network>>,
    _folder: tempfile::TempDir,
}

impl Stand {
    fn start() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("config.yaml");
        fs::write(&file, CONFIG)?;
        let (publisher, subscribers) = mailboxes(WORKERS, Tables::empty(Generation(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for (id, tables) in (0..).map(WorkerId).zip(subscribers) {
            let (sender, commands) = command_rings(1, 1);
            let counters = Arc::new(WorkerCounters::new(1));
            handles.push((Arc::clone(&counters), sender));
            let links = WorkerLinks {
                tables,
                counters,
                punt: frame_ring(0).0,
                inject: frame_ring(0).1,
                commands,
                capture: capture_ring(0).0,
            };
            threads.push(worker(id, links, &stop));
        }
        let workers = Workers::new(handles);
        let metrics = Metrics::new(workers.counters(), vec!["outside".into()], None);
        let (changes, source) = mpsc::channel(64);
        let (network, seen) = watch::channel(Arc::new(network()));
        let parts = Parts {
            config: GatewayConfig::load(&file).expect("a good configuration"),
            config_file: file,
            publisher,
            source,
            network: seen,
            resolver: None,
            devices: None,
            election: None,
            health_checks: watch::channel(HealthChecks::default()).0,
            probes: Arc::default(),
            segments: Segments { voice: Voice::new(Vec::new()), heard: mpsc::channel(1).1 },
            bypasses: mpsc::channel(1).1,
            state: Arc::new(StateDir::open(&folder.path().join("state")).expect("a folder of our own")),
            workers: workers.clone(),
            metrics: metrics.control.clone(),
        };
        let (applier, _, _) = Applier::start(parts).expect("nothing remembered, nothing damaged");
        let stand = Self { applier, changes, workers, stop, threads, _network: network, _folder: folder };
        stand.wait(&vec![0; usize::from(WORKERS)]);
        Ok(stand)
    }

    /// Has the changes taken in, and waits until every worker has tables that hold them.
    fn apply(&mut self, changes: Vec<Change>) {
        let before = self.publications();
        self.changes.blocking_send(SourceEvent::Changes(changes)).expect("the applier runs");
        self.wait(&before);
    }

    fn publications(&self) -> Vec<u64> {
        self.workers.counts().iter().map(|counts| counts.turns.publications).collect()
    }

    fn wait(&self, before: &[u64]) {
        let start = Instant::now();
        while self.publications().iter().zip(before).any(|(now, before)| now == before) {
            assert!(start.elapsed() < PATIENCE, "a worker takes no tables");
            thread::sleep(Duration::from_micros(20));
        }
    }

    fn stop(self) {
        // Workers first: tables are freed by the applier's side.
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no worker panics"));
        drop(self.applier.stop().expect("the applier does not panic"));
    }
}

fn worker(id: WorkerId, links: WorkerLinks, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let flows = FlowTableConfig { flows: 1024, ipv6: false, secret: 7, timeouts: Timeouts::default() };
    let config =
        WorkerConfig { id, flows, affinity_clients: 64, mirrored: PortSet::NONE, idle: IdleMode::Sleep };
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let ports = vec![MemPort::new(Capabilities::default())];
        let mut worker = Worker::new(&config, links, ports).expect("memory for a small flow table");
        worker.run(&TscClock::calibrate(), &stop);
    })
}

fn network() -> Network {
    let port = NetworkPort {
        index: 0,
        vlan: None,
        name: "outside".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        mss_clamp: None,
        serves: tables::Serves::ALL,
        addresses: vec!["192.0.2.1/24".parse().expect("an address")],
    };
    Network { ports: vec![port], ..Network::default() }
}

fn key(number: u32) -> ObjectKey {
    ObjectKey::new("default", format!("service-{number}"))
}

/// Every tenth is a load balancer with an address of the pool.
fn service(number: u32) -> Change {
    let kind = if number.is_multiple_of(10) { ServiceType::LoadBalancer } else { ServiceType::ClusterIp };
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None };
    let service = Service {
        key: key(number),
        kind,
        cluster_ips: vec![address([10, 96, 0, 0], number + 1)],
        families: vec![Family::V4],
        ports: vec![port],
        ..Service::default()
    };
    Change::Service(key(number), Some(Arc::new(service)))
}

fn slice(number: u32, endpoints: u32) -> Change {
    let endpoint = |index: u32| Endpoint {
        node: Some(format!("node-{}", index % 100).into()),
        ..Endpoint::new(address([11, 0, 0, 0], number * 32 + index))
    };
    let slice = EndpointSlice {
        key: key(number),
        service: key(number),
        family: Family::V4,
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    Change::EndpointSlice(key(number), Some(Arc::new(slice)))
}

fn address(network: [u8; 4], host: u32) -> IpAddr {
    Ipv4Addr::from_bits(u32::from_be_bytes(network) + host).into()
}

/// The most memory that this process had in RAM.
fn resident_bytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0
}
