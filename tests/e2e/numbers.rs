//! What the appliance tells in one place is what it tells in the other, and what a load balancer before it is told.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::catalog::{self, Frontend};
use lab::echo::udp_stream;
use lab::manifests::Member;
use lab::metrics::Metrics;
use lab::process::until;
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("show counters, drops and ports agree with /metrics while nothing moves", agreement),
    ("fairlead top tells the rates of traffic, the workers' load, and whose flows they are", load),
    ("a healthCheckNodePort tells the outside whether endpoints are here", health_check),
];

/// Longest wait for a moment in which nothing moves.
const QUIET: Duration = Duration::from_secs(20);
/// Longest wait for a look at the flow of some traffic: one of 16 that see it, a second each.
const TOLD: Duration = Duration::from_secs(60);
/// A change of endpoints shows within this time.
const SOON: Duration = Duration::from_secs(2);

fn agreement(world: &mut World) -> Result<()> {
    world.identity_holds()?;
    let start = Instant::now();
    loop {
        let before = world.metrics()?;
        let shown = (world.show("counters")?, world.show("drops")?, world.show("ports")?);
        let after = world.metrics()?;
        // Something from outside, such as a router solicitation, may come between; then the three are of two states.
        if before.moved(&after) {
            ensure!(start.elapsed() < QUIET, "the appliance does not come to rest");
            continue;
        }
        counters_agree(&shown.0, &before, &after)?;
        drops_agree(&shown.1, &after)?;
        return ports_agree(&shown.2, &after);
    }
}

/// Asked again until the looks fall into the traffic: a machine that is held up sends less in some second.
fn load(world: &mut World) -> Result<()> {
    let target = catalog::echo().target(Frontend::LoadBalancer, "udp", false);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = world.host("c1");
        let traffic =
            scope.spawn(|| client.within(|| udp_stream(target, 2000, || !over.load(Ordering::Relaxed))));
        let mut last = String::new();
        let told = until("fairlead top tells of the traffic", TOLD, || {
            let text = world.ask(&["top", "--once", "--interval", "500ms", "-o", "json"]);
            last = text.unwrap_or_else(|error| format!("{error:#}"));
            serde_json::from_str(&last).is_ok_and(|shown| tells_of_traffic(&shown))
        });
        over.store(true, Ordering::Relaxed);
        let sent = traffic.join().map_err(|_| anyhow!("the UDP client panicked"))?;
        told.with_context(|| format!("the last was {last}"))?;
        sent.map(drop)
    })
}

fn tells_of_traffic(shown: &Value) -> bool {
    let list = |key: &str| shown[key].as_array().cloned().unwrap_or_default();
    let sum = |key: &str, figure: &str| list(key).iter().filter_map(|row| row[figure].as_f64()).sum::<f64>();
    let is_share = |row: &Value| row["busy"].as_f64().is_some_and(|busy| busy > 0.0 && busy <= 1.0);
    // That of the traffic is in use. Where floods have left the table large, each look is at another part of it.
    let (seen, in_use) = (sum("services", "seen"), sum("services", "inUse"));
    let services = shown["flowsInUse"].as_f64() == Some(in_use) && (seen == in_use || shown["oneIn"] != 1);
    let named = list("services").iter().any(|row| {
        row["inUse"].as_f64() > Some(0.0)
            && row["service"].as_str().is_some_and(|name| name.starts_with("shop/echo:"))
    });
    // There and back.
    let moves = sum("workers", "rx") > 500.0 && sum("ports", "txPackets") > 500.0;
    moves && sum("workers", "bursts") > 0.0 && list("workers").iter().any(is_share) && services && named
}

fn rows(shown: &Value) -> Result<&Vec<Value>> {
    shown.as_array().with_context(|| format!("no list: {shown}"))
}

fn number(row: &Value, key: &str) -> Result<f64> {
    row[key].as_f64().with_context(|| format!("no number {key} in {row}"))
}

