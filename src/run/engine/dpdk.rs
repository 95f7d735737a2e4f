//! The engine on DPDK: environment, pools, ports, workers on their lcores.
//!
//! The environment lives on a thread of its own, because it pins its caller; every later call to it happens there too.

mod interrupts;
mod ports;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use control::config::{GatewayConfig, Hugepages};
use control::workers::PortSpread;
use dataplane::handoff::handoff_rings;
use dataplane::idle::IdleMode;
use dataplane::io::dpdk as device;
use dataplane::worker::{Worker, WorkerConfig, WorkerLinks};
use packet::MacAddr;
use tables::rss::Rss;
use tokio::sync::watch;

use crate::run::cores::Cores;

use device::{Eal, EalConfig, HugePages, Job};

use self::interrupts::Refusals;
use self::ports::{Queues, macs, open_ports, pool, spread_of_ports};

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
        let (config, rss, sleepy) = (config.clone(), rss.clone(), cores.idle(config) == IdleMode::Sleep);
        let (opened, answer) = channel();
        let (starts, inbox) = channel();
        let (set_ended, ended) = watch::channel(false);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("fairlead-eal".into()).spawn(move || {
            let result = live(&eal, (&config, &rss, sleepy), &opened, &inbox, &stopped);
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
    (config, rss, sleepy): (&GatewayConfig, &Rss, bool),
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
    let pool = pool(&eal, config)?;
    let (ports, queues) = open_ports((&eal, pool), (config, sleepy), rss)?;
    if sleepy {
        interrupts::tell_of_ports(config, &ports);
    }
    let macs = macs(config, &ports)?;
    let spread = spread_of_ports(config, &ports, rss);
    // Nobody waits for it any more, or nobody starts workers: the process ends.
    let told = opened.send(Opened { macs, spread });
    let (Ok(()), Ok((workers, answer))) = (told, starts.recv()) else { return Ok(()) };
    let counters = workers.iter().map(|(_, links)| Arc::clone(&links.counters));
    let mut refusals = Refusals::new(counters, config);
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
    let result = watch_over(running, stop, || refusals.look());
    drop(ports);
    result
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
    let bells = |(_, links): &(_, WorkerLinks)| Some(Arc::clone(links.watch.as_ref()?.bell()));
    let bells: Vec<_> = workers.iter().filter_map(bells).collect();
    let mut running = Vec::new();
    for (((config, links), ports), mut handoff) in workers.into_iter().zip(queues).zip(handoffs) {
        let stopping = Arc::clone(stop);
        handoff.set_bells(bells.clone());
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

/// Waits for the end of all workers, and looks after them; one that ends by itself takes the others along.
fn watch_over(running: Vec<Work>, stop: &AtomicBool, mut look: impl FnMut()) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        if running.iter().any(Job::is_finished) {
            stop.store(true, Ordering::Relaxed);
        } else {
            look();
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
    use tables::counters::{Idling, WorkerCounters};
    use tables::flow::FlowTableConfig;
    use tables::publish::mailboxes;
    use tables::tcp_state::Timeouts;
    use tables::{Generation, PortSet, Tables, WorkerId};

    use super::device::{Mempool, Port, PortConfig};
    use super::*;

    const CONFIG: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{name: outside, device: \"net_null0,no-rx=1\", addresses: [192.0.2.1/24], tap: false}]
workers: {count: 2, idle: sleep}
dpdk: {memoryMiB: 64, hugepages: never}
kubernetes: {manifests: /nowhere}
";

    fn starts(workers: u16, counters: &Arc<WorkerCounters>) -> Vec<(WorkerConfig, WorkerLinks)> {
        let (_, subscribers) = mailboxes(workers, Tables::empty(Generation(0)));
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
                watch: Some(cpu::Watch::new().expect("two files")),
            };
            (config, links)
        };
        (0..).zip(subscribers).map(start).collect()
    }

    /// DPDK starts once a process: the only test here that starts it.
    #[test]
    fn workers_on_virtual_devices() {
        let config = GatewayConfig::parse("test.yaml", CONFIG).expect("good");
        let eal =
            EalConfig { cores: vec![0, 0], memory_mib: 64, hugepages: HugePages::Never, args: Vec::new() };
        let eal = Eal::init(&eal).expect("DPDK starts");
        let pool = pool(&eal, &config).expect("memory");
        workers_that_run_are_ended_when_another_cannot_start(&eal, pool, &config);
        a_worker_waits_for_its_ports_interrupts(&eal, pool);
    }

    /// One lcore for two workers.
    fn workers_that_run_are_ended_when_another_cannot_start(
        eal: &Eal,
        pool: Mempool,
        config: &GatewayConfig,
    ) {
        let rss = Rss::of_secret(7);
        let (ports, queues) = open_ports((eal, pool), (config, true), &rss).expect("the null device");
        assert!(!ports[0].capabilities().rx_interrupts, "it has none");
        let spread = spread_of_ports(config, &ports, &rss);
        assert_eq!(spread.len(), 1, "{spread:?}");
        let (counters, stop) = (Arc::new(WorkerCounters::new(1)), Arc::new(AtomicBool::new(false)));
        let Err(error) = launch(eal, starts(2, &counters), queues, &stop) else { panic!("no lcore 2") };
        assert_eq!(format!("{error:#}"), "worker 1 cannot start: there is no worker lcore 2");
        assert!(stop.load(Ordering::Relaxed));
        assert_eq!(Arc::strong_count(&counters), 1, "every worker is gone, and may not outlive the ports");
        drop(ports);
    }

    /// The worker in a guest, this test its host.
    fn a_worker_waits_for_its_ports_interrupts(eal: &Eal, pool: Mempool) {
        let socket = std::env::temp_dir().join(format!("fairlead-engine-{}.sock", std::process::id()));
        let device = format!("net_virtio_user0,path={}", socket.display());
        let text = CONFIG.replace("net_null0,no-rx=1", &device).replace("count: 2", "count: 1");
        let config = GatewayConfig::parse("test.yaml", &text).expect("good");
        let settings = PortConfig {
            queues: 1,
            rx_descriptors: 256,
            tx_descriptors: 256,
            mtu: 1500,
            rss_key: &[],
            rx_interrupts: false,
        };
        let host = Port::open(eal, &format!("net_vhost0,iface={}", socket.display()));
        let (host, mut at_host) = host.and_then(|host| host.start(pool, &settings)).expect("it starts");
        let rss = Rss::of_secret(7);
        let (ports, queues) = open_ports((eal, pool), (&config, true), &rss).expect("a guest's device");
        assert!(ports[0].capabilities().rx_interrupts);
        until("the guest comes", || host.link().is_ok_and(|link| link.up));
        let (counters, stop) = (Arc::new(WorkerCounters::new(1)), Arc::new(AtomicBool::new(false)));
        let running = launch(eal, starts(1, &counters), queues, &stop).expect("lcore 1 is free");
        for packets in 1..=5 {
            let sleeps = counters.snapshot().turns.sleeps;
            until("the worker rests", || counters.snapshot().turns.sleeps > sleeps);
            assert_eq!(counters.idling(), Idling::Waits);
            let mut packet = pool.alloc().expect("most are free");
            packet.append(60).expect("there is room").fill(0xff);
            assert_eq!(at_host[0].tx(&mut [Some(packet)]), 1);
            until("the packet is seen", || counters.snapshot().packets.rx == packets);
        }
        stop_all(running, &stop);
        drop((ports, at_host, host));
    }

    fn until(what: &str, reached: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !reached() {
            assert!(start.elapsed() < Duration::from_secs(30), "{what}: not so");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
