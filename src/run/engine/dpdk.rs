//! The engine on DPDK: environment, pools, ports, workers on their lcores.
//!
//! The environment lives on a thread of its own, because it pins its caller; every later call to it happens there too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use control::config::{GatewayConfig, Hugepages, PortConfig as PortNamed};
use control::workers::PortSpread;
use dataplane::handoff::handoff_rings;
use dataplane::io::dpdk as device;
use dataplane::worker::{Worker, WorkerConfig, WorkerLinks};
use packet::MacAddr;
use tables::rss::Rss;
use tokio::sync::watch;

use crate::run::cores::Cores;

use device::{Eal, EalConfig, HugePages, Job, Mempool, Port, PortConfig, QueuePair, StartedPort};

/// Descriptors of a receive and of a transmit queue.
const DESCRIPTORS: u16 = 1024;
/// Buffers that each worker needs beyond those in queues: packets waiting for neighbours, caches, bursts in hand.
const BUFFERS_SPARE: u32 = 4096;
/// Bytes of a frame around its IP packet: Ethernet and two VLAN tags.
const FRAME_OVERHEAD: u16 = 22;
/// Bytes of data in a buffer at the least: an ordinary frame is to be one segment.
const DATA_MIN: u16 = 2048;
/// What some NICs round a buffer's data down to: a frame of the largest MTU is to be one segment all the same.
const DATA_STEP: u16 = 1024;
/// Bytes in front of the data, `RTE_PKTMBUF_HEADROOM`.
const HEADROOM: u16 = 128;
/// Lets DPDK choose the memory node.
const ANY_NODE: i32 = -1;
/// How long a port may take until its link is up.
const LINK_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at links and workers.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Open and started ports, no workers yet. Dropped, it closes them.
pub(crate) struct Engine {
    opened: Opened,
    // Before the thread: its end is what the thread waits for.
    starts: Sender<Start>,
    life: Life,
    ended: watch::Receiver<bool>,
}

/// What is known of the ports with a device, in their order.
struct Opened {
    macs: Vec<MacAddr>,
    /// Empty where there is one worker.
    spread: Vec<PortSpread>,
}

/// Workers at work. Dropped, it stops them and closes the ports.
pub(crate) struct Running {
    life: Life,
    ended: watch::Receiver<bool>,
}

/// The environment's thread, which ends in order however its owner ends.
struct Life {
    thread: Option<JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
}

impl Life {
    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), joined)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Whoever drops it has a failure of its own to tell.
        let _ = self.end();
    }
}

/// Workers to launch, and where to say whether it worked.
type Start = (Vec<(WorkerConfig, WorkerLinks)>, Sender<Result<()>>);

impl Engine {
    /// Starts the environment and every port, whose packets are to be spread over workers by `rss`; to be called before
    /// this thread is confined to control cores.
    pub(crate) fn open(config: &GatewayConfig, cores: &Cores, rss: &Rss) -> Result<Self> {
        let eal = eal_config(config, cores);
        let (config, rss) = (config.clone(), rss.clone());
        let (opened, answer) = channel();
        let (starts, inbox) = channel();
        let (set_ended, ended) = watch::channel(false);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("fairlead-eal".into()).spawn(move || {
            let result = live(&eal, (&config, &rss), &opened, &inbox, &stopped);
            set_ended.send_replace(true);
            result
        })?;
        match answer.recv() {
            Ok(opened) => Ok(Self { opened, starts, life: Life { thread: Some(thread), stop }, ended }),
            // It ended without an answer: its result says why.
            Err(_) => Err(joined(thread).err().unwrap_or_else(|| anyhow!("DPDK ended"))),
        }
    }

    /// The Ethernet addresses of the ports with a device, in their order.
    pub(crate) fn macs(&self) -> &[MacAddr] {
        &self.opened.macs
    }

    /// How the ports with a device spread packets over the workers, where there are several.
    pub(crate) fn spread(&self) -> &[PortSpread] {
        &self.opened.spread
    }

