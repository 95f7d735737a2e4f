//! A round: the device and the generator as processes on one or two links, and what came back.

use std::{
    env,
    error::Error,
    fmt::Display,
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use dataplane::io::pcap;
use perf::{
    Options,
    cores::Watch,
    links::Wire,
    process::Running,
    rounds::{Failed, Run},
};

use crate::{
    Result,
    api::Api,
    case::{Case, Detail, Device},
    metrics::{Account, scrape, verify},
    traffic::{FLOWS, capture_of_flows, check, config, manifests},
};

/// What the checked capture must reach before it ends: each flow many times.
const CAPTURE_BYTES: u64 = 4 << 20;
/// How long a process has to come up or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How often the distance of the cores is measured below a run.
const WATCH: Duration = Duration::from_millis(250);
/// How long the generator may take to open its flows.
const OPENING: Duration = Duration::from_secs(120);
/// How long it may send: the trials of a search that loses at every rate.
const SENT: Duration = Duration::from_secs(240);
/// The end of the generator's word that it sends.
const SENDING: &str = "sending";
/// Its word that it sends a share of the greatest rate.
const SENDING_AT: &str = "sending at";
/// Until flowgen's link is up and busy.
const SETTLING: Duration = Duration::from_secs(3);
/// Those of the generator and of the device.
pub(crate) const CORES: [usize; 2] = [0, 1];
/// How often flowgen is asked for its rate.
const SLICE: Duration = Duration::from_millis(100);
/// A frame leaves by the port it came from.
const LOOP: &str = "--port-topology=loop";

pub(crate) struct Bench {
    folder: PathBuf,
    fairlead: PathBuf,
    options: Options,
    wire: Wire,
    api: Api,
}

impl Bench {
    pub(crate) fn new(options: Options, wire: Wire) -> Result<Self> {
        let folder = env::temp_dir().join(format!("fairlead-wire-{}", std::process::id()));
        fs::create_dir_all(folder.join("manifests"))?;
        fs::write(folder.join("manifests/web.yaml"), manifests())?;
        let built = || perf::target_folder().join("release/fairlead");
        let fairlead = env::var_os("FAIRLEAD_BIN").map_or_else(built, PathBuf::from);
        let bench = Self { folder, fairlead, options, wire, api: Api::start()? };
        fs::write(bench.folder.join("kubeconfig"), bench.api.kubeconfig())?;
        if bench.wire.elsewhere().is_some() {
            return Ok(bench);
        }
        for case in [Case::OneWay, Case::New, Case::Publications] {
            let text = config(&bench.wire, &bench.folder, case.links(), case.is_big());
            fs::write(bench.config_of(case), text)?;
            if !bench.command_of_appliance("check", case).status()?.success() {
                return Err("the appliance refuses the bench's configuration".into());
            }
        }
        Ok(bench)
    }

    /// Plays one frame of each of flowgen's flows through the appliance, over and over, and checks all that comes back;
    /// their count.
    pub(crate) fn check_frames(&self) -> Result<usize> {
        let (played, returned) = (self.folder.join("played.pcap"), self.folder.join("returned.pcap"));
        fs::write(&played, capture_of_flows(&self.wire))?;
        let capture =
            format!("net_pcap0,rx_pcap={},tx_pcap={},infinite_rx=1", played.display(), returned.display());
        let device = self.start(Device::Appliance, Case::OneWay)?;
        let mut command = self.testpmd("gen", "1", &[self.wire.generator(&self.folder, 0), capture]);
        command.args(["--forward-mode=io", "--port-topology=paired"]);
        let player = Running::start(command, &self.folder.join("generator.log"))?;
        let start = Instant::now();
        while fs::metadata(&returned).map_or(0, |file| file.len()) < CAPTURE_BYTES {
            if start.elapsed() > PATIENCE {
                return Err(Failed("the appliance forwards nothing".to_owned()).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        player.stop()?;
        device.stop()?;
        let returned = fs::read(returned)?;
        check(&pcap::frames(&returned).map_err(|error| format!("capture: {error}"))?, &self.wire)
    }

    /// A device's turn: frames that came back, the distance of the cores meanwhile, the time spent waiting for them, and what
    /// else the case tells. Fails with [`Failed`] where another attempt may do better; not where the device ended while its
    /// peer was there, or what it gave was wrong.
    pub(crate) fn run(&self, device: Device, case: Case) -> Result<(Run, Detail)> {
        if matches!(device, Device::Elsewhere { .. }) {
            return self.pktgen(device, case, None);
        }
        let mut running = self.start(device, case)?;
        let result = match case {
            Case::OneWay => self.flowgen(device, &mut running).map(|run| (run, Detail::default())),
            _ => self.pktgen(device, case, Some(&mut running)),
        };
        self.api.change(false);
        if result.is_ok() {
            running.stop()?;
        }
        result
    }

    /// Starts a device and waits for its end of the links. The appliance is ready once they are up.
    fn start(&self, device: Device, case: Case) -> Result<Running> {
        let links = case.links();
        self.wire.prepare(&self.folder, links)?;
        let command = match device {
            Device::Appliance | Device::Changing => self.command_of_appliance("run", case),
            Device::Macswap | Device::Elsewhere { .. } => {
                let ends: Vec<_> = (0..links).map(|link| self.wire.gateway(&self.folder, link)).collect();
                let mut command = self.testpmd("dut", "0", &ends);
                command.args(["--forward-mode=macswap", LOOP]);
                command
            }
        };
        let mut running = Running::start(command, &self.folder.join("device.log"))?;
        let start = Instant::now();
        while !self.wire.is_up(&self.folder, links, &running)? {
            let ended = running.ended()?.is_some();
            if ended || start.elapsed() > PATIENCE {
                let log = running.log()?;
                let last = log.lines().last().unwrap_or("").to_owned();
                return Err(Failed(format!("{device} does not come up: {last}")).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(running)
    }

    /// flowgen's own reports, those left out that came before the link was busy.
    fn flowgen(&self, device: Device, forwarder: &mut Running) -> Result<Run> {
        let mut command = self.testpmd("gen", "1", &[self.wire.generator(&self.folder, 0)]);
        command.args(["--forward-mode=flowgen", &format!("--flowgen-flows={FLOWS}")]);
        command.args([LOOP, "-i", "--auto-start"]);
        let mut running = Running::start(command, &self.folder.join("generator.log"))?;
        let mut early = String::new();
        thread::sleep(SETTLING);
        if device.is_appliance() {
            early = scrape("/metrics")?;
        }
        let (start, before) = (Instant::now(), forwarder.waited()? + running.waited()?);
        let watch = Watch::start(CORES, WATCH);
        for _ in 0..self.options.pick(4000, 3000) / SLICE.as_millis() {
            thread::sleep(SLICE);
            running.say("show port stats 0")?;
        }
        let trips = watch.stop();
        let waited = (forwarder.waited()? + running.waited()? - before) / start.elapsed().as_secs_f64();
        // While the link is there: without it the driver may read what is no longer mapped, and end the device.
        lives(device, forwarder)?;
        let metrics = device.is_appliance().then(|| scrape("/metrics")).transpose()?;
        let log = running.log()?;
        running.stop()?;
        let rates = log.lines().filter_map(|line| line.trim().strip_prefix("Rx-pps:"));
        let rates = rates.filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        // The first report is of the time before, too.
        let slices: Vec<_> = rates.skip(1).map(|pps| pps / 1e6).collect();
        if slices.iter().all(|rate| *rate == 0.0) {
            let last = log.lines().last().unwrap_or_default();
            return Err(Failed(format!("nothing came back to the generator: {last}")).into());
        }
        if let Some(metrics) = metrics {
            verify(&early, &metrics, f64::from(FLOWS))?;
        }
        Ok(Run { slices, trips, waited })
    }

    /// What our own generator says.
    fn pktgen(&self, device: Device, case: Case, forwarder: Option<&mut Running>) -> Result<(Run, Detail)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
        command.args([
            "--outside",
            &self.wire.generator(&self.folder, 0),
            "--inside",
            &self.wire.generator(&self.folder, 1),
        ]);
        let [outside, inside] = [0, 1].map(|link| self.wire.gateway_mac(link));
        command.args(["--gateway-outside", outside, "--gateway-inside", inside]);
        command.args(case.words(device, &self.options));
        let mut running = Running::start(command, &self.folder.join("generator.log"))?;
        running.line(OPENING, "traffic", |line| line.ends_with(SENDING))?;
        let mut early = String::new();
        if case.is_big() {
            running.line(OPENING, "share", |line| line.contains(SENDING_AT))?;
            early = scrape("/metrics")?;
            self.api.change(device == Device::Changing);
        }
        // Changes are taken in on the generator's core, which must not count as other work.
        let waited = |generator: &Running| {
            Ok::<_, Box<dyn Error>>(
                forwarder.as_ref().map_or(Ok(0.0), |forwarder| forwarder.waited())?
                    + if case.is_big() { 0.0 } else { generator.waited()? },
            )
        };
        // What happened while flows were opened does not matter.
        let (start, before) = (Instant::now(), waited(&running)?);
        let watch = Watch::start(CORES, WATCH);
        let line = running.line(SENT, "answer", |line| line.starts_with('{') && line.ends_with('}'))?;
        let (trips, seconds) = (watch.stop(), start.elapsed().as_secs_f64());
        let waited = (waited(&running)? - before) / seconds;
        self.api.change(false);
        if let Some(forwarder) = forwarder {
            lives(device, forwarder)?;
        }
        let said: serde_json::Value = serde_json::from_str(&line)?;
        let mut account = None;
        if device.is_appliance() {
            // Of new flows as many as there is room for without recycling; some frames are the appliance's own announcements.
            let created = (said["returned"].as_f64().unwrap_or_default() * 0.999).min(4e6);
            let expected = case.flows().map_or(created, f64::from);
            let page = scrape("/metrics")?;
            verify("", &page, expected)?;
            account = case.is_big().then(|| Account::between(&early, &page, seconds));
            if let Some(account) = account {
                eprintln!("{device}: {account}");
            }
        }
        running.stop()?;
        let (checked, sent) = (said["checked"].as_u64(), said["sent"].as_u64());
        // Where frames are lost at every rate, there is an answer without frames.
        if checked.is_none_or(|checked| checked == 0) && sent != Some(0) {
            return Err(format!("the generator has checked nothing: {line}").into());
        }
        let mut run = Run { slices: Vec::new(), trips, waited };
        let detail = case.take(&said, &mut run)?;
        Ok((run, Detail { account, ..detail }))
    }

    /// testpmd on these devices. Two cores: `main` idles on one, the other forwards. No statistics period: in it `main`
    /// spins, on the core where the other process works.
    fn testpmd(&self, prefix: &str, main: &str, devices: &[String]) -> Command {
        let mut command = Command::new("dpdk-testpmd");
        command.args(["-l", "0,1", "--main-lcore", main, "--in-memory", "--no-telemetry", "--no-pci"]);
        command.args(["-m", "256", "--file-prefix", prefix]);
        if prefix == "dut" {
            command.args(self.wire.gateway_args());
        }
        command.args(devices.iter().flat_map(|device| ["--vdev", device]));
        command.args(["--", "--nb-cores=1", "--no-lsc-interrupt"]);
        command
    }

    fn config_of(&self, case: Case) -> PathBuf {
        let name = if case.is_big() { "big".to_owned() } else { case.links().to_string() };
        self.folder.join(format!("config-{name}.yaml"))
    }

    fn command_of_appliance(&self, verb: &str, case: Case) -> Command {
        let mut command = Command::new(&self.fairlead);
        command.arg(verb).arg("--config").arg(self.config_of(case));
        command
    }

    /// An error that says where the logs are.
    pub(crate) fn kept(&self, error: &dyn Display) -> String {
        format!("{error} (logs are kept in {})", self.folder.display())
    }

    pub(crate) fn clean(&self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.wire.clean();
    }
}

/// The device has not ended.
fn lives(device: Device, running: &mut Running) -> Result<()> {
    let Some(status) = running.ended()? else { return Ok(()) };
    let log = running.log()?;
    Err(format!("{device} has ended: {status}: {}", log.lines().last().unwrap_or_default()).into())
}
