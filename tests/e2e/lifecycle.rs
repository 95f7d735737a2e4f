//! Stop and start again: what is left behind, and what must be the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::appliance::status_of;
use lab::catalog::{self, Frontend};
use lab::process::until;
use lab::traffic;
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] =
    &[("SIGTERM ends it cleanly, and after a restart every address is the same", restart)];

/// Longest that an orderly end may take.
const STOP: Duration = Duration::from_secs(5);

fn assigned(world: &World, names: &[&str]) -> Result<Vec<Value>> {
    names.iter().map(|name| Ok(world.shown_service(name)?["loadBalancerIPs"].clone())).collect()
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