    /// Launches a worker on each lcore.
    pub(crate) fn launch(self, starts: Vec<(WorkerConfig, WorkerLinks)>) -> Result<Running> {
        let (answer, launched) = channel();
        let lost = || anyhow!("DPDK's thread has ended");
        self.starts.send((starts, answer)).map_err(|_| lost())?;
        launched.recv().map_err(|_| lost())??;
        Ok(Running { life: self.life, ended: self.ended })
    }
}

impl Running {
    /// Waits until a worker ends by itself, which none should.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.clone();
        async move {
            // An error means that the sender is gone, hence the thread.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Has every worker finish its turn, then stops the ports.
    ///
    /// # Errors
    /// Why a worker ended before.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.life.end()
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("DPDK's thread has panicked")))
}

fn eal_config(config: &GatewayConfig, cores: &Cores) -> EalConfig {
    let plan = cores.plan();
    let workers = plan.workers.iter().map(|place| place.core);
    EalConfig {
        cores: std::iter::once(plan.main_core).chain(workers).collect(),
        memory_mib: config.dpdk.memory_mib,
        hugepages: match config.dpdk.hugepages {
            Hugepages::Auto => HugePages::Auto,
            Hugepages::Require => HugePages::Require,
            Hugepages::Never => HugePages::Never,
        },
        args: config.dpdk.args.clone(),
    }
}

/// The life of the environment's thread.
fn live(
    eal: &EalConfig,
    (config, rss): (&GatewayConfig, &Rss),
    opened: &Sender<Opened>,
    starts: &Receiver<Start>,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let eal = Eal::init(eal)?;
    if !eal.has_hugepages() && config.dpdk.hugepages == Hugepages::Auto {
        tracing::warn!(
            "too few free huge pages: packet memory lies in ordinary pages and the dataplane is slower"
        );
    }
    let (ports, queues) = open_ports(&eal, config, rss)?;
    let mac = |(port, (named, _)): (&StartedPort, (&PortNamed, &str))| {
        port.mac().map(MacAddr).map_err(|errno| anyhow!("port {}: no MAC address: {errno}", named.name))
    };
    let macs = ports.iter().zip(config.devices()).map(mac).collect::<Result<Vec<_>>>()?;
    let spread = spread_of_ports(config, &ports, rss);
    // Nobody waits for it any more, or nobody starts workers: the process ends.
    let told = opened.send(Opened { macs, spread });
    let (Ok(()), Ok((workers, answer))) = (told, starts.recv()) else { return Ok(()) };
    let launched = launch(&eal, workers, queues, stop);
    let running = match launched {
        Ok(running) => {
            let _ = answer.send(Ok(()));
            running
        }
        Err(error) => {
            let _ = answer.send(Err(error));
            return Ok(());
        }
    };
    let result = watch_over(running, stop);
    drop(ports);
    result
}

/// By worker, the queue pairs of every port with a device, in their order.
type Queues = Vec<Vec<QueuePair>>;

/// Every port started, and its queue pairs by worker.
fn open_ports(eal: &Eal, config: &GatewayConfig, rss: &Rss) -> Result<(Vec<StartedPort>, Queues)> {
    let workers = config.workers.count();
    let pool = pool(eal, config)?;
    let mut queues: Queues = (0..workers).map(|_| Vec::new()).collect();
    let mut started = Vec::new();
    for (port, device) in config.devices() {
        let settings = PortConfig {
            queues: workers,
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            mtu: port.mtu,
            rss_key: rss.key(),
        };
        let opened = Port::open(eal, device).and_then(|opened| opened.start(pool, &settings));
        let (opened, pairs) = opened.with_context(|| format!("port {}", port.name))?;
        queues.iter_mut().zip(pairs).for_each(|(worker, pair)| worker.push(pair));
        started.push(opened);
    }
    wait_for_links(config, &started)?;
    Ok((started, queues))
}

