//! The applier with two shipped workers on memory ports, idle, so that they sleep for up to 1 ms between two looks.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use control::{
    apply::{Applier, Control, Parts, Segments, SourceEvent},
    compile::HealthChecks,
    config::GatewayConfig,
    metrics::Metrics,
    mirror::Voice,
    network::{Network, NetworkPort},
    state_dir::StateDir,
    workers::Workers,
};
use cpu::{Level, TscClock};
use dataplane::{
    idle::IdleMode,
    io::{Capabilities, mem::MemPort},
    worker::{Worker, WorkerConfig, WorkerLinks},
};
use packet::MacAddr;
use tables::{
    Generation, PortSet, Tables, WorkerId, capture::capture_ring, command::command_rings,
    counters::WorkerCounters, flow::FlowTableConfig, publish::mailboxes, punt::frame_ring,
    tcp_state::Timeouts,
};
use tokio::sync::{mpsc, watch};

/// How many workers there are.
pub(crate) const WORKERS: u16 = 2;
/// Longest wait for the workers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Control's applier and its workers.
pub(crate) struct Engine {
    applier: Applier,
    workers: Workers,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _network: watch::Sender<Arc<Network>>,
    _folder: tempfile::TempDir,
}

impl Engine {
    /// Starts both with a configuration, and the source that `follow` begins with a state directory of its own. Gives also
    /// what asks the applier, and what turns true once the first full state is with every worker.
    pub(crate) fn start(
        config: &str,
        follow: impl FnOnce(Arc<StateDir>) -> mpsc::Receiver<SourceEvent>,
    ) -> io::Result<(Self, Control, watch::Receiver<bool>)> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("config.yaml");
        fs::write(&file, config)?;
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
                watch: None,
            };
            threads.push(worker(id, links, &stop));
        }
        let workers = Workers::new(handles);
        let metrics = Metrics::new(workers.counters(), vec!["outside".into()], None);
        let (network, seen) = watch::channel(Arc::new(network()));
        let state = Arc::new(StateDir::open(&folder.path().join("state")).expect("a folder of our own"));
        let parts = Parts {
            config: GatewayConfig::load(&file).expect("a good configuration"),
            config_file: file,
            publisher,
            source: follow(Arc::clone(&state)),
            network: seen,
            rss: Arc::default(),
            resolver: None,
            devices: None,
            election: None,
            health_checks: watch::channel(HealthChecks::default()).0,
            probes: Arc::default(),
            segments: Segments { voice: Voice::new(Vec::new()), heard: mpsc::channel(1).1 },
            bypasses: mpsc::channel(1).1,
            state,
            workers: workers.clone(),
            metrics: metrics.control.clone(),
        };
        let (applier, control, ready) = Applier::start(parts).expect("nothing remembered, nothing damaged");
        Ok((Self { applier, workers, stop, threads, _network: network, _folder: folder }, control, ready))
    }

    /// How often each worker has taken tables.
    pub(crate) fn publications(&self) -> Vec<u64> {
        self.workers.counts().iter().map(|counts| counts.turns.publications).collect()
    }

    /// Waits until every worker has taken tables since it had taken them so often; whether they have in time.
    #[must_use]
    pub(crate) fn taken(&self, before: &[u64]) -> bool {
        let start = Instant::now();
        while self.publications().iter().zip(before).any(|(now, before)| now == before) {
            if start.elapsed() > PATIENCE {
                return false;
            }
            thread::sleep(Duration::from_micros(20));
        }
        true
    }

    /// Ends all of it.
    pub(crate) fn stop(self) {
        // Workers first: tables are freed by the applier's side.
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no worker panics"));
        drop(self.applier.stop().expect("the applier does not panic"));
    }
}

fn worker(id: WorkerId, links: WorkerLinks, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let flows = FlowTableConfig { flows: 1024, ipv6: false, secret: 7, timeouts: Timeouts::default() };
    let config = WorkerConfig {
        id,
        level: Level::of_this_processor(),
        flows,
        affinity_clients: 64,
        mirrored: PortSet::NONE,
        idle: IdleMode::Sleep,
    };
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let ports = vec![MemPort::new(Capabilities::default())];
        let mut worker = Worker::new(&config, links, ports).expect("memory for a small flow table");
        worker.run(&TscClock::calibrate(), &stop);
    })
}

fn network() -> Network {
    let port = NetworkPort::new(
        0,
        "outside",
        MacAddr([2, 0, 0, 0, 0, 1]),
        vec!["192.0.2.1/24".parse().expect("an address")],
    );
    Network { ports: vec![port], ..Network::default() }
}

/// The most memory that this process had in RAM.
pub(crate) fn resident_bytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0
}
