//! The appliance against `dpdk-testpmd --forward-mode=macswap` on the same wire: one memif link, in interleaved rounds.
//!
//! The generator is testpmd's `flowgen`: UDP flows to as many VIPs of one Service, each translated (source and destination)
//! and sent back over the same link to its backend's neighbour. One core generates, one works. A round counts the frames that
//! come back a second, and measures before and after how long a line takes between the two cores: that is what a wire in
//! memory costs, and the host of a virtual machine changes it at will. Only runs with the same distance are compared. First a capture of every flow is played through the appliance and what
//! comes back is checked frame by frame; in each round its counters must tell of every flow, and of no loss but to a full link.
//! Replies are not played here: `worker` measures both directions. `FAIRLEAD_BIN` names the appliance, else
//! target/release/fairlead. Needs root and huge pages.

mod process;
mod traffic;

use std::{
    env,
    error::Error,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use dataplane::io::pcap;
use perf::{Options, Report, Row, Unit, cores::round_trip_ns};

use process::{Running, scrape, verify};
use traffic::{FLOWS, GATEWAY_MAC, PEER_MAC, capture_of_flows, check, config, manifests};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Of a round's time, what its processes may wait for a core; beyond that it is the scheduler that is compared.
const WAITED_MAX: f64 = 0.05;
/// What the checked capture must reach before it ends: each flow many times.
const CAPTURE_BYTES: u64 = 4 << 20;
/// How long a process has to come up or to end.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let options = Options::from_process();
    let bench = Bench::new(options.pick(4, 3))?;
    let mut report = Report::new("wire");
    let checked = bench.check_frames().map_err(|error| bench.kept(&error))?;
    report.push(Row::value(
        "frames checked for addresses, ports, checksums, TTL",
        Unit::Count,
        checked as f64,
    ));
    let mut series = Series::default();
    for round in 1..=options.pick(11, 2) {
        series.play(&bench, round).map_err(|error| bench.kept(&error))?;
    }
    series.report(&mut report);
    report.finish()?;
    bench.clean();
    Ok(())
}

/// Below this, in nanoseconds for a line there and back, two cores have a cache in common; a few times as far they do not.
const NEAR_NS: f64 = 150.0;

/// One device's turn in a round.
#[derive(Clone, Copy)]
struct Run {
    device: Device,
    /// Millions a second.
    rate: f64,
    /// How far the cores were from each other before and after it.
    trips: [f64; 2],
}

impl Run {
    /// The two cores had a cache in common all the time, or never; `None` if they were moved meanwhile.
    fn is_near(&self) -> Option<bool> {
        let [before, after] = self.trips.map(|trip| trip < NEAR_NS);
        (before == after).then_some(before)
    }
}

/// What the rounds gave.
#[derive(Default)]
struct Series {
    runs: Vec<Run>,
    ratios: Vec<f64>,
    waits: Vec<f64>,
}

impl Series {
    fn play(&mut self, bench: &Bench, round: u32) -> Result<()> {
        let mut order = [Device::Appliance, Device::Macswap];
        // Who is first takes turns, so that what drifts in a round favours neither.
        order.rotate_left((round % 2) as usize);
        let (mut rates, mut waited) = ([0.0; 2], 0.0_f64);
        for device in order {
            let before = round_trip_ns([0, 1])?;
            let (rate, share) = bench.round(device)?;
            let run = Run { device, rate, trips: [before, round_trip_ns([0, 1])?] };
            let [before, after] = run.trips;
            eprintln!(
                "round {round}: {}: {rate:.2} M/s, cores {before:.0} to {after:.0} ns apart",
                device.name()
            );
            rates[device as usize] = rate;
            self.runs.push(run);
            waited = waited.max(share);
        }
        let [appliance, macswap] = rates;
        eprintln!("round {round}: ratio {:.2}; waited for a core {waited:.2}", appliance / macswap);
        self.ratios.push(appliance / macswap);
        self.waits.push(waited);
        Ok(())
    }

