//! The clients and the backends of a gateway under test, on two DPDK ports: opens flows through it, sends both ways as fast
//! as it takes packets, checks a sample of what comes back, and prints one line of JSON.
//!
//! The gateway has 203.0.113.10:80 (TCP) as a Service's address in snat mode, its clients (198.18.0.0/16) over a neighbour
//! outside and its backends over one inside; those neighbours are the two ports here.

use std::{
    error::Error,
    io::{self, Read as _},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use dataplane::io::dpdk as device;
use packet::MacAddr;
use perf::generator::{Ends, Generator, GeneratorError, Traffic};
use serde::Serialize;

use device::{Eal, EalConfig, HugePages, Mempool, Port, PortConfig, QueuePair, StartedPort};

/// Descriptors of a queue.
const DESCRIPTORS: u16 = 1024;
/// Buffers beyond those in queues.
const SPARE: u32 = 4096;
/// Bytes of a buffer, headroom included.
const DATA_ROOM: u16 = 2048 + 128;
/// How long the gateway's end of a link may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a gateway gets for its start once the links are up.
const SETTLING: Duration = Duration::from_secs(1);

/// Plays the clients and the backends of a gateway on two DPDK ports.
#[derive(Debug, Parser)]
#[command(name = "pktgen", version)]
struct Cli {
    /// Device of the clients' link, a PCI address or a vdev string.
    #[arg(long, value_name = "DEVICE")]
    outside: String,
    /// Device of the backends' link.
    #[arg(long, value_name = "DEVICE")]
    inside: String,
    /// The gateway's Ethernet address outside.
    #[arg(long, value_name = "MAC")]
    gateway_outside: MacAddr,
    /// The gateway's Ethernet address inside.
    #[arg(long, value_name = "MAC")]
    gateway_inside: MacAddr,
    /// What is sent.
    #[arg(long, value_enum, default_value_t = Kind::Established)]
    traffic: Kind,
    /// Flows that are opened first.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    flows: u32,
    /// How long it sends.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// The core that sends and receives.
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    core: u16,
    /// The core of the rest, which sleeps meanwhile.
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    main_core: u16,
    /// Memory for packets.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory_mib: u32,
    /// Keep the links up after the result until standard input ends.
    #[arg(long)]
    hold: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Kind {
    /// Packets of opened flows, both ways.
    Established,
    /// Each packet the first of a new flow.
    New,
    /// The frames of established flows to a device that knows no flow.
    Frames,
}

/// What is printed.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    traffic: Traffic,
    /// Million frames a second that came back.
    mpps: f64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let eal = Eal::init(&EalConfig {
        cores: vec![cli.main_core, cli.core],
        memory_mib: cli.memory_mib,
        hugepages: HugePages::Auto,
        args: Vec::new(),
    })?;
    let pool = Mempool::new(&eal, "pktgen", 4 * u32::from(DESCRIPTORS) + SPARE, DATA_ROOM, -1)?;
    let (outside, outside_queue) = start(&eal, pool, &cli.outside)?;
    let (inside, inside_queue) = start(&eal, pool, &cli.inside)?;
    for (port, device) in [(&outside, &cli.outside), (&inside, &cli.inside)] {
        wait_for_link(port, device)?;
    }
    thread::sleep(SETTLING);
    let ends = |port: &StartedPort, gateway| -> Result<Ends, Box<dyn Error>> {
        Ok(Ends { gateway, ours: MacAddr(port.mac().map_err(|errno| format!("no MAC address: {errno}"))?) })
    };
    let links = (
        (outside_queue, ends(&outside, cli.gateway_outside)?),
        (inside_queue, ends(&inside, cli.gateway_inside)?),
    );
    let (kind, flows, time) = (cli.traffic, cli.flows, Duration::from_secs(cli.seconds));
    // Lcore 0 is this thread's.
    let job = eal.launch(1, move || play(Generator::new(links.0, links.1), kind, flows, time))?;
    // Joining spins, on a core that may be the gateway's.
    while !job.is_finished() {
        thread::sleep(Duration::from_millis(20));
    }
    let traffic = job.join().map_err(|_| "the generator has panicked: a packet with a wrong checksum")??;
    println!("{}", serde_json::to_string(&Line { mpps: traffic.mpps(), traffic })?);
    if cli.hold {
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

fn play(
    mut generator: Generator<QueuePair>,
    kind: Kind,
    flows: u32,
    time: Duration,
) -> Result<Traffic, GeneratorError> {
    match kind {
        Kind::Established => generator.establish(flows, |_| {})?,
        Kind::Frames => generator.assume(flows),
        Kind::New => {}
    }
    // For who waits for it: what comes before is not traffic.
    eprintln!("pktgen: sending");
    match kind {
        Kind::Established | Kind::Frames => generator.run(time, |_| {}),
        Kind::New => generator.run_new(0, time, |_| {}),
    }
}

/// A started device and its only queue pair.
fn start(eal: &Eal, pool: Mempool, device: &str) -> Result<(StartedPort, QueuePair), Box<dyn Error>> {
    let config =
        PortConfig { queues: 1, rx_descriptors: DESCRIPTORS, tx_descriptors: DESCRIPTORS, mtu: 1500 };
    let started = Port::open(eal, device).and_then(|port| port.start(pool, &config));
    let (port, mut queues) = started.map_err(|error| format!("{device}: {error}"))?;
    Ok((port, queues.pop().ok_or("no queue")?))
}

fn wait_for_link(port: &StartedPort, device: &str) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    while port.link().is_ok_and(|link| !link.up) {
        if start.elapsed() > PATIENCE {
            return Err(
                format!("{device}: no link after {} s: is the gateway up?", PATIENCE.as_secs()).into()
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
