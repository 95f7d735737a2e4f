//! The demo with Kubernetes itself: everything is asked with `kubectl`, real clients see what becomes of it.

mod objects;
mod rows;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::appliance::{Appliance, Options};
use lab::controlplane;
use lab::dir_of;
use lab::http::{self, WebAnswer};
use lab::kubernetes::KubeLab;
use lab::load::{self, Tally};

use super::report::Report;

/// Name of the demo's lab.
const NAME: &str = "kubedemo";
/// Longest wait for something that Kubernetes does.
const SOON: Duration = Duration::from_secs(90);
/// Longest that an answer of a pod may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Fewest requests that count as load.
const LOAD_MIN: u64 = 100;

/// The lab with the appliance in it.
struct Stage {
    /// Declared first, so that it ends before the namespaces go.
    appliance: Appliance,
    lab: KubeLab,
}

/// Walks through the rows; true when all of them passed. `keep` leaves the lab running.
pub(crate) fn run(keep: bool) -> Result<bool> {
    crate::need_root()?;
    lab::down(NAME)?;
    let begun = Instant::now();
    let lab = KubeLab::up(NAME, &controlplane::assets()?)?;
    println!(
        "etcd, kube-apiserver, kube-controller-manager, kube-scheduler, two nodes and two clients are up ({:.1} s).",
        begun.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    let options = Options { kubeconfig: Some(lab.install()?), ..crate::options()? };
    let appliance = lab.appliance(&options)?;
    println!(
        "fairlead runs on DPDK ports with the rights of deploy/kubernetes, follows the API server and is ready ({:.1} s).",
        begun.elapsed().as_secs_f64()
    );
    let mut stage = Stage { appliance, lab };
    let mut report = Report::new();
    for row in rows::ALL {
        row(&mut stage, &mut report);
    }
    let good = report.end();
    if keep {
        println!("\n{}", look_around(NAME));
        stage.appliance.release();
        stage.lab.release();
        return Ok(good);
    }
    if !good {
        println!("\nThe appliance's log ends so:\n{}", stage.appliance.daemon().log_tail(30));
    }
    drop(stage);
    println!("Everything is cleaned up. KEEP=1 leaves it running: make demo-kubernetes KEEP=1");
    Ok(good)
}

/// How to look around in the lab that this demo leaves.
fn look_around(name: &str) -> String {
    let dir = dir_of(name);
    let fairlead =
        crate::options().map_or_else(|_| "fairlead".to_owned(), |o| o.binary.display().to_string());
    format!(
        "{}
  ask it          {fairlead} show services --socket {}/admin.sock
                  ... show backends | flows | ports | counters | drops | routes | neighbors | pools | sources
  end it          make demo-down",
        machines(name),
        dir.display()
    )
}

/// How to look around in any lab with Kubernetes in it.
pub(crate) fn machines(name: &str) -> String {
    let dir = dir_of(name);
    let dir = dir.display();
    format!(
        "The lab is running. Hosts: c1 c2 (outside), gw (the appliance's place), n1 n2 (nodes), cp (control plane, 10.0.0.5).
  be the user     {dir}/kubectl get services,pods,nodes -A -o wide
  be a client     ip netns exec fl-{name}-c1 curl http://ADDRESS/
  be a pod        ip netns exec fl-{name}-NODE-NAMESPACE-POD ip addr      (`ip netns list` has the names)
  see the wire    ip netns exec fl-{name}-fabric tcpdump -n -i gw-in
  logs            {dir}/controlplane/*.log, {dir}/nodes/NODE/node.log,
                  {dir}/nodes/NODE/pods/NAMESPACE/POD/CONTAINER/log"
    )
}

impl Stage {
    /// How to run a `kubectl` command again.
    fn by_hand(&self, arguments: &[&str]) -> String {
        format!("{}/kubectl {}", self.lab.dir().display(), arguments.join(" "))
    }

    /// A step that is one `kubectl` command: what it printed is the answer.
    fn kubectl(&self, report: &mut Report, asked: &str, arguments: &[&str]) {
        let answer = self.lab.kubectl().wait(arguments, SOON);
        report.step(asked, &self.by_hand(arguments), answer);
    }

    /// A step that applies manifests, which stay in a file of the lab.
    fn apply(&self, report: &mut Report, asked: &str, name: &str, manifests: &str) {
        let file: PathBuf = self.lab.dir().join(name);
        let path = file.display().to_string();
        let applied = fs::write(&file, manifests)
            .with_context(|| format!("cannot write {path}"))
            .and_then(|()| self.lab.kubectl().run(&["apply", "-f", &path]));
        report.step(asked, &self.by_hand(&["apply", "-f", &path]), applied);
    }

    /// A step that is one `fairlead` command.
    fn fairlead(&self, report: &mut Report, asked: &str, arguments: &[&str]) {
        let answer = self.appliance.ask(arguments).and_then(lab::process::Outcome::ok);
        let words = arguments
            .iter()
            .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() });
        let words: Vec<String> = words.collect();
        let by_hand =
            format!("fairlead {} --socket {}/admin.sock", words.join(" "), self.lab.dir().display());
        report.step(asked, &by_hand, answer);
    }

    /// Where a Service is reached, once its status says so.
    fn address(&self, service: &str, port: u16) -> Result<SocketAddr> {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let text = self.lab.kubectl().run(&["get", "service", service, "-o", path])?;
        let ip: IpAddr = text.parse().with_context(|| format!("Service {service} has no address yet"))?;
        Ok(SocketAddr::new(ip, port))
    }

    /// Which pod answers a client.
    fn who(&self, client: &str, server: SocketAddr) -> Result<WebAnswer> {
        self.lab.host(client).within(|| http::who(server, ANSWER))?
    }

    /// Requests of c1 to the Service `hello` while something happens: every one must be answered.
    fn under_load(&mut self, during: impl FnOnce(&mut Self) -> Result<()>) -> Result<String> {
        let (server, client) = (self.address("hello", 80)?, self.lab.share("c1"));
        let ((), tally) = load::while_asked(&client, server, || during(self))?;
        tally.flawless(LOAD_MIN)?;
        Ok(told(&tally))
    }

    fn rolled_out(&self, deployment: &str) -> Result<String> {
        let what = format!("deployment/{deployment}");
        self.lab.kubectl().wait(&["rollout", "status", &what, "--timeout=80s"], SOON)
    }
}

fn told(tally: &Tally) -> String {
    format!(
        "{} requests, 0 failed, the slowest took {:.0} ms; {} pods answered",
        tally.answered(),
        tally.slowest.as_secs_f64() * 1000.0,
        tally.pods.len(),
    )
}