    /// Rates of a device in the runs with the cores near to each other, or far.
    fn rates(&self, device: Device, near: bool) -> Vec<f64> {
        let runs = self.runs.iter().filter(|run| run.device == device && run.is_near() == Some(near));
        runs.map(|run| run.rate).collect()
    }

    fn report(mut self, report: &mut Report) {
        for (near, place) in [(true, "cores near"), (false, "cores far")] {
            let mut medians = [0.0; 2];
            for device in [Device::Appliance, Device::Macswap] {
                let mut rates = self.rates(device, near);
                let case = format!("{place}: {}, median of {} runs", device.name(), rates.len());
                medians[device as usize] = median(&mut rates);
                report.push(Row::value(&case, Unit::MillionPerSecond, medians[device as usize]));
            }
            let [appliance, macswap] = medians;
            if appliance > 0.0 && macswap > 0.0 {
                report.push(Row::value(&format!("{place}: ratio"), Unit::Ratio, appliance / macswap));
            }
        }
        let rounds = self.ratios.len();
        let by_round = median(&mut self.ratios);
        report.push(Row::value(
            &format!("ratio by round, moves included: median of {rounds}"),
            Unit::Ratio,
            by_round,
        ));
        let waited = median(&mut self.waits);
        report.push(Row::value("share of time spent waiting for a core: median", Unit::Ratio, waited));
        if waited > WAITED_MAX {
            let case = "NO COMPARISON: other work had the cores; limit of that share";
            report.push(Row::value(case, Unit::Ratio, WAITED_MAX));
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A frame leaves by the port it came from.
const LOOP: &str = "--port-topology=loop";

/// What forwards.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Device {
    Appliance,
    Macswap,
}

impl Device {
    const fn name(self) -> &'static str {
        match self {
            Self::Appliance => "appliance, full NAT",
            Self::Macswap => "testpmd macswap",
        }
    }
}

struct Bench {
    folder: PathBuf,
    fairlead: PathBuf,
    seconds: u64,
}

impl Bench {
    fn new(seconds: u64) -> Result<Self> {
        let folder = env::temp_dir().join(format!("fairlead-wire-{}", std::process::id()));
        fs::create_dir_all(folder.join("manifests"))?;
        fs::write(folder.join("config.yaml"), config(&folder))?;
        fs::write(folder.join("manifests/web.yaml"), manifests())?;
        let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/fairlead");
        let fairlead = env::var_os("FAIRLEAD_BIN").map_or_else(built, PathBuf::from);
        let bench = Self { folder, fairlead, seconds };
        let checked = bench.command_of_appliance("check").status()?;
        if !checked.success() {
            return Err("the appliance refuses the bench's configuration".into());
        }
        Ok(bench)
    }

