//! The rows of the table, one function each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::appliance::Options;
use lab::controlplane::Component;
use lab::http::Connection;
use lab::process::until;

use super::objects::{self, other_slice, service, slice};
use super::probe::{Hammer, Witness};
use super::{Bench, SOON};

/// Changes that are measured.
const ROUNDS: u32 = 12;
/// Longest wait for a change to show; kube-proxy's watches back off for up to a minute.
const SHOWS: Duration = Duration::from_secs(75);
/// How long what a change did is looked at.
const SETTLED: Duration = Duration::from_millis(1500);
/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(15);
/// Connections that are open when the appliance is started again.
const HELD: usize = 20;

const WEB: (&str, u16) = ("TCP", 8080);

/// A part of the table.
type Part = fn(&mut Bench) -> Result<()>;

/// By name, in their order.
const PARTS: [(&str, Part); 6] = [
    ("created", created),
    ("changed", |bench| changed(bench, "one Service", |_, _| String::new())),
    ("flow", flow),
    ("many", many),
    ("away", away),
    ("restarted", |bench| ["snat", "dnat"].iter().try_for_each(|mode| restarted(bench, mode))),
];

/// Those whose name is among `wanted`; all, if that is empty.
pub(super) fn measure(bench: &mut Bench, wanted: &[&str]) -> Result<()> {
    let mut parts = PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    parts.try_for_each(|(name, part)| part(bench).context(*name))
}

fn many(bench: &mut Bench) -> Result<()> {
    for first in (0..objects::OTHERS).step_by(50) {
        bench.lab.kubectl().apply(&objects::others(first..first + 50))?;
    }
    let beside = |round: u32, at: u32| other_slice((round * 10 + at) % objects::OTHERS, round + 1);
    changed(bench, "among 500 Services x 4, ten of which change beside it", beside)
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, number).into()
}

fn at(number: u8) -> SocketAddr {
    SocketAddr::new(address(number), 80)
}

/// Median and most, in milliseconds; those that never came are told.
fn figures(times: &[Option<Duration>]) -> String {
    let mut known: Vec<f64> = times.iter().flatten().map(|time| time.as_secs_f64() * 1000.0).collect();
    known.sort_by(f64::total_cmp);
    let (Some(median), Some(most)) = (known.get(known.len() / 2), known.last()) else {
        return "never".into();
    };
    let never = times.len() - known.len();
    let never = if never > 0 { format!(", {never} never") } else { String::new() };
    format!("{median:.0} / {most:.0} ms{never}")
}

fn slices_watched(bench: &Bench) -> Result<Witness> {
    let print = "jsonpath={.metadata.name} {.endpoints[*].addresses[0]}{\"\\n\"}";
    Witness::start(bench.lab.kubectl(), &["get", "endpointslices", "--watch", "-o", print])
}

/// From a Service until the first answer at its address, or at its nodePort.
fn created(bench: &mut Bench) -> Result<()> {
    let print = "jsonpath={.metadata.name}.{\"\\n\"}";
    let witness = Witness::start(bench.lab.kubectl(), &["get", "services", "--watch", "-o", print])?;
    let pod = bench.web[0].clone();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..10u8 {
        let (name, number, node_port) = (format!("new-{round}"), 20 + round, 30_600 + u16::from(round));
        bench.lab.kubectl().apply(&slice(&name, &[pod.1], WEB))?;
        let short = Duration::from_millis(20);
        let here = Hammer::web(&bench.client(), at(number), short);
        let there = Hammer::web(&bench.neighbor(), bench.by_proxy(node_port), short);
        let begun = Instant::now();
        bench.lab.kubectl().apply(&service(&name, address(number), "TCP", node_port))?;
        let seen = witness.saw(&format!("{name}."), begun)?;
        ours.push(here.first(&pod.0, seen, SHOWS));
        theirs.push(there.first(&pod.0, seen, SHOWS));
    }
    bench.lab.kubectl().run(&["delete", "service,endpointslice", "--all", "--timeout=25s"])?;
    bench.row(
        "LoadBalancer Service created, first answer at its address (kube-proxy: at its nodePort), p50 / max",
        &figures(&ours),
        &figures(&theirs),
    );
    Ok(())
}

