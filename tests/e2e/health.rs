//! What the appliance itself finds out about backends, and how those begin that become ready.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Entry, Frontend};
use lab::manifests::{Member, service_file};
use lab::process::until;
use lab::traffic;
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("a backend that fails its health check gets no new connection, and comes back", failing_backend),
    ("an endpoint that becomes ready gets its share in steps", slow_start),
];

/// A check every 100 ms with two answers in a row, and the appliance's and the clients' turns.
const NOTICED: Duration = Duration::from_secs(5);

/// The Service with annotations more.
fn annotate(world: &World, entry: &Entry, annotations: &[(&str, &str)]) -> Result<()> {
    let mut metadata = String::from("metadata:\n  annotations:\n");
    for (key, value) in annotations {
        writeln!(metadata, "    {key}: \"{value}\"")?;
    }
    let yaml = entry.service.yaml().replacen("metadata:\n", &metadata, 1);
    world.lab.manifests.write(&service_file(&entry.service), &yaml)
}

/// The rows of `show backends` of a Service, by address.
fn rows(world: &World, entry: &Entry) -> Result<Vec<Value>> {
    let all = world.show("backends")?;
    let mine = |row: &&Value| row["service"] == entry.service.name.as_str();
    Ok(all.as_array().context("a list")?.iter().filter(mine).cloned().collect())
}

/// Waits until the backends' health reads so, from the first address to the last.
fn wait_for_health(world: &World, entry: &Entry, want: &[&str]) -> Result<()> {
    let mut last = Vec::new();
    until("the health checks say so", NOTICED, || {
        last = rows(world, entry).unwrap_or_default();
        let health = last.iter().map(|row| row["health"].as_str().unwrap_or_default());
        health.eq(want.iter().copied())
    })
    .with_context(|| format!("wanted {want:?}: {last:?}"))
}

/// Which pods answer so many connections.
fn answers(
    world: &World,
    target: SocketAddr,
    connections: u32,
) -> Result<std::collections::BTreeMap<String, u32>> {
    traffic::balance(world.host("c1"), target, connections)
}

fn failing_backend(world: &mut World) -> Result<()> {
    let web = catalog::web();
    let target = web.target(Frontend::LoadBalancer, "http", false);
    annotate(world, &web, &[("fairlead.dev/health-check", "http / interval=100ms rise=2 fall=2")])?;
    wait_for_health(world, &web, &["good"; 3])?;
    let refuse = "nft 'add table inet ill; add chain inet ill in { type filter hook input priority 0; }; add rule inet ill in tcp dport 8080 reject with tcp reset'";
    world.host("web-2").script(refuse)?;
    let said = wait_for_health(world, &web, &["good", "good", "failing: refused"]);
    let failing = said.and_then(|()| Ok(world.metrics()?.sum("fairlead_health_checks_failing")));
    let during = failing.and_then(|failing| Ok((failing, answers(world, target, 60)?)));
    world.host("web-2").script("nft delete table inet ill")?;
    let (failing, during) = during?;
    ensure!(
        !during.contains_key("web-2") && during.len() == 2,
        "connections while web-2 refuses: {during:?}"
    );
    wait_for_health(world, &web, &["good"; 3])?;
    ensure!(failing == 1.0, "fairlead_health_checks_failing was {failing}");
    let after = answers(world, target, 60)?;
    ensure!(after.len() == 3, "connections once web-2 is good again: {after:?}");
    world.lab.manifests.service(&web.service, &web.members)
}

fn slow_start(world: &mut World) -> Result<()> {
    let web = catalog::web();
    let target = web.target(Frontend::LoadBalancer, "http", false);
    let without = [Member::ready("web-1"), Member::ready("web-2"), Member::not_ready("web-3")];
    annotate(world, &web, &[("fairlead.dev/slow-start", "4s")])?;
    world.change(|manifests| manifests.endpoints(&web.service, &without))?;
    world.lab.manifests.endpoints(&web.service, &web.members)?;
    let ready = Instant::now();
    let (mut first, mut steps) = (answers(world, target, 60)?, Vec::new());
    let took = ready.elapsed();
    while ready.elapsed() < Duration::from_secs(6) {
        let (slow, other): (Vec<_>, Vec<_>) = rows(world, &web)?
            .iter()
            .map(|row| (row["address"] == "10.244.1.13:8080", row["weight"].as_u64().unwrap_or(0)))
            .partition(|(slow, _)| *slow);
        let weights = slow.iter().chain(&other).map(|(_, weight)| *weight).collect::<Vec<_>>();
        if steps.last() != Some(&weights) {
            steps.push(weights);
        }
        thread::sleep(Duration::from_millis(50));
    }
    // On a busy machine 60 connections may take as long as the first steps.
    let few = first.remove("web-3").unwrap_or(0);
    ensure!(
        few < 18 || took > Duration::from_secs(1),
        "{few} of the first 60 connections ({took:?}) went to web-3"
    );
    let whole = steps.pop();
    ensure!(whole.as_deref() == Some(&[1, 1, 1]), "weights at the end: {whole:?} after {steps:?}");
    let shares: Vec<_> = steps.iter().map(|weights| weights[0]).collect();
    ensure!(shares.is_sorted_by(|one, next| one < next) && shares.len() >= 4, "steps: {steps:?}");
    ensure!(steps.iter().all(|weights| weights[1..] == [8, 8]), "the others: {steps:?}");
    world.lab.manifests.service(&web.service, &web.members)
}