    /// Plays one frame of every flow through the appliance, over and over, and checks all that comes back; their count.
    fn check_frames(&self) -> Result<usize> {
        let (played, returned) = (self.folder.join("played.pcap"), self.folder.join("returned.pcap"));
        fs::write(&played, capture_of_flows())?;
        let capture =
            format!("net_pcap0,rx_pcap={},tx_pcap={},infinite_rx=1", played.display(), returned.display());
        let device = self.start(Device::Appliance)?;
        let arguments = ["--forward-mode=io", "--port-topology=paired"];
        let command = self.testpmd("gen", "1", "client", &[&capture], &arguments);
        let player = Running::start(command, &self.folder.join("generator.log"))?;
        let start = Instant::now();
        while fs::metadata(&returned).map_or(0, |file| file.len()) < CAPTURE_BYTES {
            if start.elapsed() > PATIENCE {
                return Err("the appliance forwards nothing".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        player.stop()?;
        device.stop()?;
        let returned = fs::read(returned)?;
        check(&pcap::frames(&returned).map_err(|error| format!("capture: {error}"))?)
    }

    /// Frames that came back in a round, in millions a second, and the share of time that was spent waiting for a core.
    fn round(&self, device: Device) -> Result<(f64, f64)> {
        let running = self.start(device)?;
        let (rate, waited) = self.generate(device, &running)?;
        running.stop()?;
        Ok((rate, waited))
    }

    /// Starts a device and waits for its end of the link. The appliance is ready once the link is up.
    fn start(&self, device: Device) -> Result<Running> {
        // A link is made anew each round: the driver's server does not always outlive its peer.
        let socket = self.folder.join("wire.sock");
        fs::remove_file(&socket).ok();
        let command = match device {
            Device::Appliance => self.command_of_appliance("run"),
            Device::Macswap => self.testpmd("dut", "0", "server", &[], &["--forward-mode=macswap", LOOP]),
        };
        let running = Running::start(command, &self.folder.join("device.log"))?;
        let start = Instant::now();
        while !socket.exists() {
            if start.elapsed() > PATIENCE {
                return Err("the device does not come up".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(running)
    }

    /// The median of the generator's own reports, those left out that came before the link was busy.
    fn generate(&self, device: Device, forwarder: &Running) -> Result<(f64, f64)> {
        let flows = format!("--flowgen-flows={FLOWS}");
        let log = self.folder.join("generator.log");
        let command = self.testpmd(
            "gen",
            "1",
            "client",
            &[],
            &["--forward-mode=flowgen", &flows, LOOP, "-i", "--auto-start"],
        );
        let (mut running, start, before) =
            (Running::start(command, &log)?, Instant::now(), forwarder.waited()?);
        for _ in 0..self.seconds + 3 {
            thread::sleep(Duration::from_secs(1));
            running.say("show port stats 0")?;
        }
        let waited = (forwarder.waited()? - before + running.waited()?) / start.elapsed().as_secs_f64();
        // While the link is there: without it the appliance is not asked anything.
        let metrics = matches!(device, Device::Appliance).then(|| scrape("/metrics")).transpose()?;
        running.stop()?;
        if let Some(metrics) = metrics {
            verify(&metrics)?;
        }
        let log = fs::read_to_string(log)?;
        let rates = log.lines().filter_map(|line| line.trim().strip_prefix("Rx-pps:"));
        let rates = rates.filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        // The second that the link came up in is part of a second.
        let mut rates: Vec<_> = rates.skip_while(|pps| *pps == 0.0).skip(1).map(|pps| pps / 1e6).collect();
        if rates.is_empty() {
            let last = log.lines().last().unwrap_or_default();
            return Err(format!("no report of the generator: {last}").into());
        }
        Ok((median(&mut rates), waited))
    }

    /// testpmd on the link. Two cores: `main` idles on one, the other forwards. No statistics period: in it `main`
    /// spins, on the core where the other process works.
    fn testpmd(&self, prefix: &str, main: &str, role: &str, more: &[&str], arguments: &[&str]) -> Command {
        let mac = if role == "server" { GATEWAY_MAC } else { PEER_MAC };
        let socket = self.folder.join("wire.sock");
        let device =
            format!("net_memif0,role={role},id=0,socket={},socket-abstract=no,mac={mac}", socket.display());
        let mut command = Command::new("dpdk-testpmd");
        command.args(["-l", "0,1", "--main-lcore", main, "--in-memory", "--no-telemetry", "--no-pci"]);
        command.args(["-m", "256", "--file-prefix", prefix, "--vdev", &device]);
        command.args(more.iter().flat_map(|device| ["--vdev", device]));
        command.args(["--", "--nb-cores=1", "--no-lsc-interrupt"]).args(arguments);
        command
    }

    fn command_of_appliance(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.fairlead);
        command.arg(verb).arg("--config").arg(self.folder.join("config.yaml"));
        command
    }

    /// An error that says where the logs are.
    fn kept(&self, error: &dyn Display) -> String {
        format!("{error} (logs are kept in {})", self.folder.display())
    }

    fn clean(&self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}
