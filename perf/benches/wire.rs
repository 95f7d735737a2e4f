//! The appliance against `dpdk-testpmd --forward-mode=macswap` on the same wire: one memif link, in interleaved rounds.
//!
//! The generator is testpmd's `flowgen`: 200 UDP flows to as many VIPs of one Service, each translated (source and
//! destination) and sent back over the same link to its backend's neighbour. One core generates, one works. A round counts
//! the frames that come back a second; what the appliance itself counts must agree, and must be 200 flows without a loss
//! but for a full link. `FAIRLEAD_BIN` names the appliance, else target/release/fairlead. Needs root and huge pages.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs::{self, File},
    io::{Read, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use perf::{Options, Report, Row, Unit};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Flows of the generator: 10.254.0.0:1000 to 10.253.0.n:1001 (constants of testpmd).
const FLOWS: usize = 200;
const METRICS: &str = "127.0.0.1:19472";
/// Where flowgen sends to (a constant of testpmd).
const GATEWAY_MAC: &str = "00:01:02:03:04:01";
/// How long a process has to come up or to end.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let options = Options::from_process();
    let bench = Bench::new(options.pick(10, 4))?;
    let mut report = Report::new("wire");
    let (mut baseline, mut ours) = (Vec::new(), Vec::new());
    for round in 1..=options.pick(7, 2) {
        baseline.push(bench.round(&Device::Macswap)?);
        ours.push(bench.round(&Device::Appliance)?);
        let (macswap, appliance) = (baseline[round - 1], ours[round - 1]);
        eprintln!("round {round}: macswap {macswap:.2} M/s, appliance {appliance:.2} M/s");
    }
    let (baseline, ours) = (median(&mut baseline), median(&mut ours));
    report.push(Row::value("testpmd macswap, median", Unit::MillionPerSecond, baseline));
    report.push(Row::value("appliance, full NAT, median", Unit::MillionPerSecond, ours));
    report.push(Row::value("appliance to macswap", Unit::Ratio, ours / baseline));
    Ok(report.finish()?)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// What forwards.
enum Device {
    Appliance,
    Macswap,
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

    /// Frames that came back in a round, in millions a second.
    fn round(&self, device: &Device) -> Result<f64> {
        // A link is made anew each round: the driver's server does not always outlive its peer.
        fs::remove_file(self.folder.join("wire.sock")).ok();
        let running = self.start(device)?;
        let rate = self.generate()?;
        if matches!(device, Device::Appliance) {
            verify(&scrape("/metrics")?)?;
        }
        running.stop()?;
        Ok(rate)
    }

    fn start(&self, device: &Device) -> Result<Running> {
        let command = match device {
            Device::Appliance => self.command_of_appliance("run"),
            Device::Macswap => self.testpmd("dut", "0", "server", &["--forward-mode=macswap"]),
        };
        let running = Running::start(command, &self.folder.join("device.log"))?;
        let start = Instant::now();
        let is_up = || match device {
            Device::Appliance => scrape("/readyz").is_ok(),
            Device::Macswap => self.folder.join("wire.sock").exists(),
        };
        while !is_up() {
            if start.elapsed() > PATIENCE {
                return Err(format!("not up: see {}", self.folder.join("device.log").display()).into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(running)
    }

    /// The median of the generator's own reports, the first two left out.
    fn generate(&self) -> Result<f64> {
        let flows = format!("--flowgen-flows={FLOWS}");
        let log = self.folder.join("generator.log");
        let command = self.testpmd("gen", "1", "client", &["--forward-mode=flowgen", &flows]);
        let running = Running::start(command, &log)?;
        thread::sleep(Duration::from_secs(self.seconds + 3));
        running.stop()?;
        let log = fs::read_to_string(log)?;
        let rates = log.lines().filter_map(|line| line.trim().strip_prefix("Rx-pps:"));
        let rates = rates.filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let mut rates: Vec<_> = rates.skip(2).map(|pps| pps / 1e6).collect();
        if rates.is_empty() {
            return Err(
                format!("no report of the generator: {}", log.lines().last().unwrap_or_default()).into()
            );
        }
        Ok(median(&mut rates))
    }

    /// testpmd on the link. Two cores: `main` idles on one, the other forwards. Without a statistics period testpmd ends
    /// as soon as its standard input does.
    fn testpmd(&self, prefix: &str, main: &str, role: &str, arguments: &[&str]) -> Command {
        let mac = if role == "server" { GATEWAY_MAC } else { "02:00:00:00:00:02" };
        let socket = self.folder.join("wire.sock");
        let device =
            format!("net_memif0,role={role},id=0,socket={},socket-abstract=no,mac={mac}", socket.display());
        let mut command = Command::new("dpdk-testpmd");
        command.args([
            "-l",
            "0,1",
            "--main-lcore",
            main,
            "--in-memory",
            "--no-telemetry",
            "--no-pci",
            "-m",
            "256",
        ]);
        command.args([
            "--file-prefix",
            prefix,
            "--vdev",
            &device,
            "--",
            "--nb-cores=1",
            "--port-topology=loop",
        ]);
        command.args(["--stats-period", "1", "--no-lsc-interrupt"]).args(arguments);
        command
    }

    fn command_of_appliance(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.fairlead);
        command.arg(verb).arg("--config").arg(self.folder.join("config.yaml"));
        command
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !thread::panicking() {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// A process that is ended with its owner.
struct Running(Child);

impl Running {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self(child.map_err(|error| format!("{}: {error}", command.get_program().display()))?))
    }

    /// Asks the process to end, and waits.
    fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status()?;
        let start = Instant::now();
        while self.0.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err("a process does not end".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The body of a page of the appliance, if it answers 200.
fn scrape(page: &str) -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(answer.lines().next().unwrap_or("no answer").to_owned().into());
    }
    Ok(answer)
}

/// The appliance made a flow of each of the generator's, sent most of what it received, and lost nothing but to a full link.
fn verify(metrics: &str) -> Result<()> {
    let (received, sent) =
        (sum(metrics, "fairlead_rx_packets_total", ""), sum(metrics, "fairlead_tx_packets_total", ""));
    let dropped = sum(metrics, "fairlead_dropped_packets_total", "");
    let full = sum(metrics, "fairlead_dropped_packets_total", "TxFull");
    let lost = dropped - full;
    if sent == 0.0 || lost > received / 1e4 {
        return Err(format!(
            "received {received}, sent {sent}, dropped {dropped}, {full} of them to a full link"
        )
        .into());
    }
    Ok(())
}

/// The sum of the samples of a metric whose labels contain a text.
fn sum(metrics: &str, name: &str, labels: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- name: wire
  device: net_memif0,role=server,id=0,socket={folder}/wire.sock,socket-abstract=no,mac={GATEWAY_MAC}
  addresses: [10.0.0.1/24]
  tap: false
workers: {{cores: [1], idle: poll}}
dpdk: {{memoryMiB: 256}}
kubernetes:
  manifests: {folder}/manifests
  externalIPAllow: [10.253.0.0/16]
forwarding: {{mode: snat, flowsPerWorker: 65536}}
routes:
- {{to: 10.244.0.0/16, via: 10.0.0.11}}
neighbors:
- {{address: 10.0.0.11, mac: \"02:00:00:00:00:02\", port: wire}}
admin: {{socket: {folder}/admin.sock}}
metrics: {{listen: \"{METRICS}\"}}
stateDir: {folder}/state
"
    )
}

/// One Service on every address the generator sends to, with 64 backends.
fn manifests() -> String {
    let addresses: Vec<_> = (0..FLOWS).map(|n| format!("10.253.0.{n}")).collect();
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  externalIPs: [{}]
  ports: [{{name: dgram, port: 1001, protocol: UDP, targetPort: 8080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: dgram, port: 8080, protocol: UDP}}]
endpoints:
",
        addresses.join(", ")
    );
    for n in 1..=64 {
        writeln!(text, "- {{addresses: [10.244.0.{n}], conditions: {{ready: true}}}}")
            .expect("text takes text");
    }
    text
}
