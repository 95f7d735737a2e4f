//! What a check gets: the lab, the appliance in it, and the few steps that every check takes.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::appliance::{Appliance, Options};
use lab::checks::Stage;
use lab::manifests::Manifests;
use lab::metrics::Metrics;
use lab::netns::Namespace;
use lab::plan::PLACES;
use lab::process::until;
use lab::{Lab, LabOptions};
use serde_json::Value;

/// Longest wait for the appliance to fall quiet.
const QUIET: Duration = Duration::from_secs(10);

/// A lab and the appliance in it.
pub(crate) struct World {
    appliance: Option<Appliance>,
    /// The namespaces.
    pub(crate) lab: Lab,
    options: Options,
}

impl World {
    /// The kernel's router in the appliance's place.
    pub(crate) fn router(binary: &Path) -> Result<Self> {
        let binary = binary.to_owned();
        let world = Self::lab(
            "r",
            false,
            Options { binary, tap: true, mode: "auto", kubeconfig: None, place: PLACES[0] },
        )?;
        world.lab.kernel_router()?;
        Ok(world)
    }

    /// The appliance as most people run it: TAP mirrors, mode auto.
    pub(crate) fn standard(binary: &Path) -> Result<Self> {
        let binary = binary.to_owned();
        Self::lab("", false, Options { binary, tap: true, mode: "auto", kubeconfig: None, place: PLACES[0] })?
            .started()
    }

    /// Client c1 leaves transmit checksum offload on.
    pub(crate) fn offload(binary: &Path) -> Result<Self> {
        let binary = binary.to_owned();
        Self::lab("o", true, Options { binary, tap: true, mode: "auto", kubeconfig: None, place: PLACES[0] })?
            .started()
    }

    /// No TAP, static neighbours, every Service `dnat` unless it says otherwise.
    pub(crate) fn tapless(binary: &Path) -> Result<Self> {
        let binary = binary.to_owned();
        Self::lab(
            "s",
            false,
            Options { binary, tap: false, mode: "dnat", kubeconfig: None, place: PLACES[0] },
        )?
        .started()
    }

    fn lab(suffix: &str, c1_tx_offload: bool, options: Options) -> Result<Self> {
        let name = format!("e2e{}{suffix}", std::process::id());
        Ok(Self { lab: Lab::up(&LabOptions { name, c1_tx_offload })?, appliance: None, options })
    }

    fn started(mut self) -> Result<Self> {
        self.start()?;
        Ok(self)
    }

    /// Starts the appliance.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.appliance = Some(self.lab.appliance(&self.options)?);
        Ok(())
    }

    /// Starts it with another configuration, made from the usual one.
    pub(crate) fn start_with(&mut self, change: impl FnOnce(String) -> String) -> Result<()> {
        self.appliance = Some(self.lab.appliance_with(&self.options, change)?);
        Ok(())
    }

    /// Starts it anew on ports of libpcap, with another configuration, made from the usual one. The usual driver has the kernel
    /// join IPv4 fragments before it gets them (AF_PACKET in a fanout group with PACKET_FANOUT_FLAG_DEFRAG); this one is
    /// slower and sees them.
    pub(crate) fn start_with_pcap(&mut self, change: impl FnOnce(String) -> String) -> Result<()> {
        drop(self.take_appliance()?);
        self.start_with(|config| {
            let pcap = config.replace("net_af_packet", "net_pcap");
            // With the Ethernet address that its neighbours know.
            change(pcap.replace(",framesz=2048,blocksz=65536,framecnt=4096", ",phy_mac=1"))
        })
    }

    /// Starts it anew with two workers, on ports with two queues.
    pub(crate) fn start_with_two_workers(&mut self) -> Result<()> {
        drop(self.take_appliance()?);
        self.start_with(|config| {
            config.replace("count: 1", "count: 2").replace("framecnt=4096", "framecnt=4096,qpairs=2")
        })
    }

    /// Starts it anew with its usual configuration.
    pub(crate) fn restart(&mut self) -> Result<()> {
        drop(self.take_appliance()?);
        self.start()
    }

    /// Has the running appliance read its usual configuration again, with these keys of `forwarding` more, each with a
    /// comma behind it.
    pub(crate) fn forwarding(&self, keys: &str) -> Result<()> {
        let usual = lab::appliance::config(&self.options, self.lab.dir());
        let more = usual.replacen("forwarding: {", &format!("forwarding: {{{keys}"), 1);
        std::fs::write(self.lab.dir().join("config.yaml"), more)?;
        self.ask(&["reload"]).map(drop)
    }

    /// Takes the appliance out, to stop it.
    pub(crate) fn take_appliance(&mut self) -> Result<Appliance> {
        self.appliance.take().context("the appliance is not running")
    }

    /// Resident memory of the appliance, KiB.
    pub(crate) fn memory_kib(&self) -> Result<u64> {
        let pid = self.appliance.as_ref().context("the appliance is not running")?.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// A host of the lab.
    pub(crate) fn host(&self, name: &str) -> &Namespace {
        self.lab.host(name)
    }

    /// The appliance's counters.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        self.appliance.as_ref().context("the appliance is not running")?.metrics(self.lab.host("gw"))
    }

    /// The `fairlead` program.
    pub(crate) fn binary(&self) -> &Path {
        &self.options.binary
    }

    /// A `fairlead` command that asks the running appliance.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<Command> {
        Ok(self.appliance.as_ref().context("the appliance is not running")?.cli(arguments))
    }

    /// Output of a `fairlead` command that asks the running appliance.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        self.appliance.as_ref().context("the appliance is not running")?.ask(arguments)?.ok()
    }

    /// `fairlead show WHAT -o json`.
    pub(crate) fn show(&self, what: &str) -> Result<Value> {
        let text = self.ask(&["show", what, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("show {what} -o json printed:\n{text}"))
    }

    /// The object of a service in `show services -o json`.
    pub(crate) fn shown_service(&self, name: &str) -> Result<Value> {
        let all = self.show("services")?;
        let found = all.as_array().and_then(|list| list.iter().find(|row| row["name"] == name));
        found.cloned().with_context(|| format!("show services does not list {name}: {all}"))
    }

    /// Makes a change of the manifests and waits until every worker goes by it.
    pub(crate) fn change(&self, change: impl FnOnce(&Manifests) -> Result<()>) -> Result<()> {
        let before = self.metrics()?.sum("fairlead_tables_generation");
        change(&self.lab.manifests)?;
        until("every worker goes by the change", QUIET, || {
            self.metrics().is_ok_and(|now| now.sum("fairlead_tables_programmed_generation") > before)
        })
    }

    /// Waits until nothing moves or waits (for a neighbour that does not exist, say) and checks that every packet is
    /// accounted for.
    pub(crate) fn identity_holds(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let metrics = self.metrics()?;
            let (came, went) = metrics.identity();
            if came > 0.0 && came == went && metrics.sum("fairlead_held_packets") == 0.0 {
                return Ok(());
            }
            if start.elapsed() > QUIET {
                bail!("the packet identity does not hold when quiet: {came} came, {went} went");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Stage for World {
    fn still_sound(&mut self) -> Result<()> {
        self.appliance.as_mut().map_or(Ok(()), |appliance| appliance.daemon().check_alive())
    }

    fn explain(&mut self) {
        if let Some(appliance) = self.appliance.as_mut() {
            println!("--- end of the appliance's log\n{}\n---", appliance.daemon().log_tail(30));
        }
    }
}
