//! The appliance in the lab: its configuration, its process, and what can be asked of it.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::http;
use crate::metrics::Metrics;
use crate::netns::Namespace;
use crate::plan::{self, CLIENTS, NODES, Place};
use crate::process::{self, Daemon, Outcome};

/// Where `/metrics` and `/readyz` are, inside the appliance's namespace.
const METRICS: &str = "127.0.0.1:9472";
/// Longest wait for readiness: the packet engine allocates its memory before.
const READY: Duration = Duration::from_secs(30);

/// What differs between the labs of the tests.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `fairlead` program.
    pub binary: PathBuf,
    /// Mirror the ports into the kernel; without, neighbours and routes are static.
    pub tap: bool,
    /// `forwarding.mode`.
    pub mode: &'static str,
    /// Follow the API server that this file names, instead of the lab's manifests.
    pub kubeconfig: Option<PathBuf>,
    /// Where it stands.
    pub place: Place,
}

/// The appliance's configuration; `dir` holds its files, and the lab's manifests.
pub fn config(options: &Options, dir: &Path) -> String {
    let (tap, mode, shown) = (options.tap, options.mode, dir.display());
    let ((out, out6), (inn, inn6)) = (options.place.outside(), options.place.inside());
    let source = match &options.kubeconfig {
        Some(file) => format!("kubeconfig: {}", file.display()),
        None => format!("manifests: {shown}/manifests"),
    };
    let mut text = format!(
        "apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- name: outside
  device: net_af_packet0,iface=gw-out,framesz=2048,blocksz=65536,framecnt=4096
  addresses: [{out}/24, \"{out6}/64\"]
  mtu: 1500
  tap: {tap}
- name: inside
  device: net_af_packet1,iface=gw-in,framesz=2048,blocksz=65536,framecnt=4096
  addresses: [{inn}/24, \"{inn6}/64\"]
  mtu: 1500
  tap: {tap}
workers: {{count: 1, idle: sleep}}
dpdk: {{memoryMiB: 128, hugepages: auto}}
kubernetes:
  {source}
  externalIPAllow: [222.128.5.0/24, 192.0.2.0/24, \"2001:db8:222::/64\"]
pools:
- name: public
  cidrs: [{routed}, \"{routed6}\"]
  ranges: [{connected}, \"{connected6}\"]
  autoAssign: true
forwarding: {{mode: {mode}, flowsPerWorker: 262144}}
admin: {{socket: {shown}/admin.sock}}
metrics: {{listen: \"{METRICS}\"}}
stateDir: {shown}/state
",
        routed = plan::POOL_ROUTED,
        routed6 = plan::POOL_ROUTED6,
        connected = plan::POOL_CONNECTED,
        connected6 = plan::POOL_CONNECTED6,
    );
    if !tap {
        text += "neighbors:\n";
        for machine in CLIENTS.iter().chain(&NODES) {
            let port = if machine.outside { "outside" } else { "inside" };
            let mac = machine.mac();
            for address in [IpAddr::V4(machine.address()), machine.address6().into()] {
                let _ = writeln!(text, "- {{address: \"{address}\", mac: \"{mac}\", port: {port}}}");
            }
        }
    }
    text
}

/// A running appliance.
pub struct Appliance {
    daemon: Daemon,
    binary: PathBuf,
    dir: PathBuf,
}

impl Appliance {
    /// Writes the configuration, starts `fairlead run` in the namespace, with some variables more in its environment, and
    /// waits until it is ready.
    ///
    /// # Errors
    /// The end of its log when it ends or does not become ready.
    pub fn start(
        options: &Options,
        environment: &[(&str, String)],
        namespace: &Namespace,
        dir: &Path,
    ) -> Result<Self> {
        Self::start_with(options, config(options, dir), environment, (namespace, dir))
    }

    /// The same with this configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        options: &Options,
        config: String,
        environment: &[(&str, String)],
        (namespace, dir): (&Namespace, &Path),
    ) -> Result<Self> {
        fs::create_dir_all(dir.join("state"))?;
        let file = dir.join("config.yaml");
        fs::write(&file, config)?;
        let log = dir.join("fairlead.log");
        let mut command =
            namespace.command(options.binary.to_str().context("the program's path is not UTF-8")?);
        command
            .arg("run")
            .arg("--config")
            .arg(&file)
            .envs(environment.iter().map(|(key, value)| (key, value)));
        let daemon = Daemon::start("fairlead", &mut command, &log)?;
        let mut appliance = Self { daemon, binary: options.binary.clone(), dir: dir.to_owned() };
        appliance.wait_ready(namespace)?;
        Ok(appliance)
    }

    fn wait_ready(&mut self, namespace: &Namespace) -> Result<()> {
        let mut ended = Ok(());
        let ready = process::until("fairlead is ready", READY, || {
            ended = self.daemon.check_alive();
            ended.is_err() || status_of(namespace, "/readyz").is_ok_and(|status| status == 200)
        });
        ended?;
        ready.with_context(|| format!("its log ends so:\n{}", self.daemon.log_tail(30)))
    }

    /// The counters now.
    ///
    /// # Errors
    /// When `/metrics` does not answer.
    pub fn metrics(&self, namespace: &Namespace) -> Result<Metrics> {
        Metrics::parse(&page(namespace, "/metrics")?.1)
    }

    /// A `fairlead` command that finds this appliance by its socket.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--socket").arg(self.dir.join("admin.sock"));
        command
    }

    /// Runs a `fairlead` command to its end.
    ///
    /// # Errors
    /// When it cannot be run or hangs.
    pub fn ask(&self, arguments: &[&str]) -> Result<Outcome> {
        process::run(&mut self.cli(arguments), "", Duration::from_secs(10))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Lets it run on.
    pub fn release(self) {
        self.daemon.release();
    }
}

/// Status of a page of the appliance.
///
/// # Errors
/// When nobody answers.
pub fn status_of(namespace: &Namespace, path: &str) -> Result<u16> {
    page(namespace, path).map(|(status, _)| status)
}

fn page(namespace: &Namespace, path: &str) -> Result<(u16, String)> {
    let address: SocketAddr = METRICS.parse()?;
    let (status, body) = namespace.within(|| http::get(address, path, Duration::from_secs(2)))??;
    if path == "/metrics" && status != 200 {
        bail!("/metrics answers {status}");
    }
    Ok((status, body))
}
