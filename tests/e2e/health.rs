//! What the appliance itself finds out about backends, and how those begin that become ready.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Entry, Frontend};
use lab::echo::who_udp;
use lab::manifests::{Member, service_file};
use lab::plan;
use lab::process::until;
use lab::traffic;
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    (
        "a backend that fails its health check (HTTP, TCP, UDP) gets no new flow, and comes back",
        failing_backend,
    ),
    ("the same with two workers, of whom neither begins a flow with the backend that fails", two_workers),
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

/// Waits until every backend is good, or all but the one at this address, which refuses.
fn wait_for_health(world: &World, entry: &Entry, refuses: Option<IpAddr>) -> Result<()> {
    let mut last = Vec::new();
    let as_wanted = |row: &Value| {
        let address =
            row["address"].as_str().and_then(|text| text.parse().ok()).map(|at: SocketAddr| at.ip());
        let wanted = if address.is_some() && address == refuses { "failing: refused" } else { "good" };
        row["health"] == wanted
    };
    until("the health checks say so", NOTICED, || {
        last = rows(world, entry).unwrap_or_default();
        last.len() == entry.members.len() && last.iter().all(as_wanted)
    })
    .with_context(|| format!("{refuses:?} alone was to refuse: {last:?}"))
}

/// Which pods answer so many new flows; that one of three is missed by chance happens once in 10^10 runs of 60.
fn answers(world: &World, target: SocketAddr, (flows, udp): (u32, bool)) -> Result<BTreeMap<String, u32>> {
    if !udp {
        return traffic::balance(world.host("c1"), target, flows);
    }
    let mut seen = BTreeMap::new();
    for _ in 0..flows {
        *seen.entry(world.host("c1").within(|| who_udp(target))??.0).or_default() += 1;
    }
    Ok(seen)
}

fn failing_backend(world: &mut World) -> Result<()> {
    let mut echo = catalog::echo();
    echo.service.mode = None;
    echo.service.ports.retain(|port| port.protocol == "UDP");
    for (entry, check, refuse) in [
        (catalog::web(), "http /", "tcp dport 8080 reject with tcp reset"),
        (catalog::web().over_ipv6(), "http /", "tcp dport 8080 reject with tcp reset"),
        (catalog::web().over_ipv6(), "tcp", "tcp dport 8080 reject with tcp reset"),
        (echo.over_ipv6(), "udp", "udp dport 7000 reject with icmpx port-unreachable"),
        (echo, "udp", "udp dport 7000 reject with icmpx port-unreachable"),
    ] {
        fails_and_comes_back(world, &entry, (check, refuse))
            .with_context(|| format!("{check} of {}", entry.service.name))?;
    }
    let (web, echo) = (catalog::web(), catalog::echo());
    for entry in [web.over_ipv6(), web, echo.over_ipv6(), echo] {
        world.lab.manifests.service(&entry.service, &entry.members)?;
    }
    Ok(())
}

fn two_workers(world: &mut World) -> Result<()> {
    world.start_with_two_workers()?;
    let how = ("http /", "tcp dport 8080 reject with tcp reset");
    let outcome = fails_and_comes_back(world, &catalog::web(), how);
    let flows_of = |worker: &str| {
        let worker = format!("worker=\"{worker}\"");
        Ok::<_, anyhow::Error>(world.metrics()?.sum_where("fairlead_flows_created_total", &worker))
    };
    let begun = flows_of("0").and_then(|first| Ok([first, flows_of("1")?]));
    world.restart()?;
    outcome?;
    let begun = begun?;
    ensure!(begun.iter().all(|&flows| flows > 0.0), "flows that each worker began: {begun:?}");
    Ok(())
}

fn fails_and_comes_back(world: &World, entry: &Entry, (check, refuse): (&str, &str)) -> Result<()> {
    let target = entry.target(Frontend::LoadBalancer, "", false);
    let plan = plan::pod("web-2");
    let web_2: IpAddr = if target.is_ipv4() { plan.address().into() } else { plan.address6().into() };
    annotate(
        world,
        entry,
        &[("fairlead.dev/health-check", &format!("{check} interval=100ms rise=2 fall=2"))],
    )?;
    wait_for_health(world, entry, None)?;
    let asks = (60, check == "udp");
    world.host("web-2").script(&format!(
        "nft 'add table inet ill; add chain inet ill in {{ type filter hook input priority 0; }}; add rule inet ill in {refuse}'"
    ))?;
    let said = wait_for_health(world, entry, Some(web_2));
    let failing = said.and_then(|()| Ok(world.metrics()?.sum("fairlead_health_checks_failing")));
    let during = failing.and_then(|failing| Ok((failing, answers(world, target, asks)?)));
    world.host("web-2").script("nft delete table inet ill")?;
    let (failing, during) = during?;
    ensure!(!during.contains_key("web-2") && during.len() == 2, "new flows while web-2 refuses: {during:?}");
    wait_for_health(world, entry, None)?;
    ensure!(failing == 1.0, "fairlead_health_checks_failing was {failing}");
    let after = answers(world, target, asks)?;
    ensure!(after.len() == 3, "new flows once web-2 is good again: {after:?}");
    world.lab.manifests.service(&entry.service, &entry.members)
}

fn slow_start(world: &mut World) -> Result<()> {
    const CONNECTIONS: u32 = 5;
    let web = catalog::web();
    let target = web.target(Frontend::LoadBalancer, "http", false);
    let without = [Member::ready("web-1"), Member::ready("web-2"), Member::not_ready("web-3")];
    annotate(world, &web, &[("fairlead.dev/slow-start", "8s")])?;
    world.change(|manifests| manifests.endpoints(&web.service, &without))?;
    world.lab.manifests.endpoints(&web.service, &web.members)?;
    let ready = Instant::now();
    let (mut first, mut steps, mut took, mut made) = (BTreeMap::new(), Vec::new(), Duration::ZERO, 0);
    // Looked at between connections too: on a busy machine 60 of them may take as long as the first steps.
    while ready.elapsed() < Duration::from_secs(10) {
        if made < 60 {
            for (pod, count) in answers(world, target, (CONNECTIONS, false))? {
                *first.entry(pod).or_default() += count;
            }
            (made, took) = (made + CONNECTIONS, ready.elapsed());
        } else {
            thread::sleep(Duration::from_millis(50));
        }
        let (slow, other): (Vec<_>, Vec<_>) = rows(world, &web)?
            .iter()
            .map(|row| (row["address"] == "10.244.1.13:8080", row["weight"].as_u64().unwrap_or(0)))
            .partition(|(slow, _)| *slow);
        let weights = slow.iter().chain(&other).map(|(_, weight)| *weight).collect::<Vec<_>>();
        if steps.last() != Some(&weights) {
            steps.push(weights);
        }
    }
    let few: u32 = first.remove("web-3").unwrap_or(0);
    ensure!(
        few < 18 || took > Duration::from_secs(2),
        "{few} of the first 60 connections ({took:?}) went to web-3"
    );
    let whole = steps.pop();
    ensure!(whole.as_deref() == Some(&[1, 1, 1]), "weights at the end: {whole:?} after {steps:?}");
    let shares: Vec<_> = steps.iter().map(|weights| weights[0]).collect();
    ensure!(shares.is_sorted_by(|one, next| one < next) && shares.len() >= 4, "steps: {steps:?}");
    ensure!(steps.iter().all(|weights| weights[1..] == [8, 8]), "the others: {steps:?}");
    world.lab.manifests.service(&web.service, &web.members)
}
