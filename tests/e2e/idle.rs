//! A worker that sleeps until its port's receive interrupt: the port is a device of the kernel that DPDK makes, and the
//! kernel is the only other machine.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::appliance::status_of;
use lab::netns::Namespace;
use lab::process::{self, Daemon};
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[("an idle worker is woken by a packet", a_packet_wakes_an_idle_worker)];

/// Longest wait for a start, and for an answer.
const READY: Duration = Duration::from_secs(30);

fn a_packet_wakes_an_idle_worker(world: &mut World) -> Result<()> {
    let machine = Namespace::create(&format!("e2e{}i", std::process::id()), "gw")?;
    let folder = tempfile::tempdir()?;
    let shown = folder.path().display();
    fs::create_dir_all(folder.path().join("state"))?;
    fs::create_dir_all(folder.path().join("manifests"))?;
    let config = format!(
        "apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{{name: wire, device: \"net_tap0,iface=wire\", addresses: [192.0.2.1/24], tap: false}}]
workers: {{count: 1, idle: sleep}}
dpdk: {{memoryMiB: 64, hugepages: never}}
kubernetes: {{manifests: {shown}/manifests}}
forwarding: {{flowsPerWorker: 1024}}
admin: {{socket: {shown}/admin.sock}}
metrics: {{listen: \"127.0.0.1:9472\"}}
stateDir: {shown}/state
"
    );
    fs::write(folder.path().join("config.yaml"), config)?;
    let mut command = machine.command(world.binary().to_str().context("the program's path is not UTF-8")?);
    command.arg("run").arg("--config").arg(folder.path().join("config.yaml"));
    let mut appliance = Daemon::start("fairlead", &mut command, &folder.path().join("fairlead.log"))?;
    let worker = || -> Result<Value> {
        let mut command = std::process::Command::new(world.binary());
        command.args(["show", "workers", "-o", "json", "--socket"]).arg(folder.path().join("admin.sock"));
        let rows: Value = serde_json::from_str(&process::run(&mut command, "", READY)?.ok()?)?;
        Ok(rows[0].clone())
    };
    let outcome = ping(&machine, &worker);
    let said = appliance.log_tail(30);
    appliance.stop()?;
    outcome.with_context(|| format!("its log ends so:\n{said}"))
}

fn ping(machine: &Namespace, worker: &dyn Fn() -> Result<Value>) -> Result<()> {
    machine.script("ip link set lo up")?;
    process::until("fairlead is ready", READY, || {
        status_of(machine, "/readyz").is_ok_and(|status| status == 200)
    })?;
    // One answer of the five is enough; ping waits for it longer than hosts stop.
    machine.script(
        "ip addr add 192.0.2.2/24 dev wire; ip link set wire up; ping -n -c 5 -i 0.2 -W 20 192.0.2.1",
    )?;
    let worker = worker()?;
    ensure!(worker["idle"] == "interrupts" && worker["rx_packets"].as_u64() > Some(1), "{worker}");
    Ok(())
}
