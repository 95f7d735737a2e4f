//! `lab figures`: what a change of a real cluster costs at a client, through the appliance and, in the same run and for the
//! same changes, through kube-proxy on a node. Prints a table in Markdown, as a part of
//! docs/performance.md. Times begin when a `kubectl` that watches beside
//! has printed the change, some milliseconds after the API server took it; a client asks about every two milliseconds.

mod objects;
mod probe;
mod rows;

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::appliance::{Appliance, Options};
use lab::controlplane;
use lab::kubernetes::KubeLab;
use lab::netns::Namespace;
use lab::plan::NODES;
use lab::process::Daemon;

/// The lab's name.
const NAME: &str = "figures";
/// Longest wait for something that Kubernetes does.
const SOON: Duration = Duration::from_secs(90);

/// The lab with both in it.
struct Bench {
    /// Declared first, so that they end before the namespaces go.
    appliance: Option<Appliance>,
    proxy: Daemon,
    options: Options,
    lab: KubeLab,
    /// Two web pods and two echo pods: name and address.
    web: Vec<(String, IpAddr)>,
    echo: Vec<(String, IpAddr)>,
    table: String,
}

/// Measures the parts of these names, or all, and prints the table.
pub(crate) fn run(wanted: &[&str]) -> Result<bool> {
    crate::need_root()?;
    lab::down(NAME)?;
    let assets = controlplane::assets()?;
    let lab = KubeLab::up(NAME, &assets)?;
    let options = Options { kubeconfig: Some(lab.install()?), ..crate::options()? };
    let appliance = Some(lab.appliance(&options)?);
    let config = lab.dir().join("kube-proxy.yaml");
    fs::write(&config, objects::kube_proxy(&lab.plane.admin_kubeconfig().display().to_string()))?;
    let mut command = lab.host("n1").command(&assets.join("kube-proxy").to_string_lossy());
    command.arg("--config").arg(&config);
    let proxy = Daemon::start("kube-proxy", &mut command, &lab.dir().join("kube-proxy.log"))?;
    let kubectl = lab.kubectl();
    kubectl.apply(objects::PODS)?;
    for name in ["deployment/web", "deployment/echo"] {
        kubectl.wait(&["rollout", "status", name, "--timeout=60s"], SOON)?;
    }
    let pods = |app: &str| -> Result<Vec<(String, IpAddr)>> {
        let ready = lab.ready_pods("default", &format!("app={app}"))?;
        ready
            .into_iter()
            .map(|(name, ips)| Ok((name, *ips.first().context("a pod without address")?)))
            .collect()
    };
    let (web, echo) = (pods("web")?, pods("echo")?);
    let mut bench = Bench { appliance, proxy, options, lab, web, echo, table: String::new() };
    bench.table += "| | fairlead | kube-proxy |\n|---|---:|---:|\n";
    let measured = rows::measure(&mut bench, wanted);
    if let Err(error) = &measured {
        println!("{}", bench.table);
        let log = bench.appliance.as_mut().map(|one| one.daemon().log_tail(20)).unwrap_or_default();
        eprintln!(
            "{error:#}\nthe appliance's log ends so:\n{log}\nkube-proxy's:\n{}",
            bench.proxy.log_tail(10)
        );
        return Ok(false);
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("### kubernetes\n\n{}\nLoad of the machine at the end: {}", bench.table, load.trim());
    Ok(true)
}

impl Bench {
    fn client(&self) -> Arc<Namespace> {
        self.lab.share("c1")
    }

    /// A machine beside the node where kube-proxy runs.
    fn neighbor(&self) -> Arc<Namespace> {
        self.lab.share("n2")
    }

    /// kube-proxy's way to a nodePort.
    fn by_proxy(&self, node_port: u16) -> SocketAddr {
        SocketAddr::new(NODES[0].address().into(), node_port)
    }

    fn row(&mut self, what: &str, ours: &str, theirs: &str) {
        let _ = writeln!(self.table, "| {what} | {ours} | {theirs} |");
        eprintln!("{what}: {ours} / {theirs}");
    }
}
