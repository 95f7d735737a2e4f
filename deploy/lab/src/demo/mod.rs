//! The demo: how a packet reaches a pod, stage by stage, with real clients and servers. `kubernetes` is the other one.

pub(crate) mod kubernetes;
mod report;
mod rows;

use std::time::Instant;

use anyhow::Result;
use lab::appliance::Appliance;
use lab::netns::Namespace;
use lab::{Lab, dir_of};

use self::report::Report;

/// Name of the demo's lab.
const NAME: &str = "demo";

/// The lab with the appliance in it.
struct Stage {
    /// Declared first, so that it ends before the namespaces go.
    appliance: Option<Appliance>,
    lab: Lab,
}

impl Stage {
    fn host(&self, name: &str) -> &Namespace {
        self.lab.host(name)
    }

    /// Output of a `fairlead` command.
    fn fairlead(&self, arguments: &[&str]) -> Result<String> {
        match &self.appliance {
            Some(appliance) => appliance.ask(arguments)?.ok(),
            None => anyhow::bail!("the appliance is not running"),
        }
    }
}

/// Walks through the rows; true when all of them passed. `keep` leaves the lab running.
pub(crate) fn run(keep: bool) -> Result<bool> {
    lab::down(NAME)?;
    let begun = Instant::now();
    let lab = crate::start(NAME)?;
    println!(
        "Two clients, two nodes, nine pods with real servers are up ({:.1} s).",
        begun.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    let appliance = lab.appliance(&crate::options()?)?;
    println!("fairlead runs on DPDK ports and is ready ({:.1} s).", begun.elapsed().as_secs_f64());

    let mut stage = Stage { lab, appliance: Some(appliance) };
    let mut report = Report::new();
    for row in rows::ALL {
        row(&mut stage, &mut report);
    }
    let good = report.end();
    if keep {
        println!("\n{}", look_around(NAME));
        if let Some(appliance) = stage.appliance {
            appliance.release();
        }
        stage.lab.release();
        return Ok(good);
    }
    if !good && let Some(appliance) = stage.appliance.as_mut() {
        println!("\nThe appliance's log ends so:\n{}", appliance.daemon().log_tail(30));
    }
    // The appliance before its namespace, the servers before theirs.
    drop(stage);
    println!("Everything is cleaned up. KEEP=1 leaves it running: make demo KEEP=1");
    Ok(good)
}

/// How to look around in a running lab.
pub(crate) fn look_around(name: &str) -> String {
    let dir = dir_of(name);
    let (dir, socket) = (dir.display(), format!("{}/admin.sock", dir.display()));
    let fairlead =
        crate::options().map_or_else(|_| "fairlead".to_owned(), |o| o.binary.display().to_string());
    let end = if name == NAME { "make demo-down".to_owned() } else { format!("lab down {name}") };
    format!(
        "The lab is running. Hosts: c1 c2 (outside), gw (the appliance), n1 n2 (nodes), web-1..3 dns-1..2 mqtt-1 rtmp-1 iperf-1 tool-1 (pods).
  ask it          {fairlead} show services --socket {socket}
                  ... show backends | flows | ports | counters | drops | routes | neighbors | pools | sources
  be a client     ip netns exec fl-{name}-c1 curl http://203.0.113.10/
                  ip netns exec fl-{name}-tool-1 curl http://10.3.241.152/
  see the kernel  ip netns exec fl-{name}-gw tcpdump -n -i outside      (the TAP: what the appliance hands to its kernel)
                  ip netns exec fl-{name}-gw ip neigh
  see the wire    ip netns exec fl-{name}-fabric tcpdump -n -i gw-in
  change it       edit the files in {dir}/manifests
  measure it      ip netns exec fl-{name}-gw curl -s http://127.0.0.1:9472/metrics
  its log         {dir}/fairlead.log
  end it          {end}"
    )
}