/// The Service whose endpoint moves, at its first one, served by both.
fn moved(bench: &Bench) -> Result<()> {
    let pod = &bench.web[0];
    let objects = service("moved", address(40), "TCP", 30_640) + &slice("moved", &[pod.1], WEB);
    bench.lab.kubectl().apply(&objects)?;
    for (client, server) in [(bench.client(), at(40)), (bench.neighbor(), bench.by_proxy(30_640))] {
        let hammer = Hammer::user(&client, server);
        hammer.first(&pod.0, Instant::now(), SHOWS).context("the Service does not answer")?;
    }
    Ok(())
}

/// One endpoint is replaced by another, again and again; `beside` is what else changes in each round.
fn changed(bench: &mut Bench, what: &str, beside: impl Fn(u32, u32) -> String) -> Result<()> {
    moved(bench)?;
    let witness = slices_watched(bench)?;
    let here = Hammer::user(&bench.client(), at(40));
    let there = Hammer::user(&bench.neighbor(), bench.by_proxy(30_640));
    thread::sleep(SETTLED);
    let (mut firsts, mut lasts) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..ROUNDS {
        let (old, new) = (&bench.web[round as usize % 2], &bench.web[(round as usize + 1) % 2]);
        let around: Vec<String> = (0..10).map(|at| beside(round, at)).collect();
        let (earlier, later) = around.split_at(5);
        let begun = Instant::now();
        let text = earlier.concat() + &slice("moved", &[new.1], WEB) + &later.concat();
        bench.lab.kubectl().apply(&text)?;
        let seen = witness.saw(&format!("moved {}", new.1), begun)?;
        for (at, hammer) in [&here, &there].into_iter().enumerate() {
            firsts[at].push(hammer.first(&new.0, seen, SHOWS));
        }
        thread::sleep(SETTLED);
        for (at, hammer) in [&here, &there].into_iter().enumerate() {
            lasts[at].push(Some(hammer.last(&old.0, seen)));
        }
    }
    let failed = [here.failed(), there.failed()].map(|count| count.to_string());
    drop((here, there));
    let row = |kind: &str| format!("slice changed, {what}: {kind}, p50 / max");
    bench.row(&row("first hit of the new pod"), &figures(&firsts[0]), &figures(&firsts[1]));
    bench.row(&row("last hit of the leaving pod"), &figures(&lasts[0]), &figures(&lasts[1]));
    bench.row(&format!("failed requests meanwhile, {what}"), &failed[0], &failed[1]);
    Ok(())
}

/// A UDP flow whose pod leaves the slice.
fn flow(bench: &mut Bench) -> Result<()> {
    let echo = ("UDP", 7000);
    let objects = service("flow", address(41), "UDP", 30_641) + &slice("flow", &[bench.echo[0].1], echo);
    bench.lab.kubectl().apply(&objects)?;
    let witness = slices_watched(bench)?;
    let here = Hammer::flow(&bench.client(), at(41))?;
    let there = Hammer::flow(&bench.neighbor(), bench.by_proxy(30_641))?;
    let (mut firsts, mut lost) = ([Vec::new(), Vec::new()], [0, 0]);
    for round in 0..=ROUNDS / 2 {
        let new = &bench.echo[(round as usize) % 2];
        let begun = Instant::now();
        bench.lab.kubectl().apply(&slice("flow", &[new.1], echo))?;
        // The first round only begins the flows.
        let seen = if round == 0 { begun } else { witness.saw(&format!("flow {}", new.1), begun)? };
        for (at, hammer) in [&here, &there].into_iter().enumerate() {
            let first = hammer.first(&new.0, seen, Duration::from_secs(10));
            firsts[at].extend((round > 0).then_some(first));
        }
        thread::sleep(SETTLED);
        if round == 0 {
            lost = [here.failed(), there.failed()];
        }
    }
    let lost = [here.failed() - lost[0], there.failed() - lost[1]].map(|count| count.to_string());
    drop((here, there));
    let what = "a UDP flow's pod leaves, the same flow is answered by another, p50 / max";
    bench.row(what, &figures(&firsts[0]), &figures(&firsts[1]));
    bench.row("datagrams of it without an answer within 20 ms, of six changes", &lost[0], &lost[1]);
    Ok(())
}

