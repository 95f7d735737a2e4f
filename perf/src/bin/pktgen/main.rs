//! The clients and the backends of a gateway under test, on two DPDK ports: opens flows through it, sends both ways, checks what
//! comes back, and tells what came of it. `pktgen --help` says what it can send.

mod cli;
mod play;
mod results;

use std::{
    error::Error,
    io::{self, Read as _},
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::Parser as _;
use dataplane::io::dpdk as device;
use packet::MacAddr;
use perf::{generator::Ends, process::ANSWERED_WRONGLY};

use cli::{Cli, Kind};
use device::{Eal, EalConfig, HugePages, Mempool, Port, PortConfig, QueuePair, StartedPort};
use results::Failure;

/// Descriptors of a queue.
const DESCRIPTORS: u16 = 1024;
/// Buffers beyond those in queues.
const SPARE: u32 = 4096;
/// Bytes of a buffer, headroom included.
const DATA_ROOM: u16 = 2048 + 128;
/// How long the gateway's end of a link may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error}");
            let wrong = error.downcast_ref::<Failure>().is_some_and(Failure::is_wrong_answer);
            if wrong { ExitCode::from(ANSWERED_WRONGLY) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    // Before anything is started: what cannot be sent needs no device.
    if matches!(cli.traffic, Kind::Numbered | Kind::NumberedFrames | Kind::Connections) {
        for plan in cli.load.plans(cli.traffic, cli.flows) {
            plan.check()?;
        }
    }
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
    thread::sleep(Duration::from_secs(cli.settle));
    let ends = |port: &StartedPort, gateway| -> Result<Ends, Box<dyn Error>> {
        Ok(Ends { gateway, ours: MacAddr(port.mac().map_err(|errno| format!("no MAC address: {errno}"))?) })
    };
    let outside_link = (outside_queue, ends(&outside, cli.gateway_outside)?);
    let inside_link = (inside_queue, ends(&inside, cli.gateway_inside)?);
    let cli = Arc::new(cli);
    let played = Arc::clone(&cli);
    // Lcore 0 is this thread's.
    let job = eal.launch(1, move || play::play(&played, outside_link, inside_link))?;
    // Joining spins, on a core that may be the gateway's.
    while !job.is_finished() {
        thread::sleep(Duration::from_millis(20));
    }
    job.join().map_err(|_| Failure::Panicked)??;
    if cli.hold {
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// A started device and its only queue pair.
fn start(eal: &Eal, pool: Mempool, device: &str) -> Result<(StartedPort, QueuePair), Box<dyn Error>> {
    let config = PortConfig {
        queues: 1,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        mtu: 1500,
        rss_key: &[],
        rx_interrupts: false,
    };
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
