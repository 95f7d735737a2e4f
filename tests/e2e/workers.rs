//! Two workers on ports with two queues, whose driver spreads packets by a hash of the kernel's own: half of them come to
//! the wrong worker, and nobody notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Frontend};
use lab::echo::EchoClient;
use lab::http;
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] =
    &[("two workers share the traffic of ports with two queues", two_workers_share_the_traffic)];

/// Connections at once. That all of them belong to one of two workers has a chance of 1 in 2^63.
const CONNECTIONS: usize = 64;
/// Bytes of one exchange.
const EXCHANGE: usize = 4_000;
const REQUESTS: usize = 100;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

fn two_workers_share_the_traffic(world: &mut World) -> Result<()> {
    world.start_with_two_workers()?;
    let outcome = ["snat", "dnat"].into_iter().try_for_each(|mode| in_mode(world, mode));
    let echo = catalog::echo();
    world.lab.manifests.service(&echo.service, &echo.members)?;
    world.restart()?;
    outcome
}

fn in_mode(world: &World, mode: &'static str) -> Result<()> {
    let mut echo = catalog::echo();
    echo.service.mode = Some(mode);
    world.change(|manifests| manifests.service(&echo.service, &echo.members))?;
    let before = workers(world)?;
    let c1 = world.host("c1");
    for echo in [echo.clone(), echo.over_ipv6()] {
        let target = echo.target(Frontend::LoadBalancer, "tcp", false);
        c1.within(|| -> Result<()> {
            let clients: Result<Vec<_>> = (0..CONNECTIONS).map(|_| EchoClient::connect(target)).collect();
            let mut clients = clients?;
            (0..3).try_for_each(|_| clients.iter_mut().try_for_each(|client| client.exchange(EXCHANGE)))
        })?
        .with_context(|| format!("{mode}, {target}"))?;
    }
    let web = catalog::web().target(Frontend::LoadBalancer, "http", false);
    c1.within(|| (0..REQUESTS).try_for_each(|_| http::who(web, PATIENCE).map(drop)))??;
    world.identity_holds()?;
    let after = workers(world)?;
    let sums = ["rx_packets", "handoff_out_packets", "handoff_in_packets"].map(|name| {
        let sum = |rows: &[Value]| rows.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
        sum(&after) - sum(&before)
    });
    let [came, handed_over, taken_over] = sums;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let share = 100.0 * handed_over as f64 / came as f64;
    println!("       {mode}: {share:.0} % of {came} packets handed over to the worker that has their flow");
    ensure!(after.len() == 2, "{after:?}");
    for (before, after) in before.iter().zip(&after) {
        ensure!(after["rx_packets"].as_u64() > before["rx_packets"].as_u64(), "nothing came to {after}");
        ensure!(after["flows"].as_u64() > Some(0), "no flow is at {after}");
    }
    ensure!(handed_over > 0 && handed_over == taken_over, "{handed_over} handed over, {taken_over} taken");
    // Their device has no RSS to be told of, and they say so.
    let faults = after[0]["no_rss"].as_array().map(Vec::len);
    ensure!(faults == Some(2) && after[0]["rss_ports"] == Value::Array(vec![]), "{}", after[0]);
    Ok(())
}

fn workers(world: &World) -> Result<Vec<Value>> {
    let shown = world.show("workers")?;
    shown.as_array().cloned().with_context(|| format!("no list: {shown}"))
}
