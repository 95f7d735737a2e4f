//! Stop and start again: what is left behind, and what must be the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::appliance::status_of;
use lab::catalog::{self, Frontend};
use lab::echo::EchoClient;
use lab::process::until;
use lab::traffic;
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("a second appliance on the same state directory is refused in a sentence", second_appliance),
    ("a device that is not there is named in a sentence", missing_device),
    ("a configuration with faults is refused with every line named", faulty_config),
    ("reload reads the configuration again while traffic flows", reload),
    ("killed without warning, it starts again and serves", crash),
    ("SIGTERM ends it cleanly, and after a restart every address is the same", restart),
];

/// Longest that an orderly end may take.
const STOP: Duration = Duration::from_secs(5);

/// Runs `fairlead COMMAND --config FILE` in the appliance's namespace and expects it to fail soon; gives what it said.
fn refusal(world: &World, command: &str, config: &str) -> Result<String> {
    let file = world.lab.dir().join("other.yaml");
    std::fs::write(&file, config)?;
    let (binary, file) = (world.binary().to_string_lossy(), file.to_string_lossy());
    let outcome = world.host("gw").run(&[&binary, command, "--config", &file], Duration::from_secs(15))?;
    ensure!(outcome.status.code() == Some(1), "{}: {}{}", outcome.status, outcome.stdout, outcome.stderr);
    Ok(outcome.stderr)
}

fn second_appliance(world: &mut World) -> Result<()> {
    let config = std::fs::read_to_string(world.lab.dir().join("config.yaml"))?;
    let said = refusal(world, "run", &config)?;
    let state = world.lab.dir().join("state");
    ensure!(said.contains(&*state.to_string_lossy()), "it does not name the state directory: {said}");
    traffic::who(world.host("c1"), catalog::web().target(Frontend::LoadBalancer, "http", false)).map(drop)
}

fn missing_device(world: &mut World) -> Result<()> {
    let dir = world.lab.dir().to_string_lossy().into_owned();
    let config = std::fs::read_to_string(world.lab.dir().join("config.yaml"))?
        .replace("iface=gw-in", "iface=gw-none")
        .replace("127.0.0.1:9472", "127.0.0.1:9473")
        .replace(&format!("{dir}/state"), &format!("{dir}/state2"))
        .replace("admin.sock", "admin2.sock");
    let said = refusal(world, "run", &config)?;
    ensure!(said.contains("gw-none"), "it does not name the device: {said}");
    Ok(())
}

fn faulty_config(world: &mut World) -> Result<()> {
    let config = std::fs::read_to_string(world.lab.dir().join("config.yaml"))?
        .replace("mode: auto", "mode: magic")
        .replace("count: 1", "count: none")
        + "colour: blue\n";
    let said = refusal(world, "check", &config)?;
    for word in ["forwarding.mode", "workers.count", "colour"] {
        let line = said
            .lines()
            .find(|line| line.contains(word))
            .with_context(|| format!("no {word} in:\n{said}"))?;
        ensure!(line.contains("other.yaml:"), "no file and line: {line}");
    }
    Ok(())
}

fn reload(world: &mut World) -> Result<()> {
    let target = catalog::echo().target(Frontend::LoadBalancer, "tcp", false);
    let mut client = world.host("c1").within(|| EchoClient::connect(target))??;
    world.ask(&["reload"])?;
    client.exchange(10_000).context("a connection over a reload")
}

fn assigned(world: &World, names: &[&str]) -> Result<Vec<Value>> {
    names.iter().map(|name| Ok(world.shown_service(name)?["loadBalancerIPs"].clone())).collect()
}

fn crash(world: &mut World) -> Result<()> {
    world.take_appliance()?.daemon().kill();
    world.start()?;
    let target = catalog::web().target(Frontend::LoadBalancer, "http", false);
    traffic::who(world.host("c1"), target).map(drop)
}

fn restart(world: &mut World) -> Result<()> {
    // Two Services that leave the choice of their address to the appliance.
    let names = ["picked-b", "picked-a"];
    for (number, name) in names.into_iter().enumerate() {
        let mut entry = catalog::web();
        entry.service.name = name.to_owned();
        entry.service.cluster_ip = [10, 3, 243, u8::try_from(number)? + 1].into();
        entry.service.load_balancer_ip = None;
        entry.service.external_ips.clear();
        entry.service.ports[0].node_port = 0;
        world.lab.manifests.service(&entry.service, &entry.members)?;
        until("it has an address", Duration::from_secs(1), || {
            assigned(world, &[name])
                .is_ok_and(|lists| lists[0].as_array().is_some_and(|list| !list.is_empty()))
        })?;
    }
    let before = assigned(world, &names)?;
    ensure!(before[0] != before[1], "one address for two Services: {before:?}");

    let kernel_state = |world: &World| {
        let fixed = "ip -br link | awk '{print $1}'; ip -br addr | grep -v gw-; ip route; ip -6 route; ip neigh; cat /proc/sys/net/ipv4/ip_local_port_range";
        world.host("gw").script(fixed)
    };
    let mut appliance = world.take_appliance()?;
    let (status, took) = appliance.daemon().stop()?;
    ensure!(status.success() && took <= STOP, "SIGTERM: {status} after {took:?}");
    drop(appliance);
    let left = kernel_state(world)?;
    ensure!(!left.contains("outside") && !left.contains("inside"), "left behind in the kernel:\n{left}");
    ensure!(left.contains("32768\t60999"), "ip_local_port_range was not put back:\n{left}");
    ensure!(status_of(world.host("gw"), "/readyz").is_err(), "something still answers /readyz");

    world.start()?;
    let target = catalog::web().target(Frontend::LoadBalancer, "http", false);
    traffic::who(world.host("c1"), target).context("after the restart")?;
    let after = assigned(world, &names)?;
    ensure!(before == after, "addresses before {before:?}, after {after:?}");
    world.identity_holds()
}