/// Has each port bring packets to the worker that they are for, and says where that cannot be.
fn spread_of_ports(config: &GatewayConfig, ports: &[StartedPort], rss: &Rss) -> Vec<PortSpread> {
    let workers = config.workers.count();
    if workers <= 1 {
        return Vec::new();
    }
    let spread = config.devices().zip(ports).map(|((named, _), port)| {
        let fault = spread_by(port, rss, workers).err();
        if let Some(fault) = &fault {
            tracing::warn!(port = named.name, %fault, "workers hand each other the packets of this port");
        }
        PortSpread { port: named.name.clone(), fault }
    });
    spread.collect()
}

/// Sets the port's redirection table.
///
/// # Errors
/// What keeps its packets from going where `rss` says, for people.
fn spread_by(port: &StartedPort, rss: &Rss, workers: u16) -> Result<(), String> {
    let key = port.rss_key().map_err(|errno| format!("the device does not say its RSS key: {errno}"))?;
    if key.is_empty() {
        return Err("the device takes no RSS key".to_owned());
    }
    if !rss.key().starts_with(&key) {
        return Err("the device keeps an RSS key of its own".to_owned());
    }
    let entries = port.reta_len();
    if !entries.is_power_of_two() {
        return Err("the device has no redirection table".to_owned());
    }
    let table = Rss::redirection(entries, workers);
    port.set_reta(&table).map_err(|errno| format!("the device refuses its redirection table: {errno}"))?;
    match port.reta() {
        Ok(kept) if kept == table => Ok(()),
        Ok(_) => Err("the device keeps a redirection table of its own".to_owned()),
        Err(errno) => Err(format!("the device does not say its redirection table: {errno}")),
    }
}

/// One pool, large enough for all queues of all workers to be full at once.
fn pool(eal: &Eal, config: &GatewayConfig) -> Result<Mempool> {
    let queues = u32::try_from(config.devices().count())
        .unwrap_or(u32::MAX)
        .saturating_mul(2 * u32::from(DESCRIPTORS));
    let mbufs = u32::from(config.workers.count()).saturating_mul(queues.saturating_add(BUFFERS_SPARE));
    let mtu = config.ports.iter().map(|port| port.mtu).max().unwrap_or_default();
    let data = mtu.saturating_add(FRAME_OVERHEAD).max(DATA_MIN).next_multiple_of(DATA_STEP);
    let data_room = data.saturating_add(HEADROOM);
    Mempool::new(eal, "packets", mbufs, data_room, ANY_NODE).context("packet buffers (dpdk.memoryMiB)")
}