/// The API server goes, comes back, and an endpoint is replaced at once.
fn away(bench: &mut Bench) -> Result<()> {
    moved(bench)?;
    let here = Hammer::user(&bench.client(), at(40));
    let there = Hammer::user(&bench.neighbor(), bench.by_proxy(30_640));
    let mut firsts = [Vec::new(), Vec::new()];
    for round in 0..2usize {
        bench.lab.plane.kill(Component::ApiServer);
        thread::sleep(AWAY);
        bench.lab.plane.come_back()?;
        let new = bench.web[(round + 1) % 2].clone();
        bench.lab.kubectl().apply(&slice("moved", &[new.1], WEB))?;
        let taken = Instant::now();
        for (at, hammer) in [&here, &there].into_iter().enumerate() {
            firsts[at].push(hammer.first(&new.0, taken, SHOWS));
        }
    }
    let failed = [here.failed(), there.failed()].map(|count| count.to_string());
    drop((here, there));
    let slower = |times: &[Option<Duration>]| match times.iter().copied().collect::<Option<Vec<_>>>() {
        Some(times) => format!("{} ms", times.iter().max().map_or(0, Duration::as_millis)),
        None => "never".to_owned(),
    };
    let what =
        "API server back after 15 s, a slice changed then: first hit of the new pod, the slower of two";
    bench.row(what, &slower(&firsts[0]), &slower(&firsts[1]));
    bench.row("failed requests meanwhile, API server away", &failed[0], &failed[1]);
    Ok(())
}

/// The appliance itself is ended in order and started again.
fn restarted(bench: &mut Bench, mode: &str) -> Result<()> {
    let number = if mode == "snat" { 42 } else { 43 };
    let name = format!("again-{mode}");
    let ips: Vec<IpAddr> = bench.web.iter().map(|(_, ip)| *ip).collect();
    let objects =
        service(&name, address(number), "TCP", 30_600 + u16::from(number)) + &slice(&name, &ips, WEB);
    bench.lab.kubectl().apply(&objects)?;
    bench.lab.kubectl().run(&["annotate", "service", &name, &format!("fairlead.dev/mode={mode}")])?;
    let hammer = Hammer::user(&bench.client(), at(number));
    until("it answers", SOON, || hammer.asked().iter().filter(|asked| asked.pod.is_some()).count() > 50)?;
    let open = || {
        (0..HELD).map(|_| Connection::open(at(number), Duration::from_secs(3))).collect::<Result<Vec<_>>>()
    };
    let mut held = bench.client().within(open)??;
    held.iter_mut().try_for_each(|one| one.get("/").map(drop))?;
    let before = hammer.failed();
    let options: Options = bench.options.clone();
    bench.appliance = None;
    bench.appliance = Some(bench.lab.appliance(&options)?);
    thread::sleep(Duration::from_secs(3));
    let broken = held.iter_mut().filter_map(|one| one.get("/").err()).count();
    let failed = hammer.failed() - before;
    let row = format!(
        "{:.2} s; {failed} requests failed; {broken} of {HELD} open connections broke",
        hammer.gap().as_secs_f64()
    );
    drop(hammer);
    bench.row(
        &format!("restart of the appliance, {mode}: longest time from one answer to the next"),
        &row,
        "–",
    );
    Ok(())
}