/// Every counter is a series and has its value; only the loop's own turns go on while nothing moves.
fn counters_agree(shown: &Value, before: &Metrics, after: &Metrics) -> Result<()> {
    let rows = rows(shown)?;
    ensure!(rows.len() > 20, "few counters: {shown}");
    for row in rows {
        let (name, worker) = (row["name"].as_str().unwrap_or_default(), number(row, "worker")?);
        let labels = format!("worker=\"{worker}\"");
        let series = |metrics: &Metrics| -> Result<f64> {
            let all = [format!("fairlead_{name}_total"), format!("fairlead_{name}")];
            let known = all.iter().find(|series| metrics.has(series, &labels));
            let known = known.with_context(|| format!("/metrics has no {name} of worker {worker}"))?;
            Ok(metrics.sum_where(known, &labels))
        };
        let (low, value, high) = (series(before)?, number(row, "value")?, series(after)?);
        ensure!(low <= value && value <= high, "{name}: show says {value}, /metrics {low} and then {high}");
        ensure!(low == high || name.starts_with("loop_"), "{name} moved: {low} and then {high}");
    }
    Ok(())
}

fn drops_agree(shown: &Value, metrics: &Metrics) -> Result<()> {
    let mut sum = 0.0;
    for row in rows(shown)? {
        let (reason, worker) = (row["reason"].as_str().unwrap_or_default(), number(row, "worker")?);
        let labels = format!("worker=\"{worker}\",reason=\"{reason}\"");
        let (value, counted) =
            (number(row, "packets")?, metrics.sum_where("fairlead_dropped_packets_total", &labels));
        ensure!(value == counted, "{reason}: show says {value}, /metrics {counted}");
        sum += value;
    }
    let all = metrics.sum("fairlead_dropped_packets_total");
    ensure!(sum == all && all > 0.0, "show lists {sum} drops, /metrics {all}");
    Ok(())
}

fn ports_agree(shown: &Value, metrics: &Metrics) -> Result<()> {
    for row in rows(shown)? {
        let labels = format!("port=\"{}\"", row["name"].as_str().unwrap_or_default());
        for (key, series) in [
            ("rxPackets", "rx_packets"),
            ("rxBytes", "rx_bytes"),
            ("txPackets", "tx_packets"),
            ("txBytes", "tx_bytes"),
        ] {
            let value = number(row, key)?;
            let counted = metrics.sum_where(&format!("fairlead_port_{series}_total"), &labels);
            ensure!(value == counted && value > 0.0, "{labels} {key}: show says {value}, /metrics {counted}");
        }
    }
    Ok(())
}

fn health_check(world: &mut World) -> Result<()> {
    let mut probed = catalog::web_local();
    probed.service.name = "probed".to_owned();
    probed.service.cluster_ip = Ipv4Addr::new(10, 3, 242, 91).into();
    probed.service.load_balancer_ip = None;
    probed.service.external_ips.clear();
    probed.service.ports[0].node_port = 0;
    probed.service.health_check_node_port = 31_999;
    world.lab.manifests.service(&probed.service, &probed.members)?;
    let probes = [("c1", "http://192.0.2.1:31999/healthz"), ("n1", "http://10.0.0.1:31999/")];
    for (host, url) in probes {
        answers(world, (host, url), "200", "3")?;
    }
    let resting: Vec<_> = probed.members.iter().map(|member| Member::not_ready(member.pod)).collect();
    world.lab.manifests.endpoints(&probed.service, &resting)?;
    for (host, url) in probes {
        answers(world, (host, url), "503", "0")?;
    }
    world.lab.manifests.endpoints(&probed.service, &probed.members[..1])?;
    answers(world, probes[0], "200", "1")?;
    world.lab.manifests.delete(&probed.service)?;
    let refused = || world.host(probes[0].0).run(&["curl", "-s", "--max-time", "3", probes[0].1], SOON * 2);
    // 7: the connection was refused, as nobody listens any more.
    until("the listener goes with its Service", SOON, || {
        refused().is_ok_and(|outcome| outcome.status.code() == Some(7))
    })
}

/// Waits until a probe is answered with this status and weight.
fn answers(world: &World, (host, url): (&str, &str), status: &str, weight: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        let outcome =
            world.host(host).run(&["curl", "-s", "-i", "--max-time", "3", url], Duration::from_secs(5))?;
        let said = outcome.stdout.to_ascii_lowercase();
        let weighs = said.contains(&format!("x-load-balancing-endpoint-weight: {weight}\r\n"));
        let counts = said.contains(&format!("\"localendpoints\":{weight}"));
        if said.starts_with(&format!("http/1.1 {status} ")) && weighs && counts {
            return Ok(());
        }
        if start.elapsed() > SOON {
            bail!("{url} from {host}: {status} with weight {weight} was expected: {said}{}", outcome.stderr);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