/// Every link up; devices that know no link state count as up.
fn wait_for_links(config: &GatewayConfig, ports: &[StartedPort]) -> Result<()> {
    let deadline = Instant::now() + LINK_WAIT;
    for ((named, device), port) in config.devices().zip(ports) {
        while port.link().is_ok_and(|link| !link.up) {
            if Instant::now() >= deadline {
                return Err(anyhow!(
                    "port {}: {} has no link after {} s; check the cable, the switch port or the peer device",
                    named.name,
                    device,
                    LINK_WAIT.as_secs()
                ));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
    Ok(())
}

/// A worker at work.
type Work = Job<Result<()>>;

fn launch(
    eal: &Eal,
    workers: Vec<(WorkerConfig, WorkerLinks)>,
    queues: Queues,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<Work>> {
    let clock = cpu::TscClock::calibrate();
    let handoffs = handoff_rings(u16::try_from(workers.len()).unwrap_or(u16::MAX));
    let mut running = Vec::new();
    for (((config, links), ports), handoff) in workers.into_iter().zip(queues).zip(handoffs) {
        let stopping = Arc::clone(stop);
        let job = move || -> Result<()> {
            // Made here, so that its memory lies near its core.
            let mut worker = Worker::new(&config, links, ports).with_context(|| {
                format!(
                    "worker {}: no memory for its flow table; lower forwarding.flowsPerWorker",
                    config.id.0
                )
            })?;
            worker.connect(handoff);
            worker.run(&clock, &stopping);
            Ok(())
        };
        // Lcore 0 is the main one.
        match eal.launch(config.id.0 + 1, job) {
            Ok(job) => running.push(job),
            Err(error) => {
                stop_all(running, stop);
                return Err(error).with_context(|| format!("worker {} cannot start", config.id.0));
            }
        }
    }
    Ok(running)
}

/// Ends workers that run in vain: their ports and memory must outlive them.
fn stop_all(running: Vec<Work>, stop: &AtomicBool) {
    stop.store(true, Ordering::Relaxed);
    for job in running {
        // The failure that stops them is told, not theirs.
        let _ = job.join();
    }
}

/// Waits for the end of all workers; one that ends by itself takes the others along.
fn watch_over(running: Vec<Work>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        if running.iter().any(Job::is_finished) {
            stop.store(true, Ordering::Relaxed);
        } else {
            thread::sleep(LOOK_INTERVAL);
        }
    }
    let mut result = Ok(());
    for (worker, job) in running.into_iter().enumerate() {
        let ended = job.join().unwrap_or_else(|_| Err(anyhow!("worker {worker} has panicked")));
        result = result.and(ended);
    }
    result
}

#[cfg(test)]
mod tests {
    use tables::counters::WorkerCounters;
    use tables::flow::FlowTableConfig;
    use tables::publish::mailboxes;
    use tables::tcp_state::Timeouts;
    use tables::{Generation, PortSet, Tables, WorkerId};

    use super::*;

    const CONFIG: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{name: outside, device: \"net_null0,no-rx=1\", addresses: [192.0.2.1/24], tap: false}]
workers: {count: 2, idle: sleep}
dpdk: {memoryMiB: 64, hugepages: never}
kubernetes: {manifests: /nowhere}
";

    fn starts(counters: &Arc<WorkerCounters>) -> Vec<(WorkerConfig, WorkerLinks)> {
        let (_, subscribers) = mailboxes(2, Tables::empty(Generation(0)));
        let start = |(id, tables)| {
            let timeouts = Timeouts::default();
            let flows = FlowTableConfig { flows: 1024, ipv6: false, secret: 7, timeouts };
            let idle = dataplane::idle::IdleMode::Sleep;
            let config = WorkerConfig {
                id: WorkerId(id),
                level: cpu::Level::of_this_processor(),
                flows,
                affinity_clients: 64,
                mirrored: PortSet::NONE,
                idle,
            };
            let links = WorkerLinks {
                tables,
                counters: Arc::clone(counters),
                punt: tables::punt::frame_ring(0).0,
                inject: tables::punt::frame_ring(0).1,
                commands: tables::command::command_rings(1, 1).1,
                capture: tables::capture::capture_ring(0).0,
            };
            (config, links)
        };
        (0..).zip(subscribers).map(start).collect()
    }

    /// One lcore for two workers. DPDK starts once a process: the only test here that starts it.
    #[test]
    fn workers_that_run_are_ended_when_another_cannot_start() {
        let config = GatewayConfig::parse("test.yaml", CONFIG).expect("good");
        let eal =
            EalConfig { cores: vec![0, 0], memory_mib: 64, hugepages: HugePages::Never, args: Vec::new() };
        let eal = Eal::init(&eal).expect("DPDK starts");
        let rss = Rss::of_secret(7);
        let (ports, queues) = open_ports(&eal, &config, &rss).expect("the null device");
        let spread = spread_of_ports(&config, &ports, &rss);
        assert_eq!(spread.len(), 1, "{spread:?}");
        let (counters, stop) = (Arc::new(WorkerCounters::new(1)), Arc::new(AtomicBool::new(false)));
        let Err(error) = launch(&eal, starts(&counters), queues, &stop) else { panic!("no lcore 2") };
        assert_eq!(format!("{error:#}"), "worker 1 cannot start: there is no worker lcore 2");
        assert!(stop.load(Ordering::Relaxed));
        assert_eq!(Arc::strong_count(&counters), 1, "every worker is gone, and may not outlive the ports");
        drop(ports);
    }
}
