//! The cluster changes: endpoints come and go, Services are added and deleted, a manifest breaks.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::catalog::{self, Entry, Frontend};
use lab::echo::{EchoClient, UdpAsker};
use lab::http::{self, Connection};
use lab::manifests::{Member, service_file};
use lab::process::until;
use lab::traffic;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("an endpoint that turns not ready gets no new connection 50 ms later, and comes back", readiness),
    ("existing connections of a removed endpoint drain", draining),
    ("a UDP flow of a removed endpoint moves to another", udp_moves),
    ("a Service without endpoints refuses, and serves again when one comes", no_endpoints),
    ("Services are added and deleted under load, the others are unharmed", add_and_delete),
    ("an externalIP outside the allow-list is not served and says so", external_ip_refused),
    ("a broken manifest keeps its last good content, the others are followed", broken_manifest),
];

/// A change must be live within this time of the file's rename.
const LIVE: Duration = Duration::from_millis(50);

/// New connections from `from` all through `during`: when each began and which pod answered.
fn connections(
    world: &World,
    target: SocketAddr,
    during: impl FnOnce() -> Result<()>,
) -> Result<Vec<(Instant, String)>> {
    let (seen, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let client = world.host("c1");
    let load = || -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = http::who(target, traffic::ANSWER)?;
            seen.lock().expect("no thread panics with it").push((begun, answer.pod));
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let threads = [scope.spawn(|| client.within(load)), scope.spawn(|| client.within(load))];
        let done = during();
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))???;
        }
        done
    })?;
    Ok(seen.into_inner().expect("no thread panicked"))
}

fn readiness(world: &mut World) -> Result<()> {
    let web = catalog::web();
    let target = web.target(Frontend::LoadBalancer, "http", false);
    let without = [Member::ready("web-1"), Member::not_ready("web-2"), Member::ready("web-3")];
    let mut latest = Vec::new();
    // The clients share two cores with the appliance: one late turn of the scheduler is not its fault, three are.
    for _ in 0..3 {
        let (mut left, mut back) = (Instant::now(), Instant::now());
        let seen = connections(world, target, || {
            thread::sleep(Duration::from_millis(200));
            world.lab.manifests.endpoints(&web.service, &without)?;
            left = Instant::now();
            thread::sleep(Duration::from_millis(500));
            back = Instant::now();
            world.change(|manifests| manifests.endpoints(&web.service, &web.members))?;
            thread::sleep(Duration::from_millis(300));
            Ok(())
        })?;
        let to_it = || seen.iter().filter(|(_, pod)| pod == "web-2").map(|(begun, _)| *begun);
        ensure!(to_it().any(|begun| begun < left), "no connection to web-2 before: {} in all", seen.len());
        let last =
            to_it().filter(|begun| *begun > left && *begun < back).max().map_or(Duration::ZERO, |t| t - left);
        let first = to_it().find(|begun| *begun > back).context("web-2 did not come back")? - back;
        if last <= LIVE {
            println!(
                "       last new connection {last:?} after the change, first again {first:?} after its return"
            );
            return Ok(());
        }
        latest.push(last);
    }
    bail!("new connections to an endpoint that is not ready, so late after the file changed: {latest:?}")
}

fn draining(world: &mut World) -> Result<()> {
    let echo = catalog::echo();
    let target = echo.target(Frontend::LoadBalancer, "tcp", false);
    let mut clients = world
        .host("c1")
        .within(|| -> Result<Vec<EchoClient>> { (0..12).map(|_| EchoClient::connect(target)).collect() })??;
    let pod = clients[0].pod.clone();
    for state in [Member::terminating, Member::not_ready] {
        let members: Vec<Member> = echo
            .members
            .iter()
            .map(|member| if member.pod == pod { state(member.pod) } else { *member })
            .collect();
        world.change(|manifests| manifests.endpoints(&echo.service, &members))?;
        for client in &mut clients {
            client
                .exchange(5000)
                .with_context(|| format!("a connection to {} of {pod} draining", client.pod))?;
        }
    }
    let gone: Vec<Member> = echo.members.iter().filter(|member| member.pod != pod).copied().collect();
    world.change(|manifests| manifests.endpoints(&echo.service, &gone))?;
    for client in &mut clients {
        client.exchange(5000).context("a connection to a removed endpoint")?;
    }
    world.change(|manifests| manifests.endpoints(&echo.service, &echo.members))
}

fn udp_moves(world: &mut World) -> Result<()> {
    let echo = catalog::echo();
    let target = echo.target(Frontend::LoadBalancer, "udp", false);
    let asker = world.host("c1").within(|| UdpAsker::new(target))??;
    let first = asker.who()?.0;
    ensure!(asker.who()?.0 == first, "one UDP flow, two pods");
    let rest: Vec<Member> = echo.members.iter().filter(|member| member.pod != first).copied().collect();
    world.change(|manifests| manifests.endpoints(&echo.service, &rest))?;
    let moved = asker.who();
    world.change(|manifests| manifests.endpoints(&echo.service, &echo.members))?;
    let second = moved.context("after its endpoint went")?.0;
    ensure!(second != first, "{first} still gets datagrams after its endpoint went");
    Ok(())
}

fn no_endpoints(world: &mut World) -> Result<()> {
    let web = catalog::web();
    let target = web.target(Frontend::LoadBalancer, "http", false);
    world.change(|manifests| manifests.endpoints(&web.service, &[]))?;
    let client = world.host("c1");
    let refused = client.within(|| Connection::open(target, Duration::from_secs(2)).err())?;
    let error = refused.context("a Service without endpoints took a connection")?;
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    ensure!(kind == Some(std::io::ErrorKind::ConnectionRefused), "not refused but: {error:#}");
    world.lab.manifests.endpoints(&web.service, &web.members)?;
    until("it serves again", Duration::from_secs(1), || traffic::who(client, target).is_ok())
}

/// Another Service over the web pods.
fn extra(number: u8) -> Entry {
    let mut entry = catalog::web();
    entry.service.name = format!("extra-{number}");
    entry.service.cluster_ip = [10, 3, 242, number].into();
    entry.service.load_balancer_ip = Some([192, 0, 2, 120 + number].into());
    entry.service.external_ips.clear();
    entry.service.ports[0].node_port = 31000 + u16::from(number);
    entry
}

fn add_and_delete(world: &mut World) -> Result<()> {
    let target = catalog::web().target(Frontend::LoadBalancer, "http", false);
    let echo = catalog::echo().target(Frontend::ExternalIp, "tcp", false);
    let mut held = world.host("c2").within(|| EchoClient::connect(echo))??;
    let seen = connections(world, target, || {
        for number in 1..=20 {
            let entry = extra(number);
            let address = entry.target(Frontend::LoadBalancer, "http", false);
            world.lab.manifests.service(&entry.service, &entry.members)?;
            until("a new Service answers", Duration::from_secs(1), || {
                let who = || http::who(address, Duration::from_millis(200));
                world.host("c2").within(who).is_ok_and(|answer| answer.is_ok())
            })
            .with_context(|| format!("extra-{number} at {address}"))?;
            held.exchange(2000)?;
            if number % 2 == 0 {
                world.lab.manifests.delete(&entry.service)?;
            }
        }
        for number in (1..=20).filter(|number| number % 2 == 1) {
            world.lab.manifests.delete(&extra(number).service)?;
            held.exchange(2000)?;
        }
        Ok(())
    })
    .context("load on another Service")?;
    ensure!(seen.len() > 100, "only {} requests meanwhile", seen.len());
    let gone = extra(1).target(Frontend::LoadBalancer, "http", false);
    until("a deleted Service is gone", Duration::from_secs(1), || {
        let who = || http::who(gone, Duration::from_millis(200));
        world.host("c1").within(who).is_ok_and(|answer| answer.is_err())
    })
}

fn external_ip_refused(world: &mut World) -> Result<()> {
    let mut entry = extra(30);
    entry.service.external_ips = vec![[198, 51, 100, 7].into()];
    world.lab.manifests.service(&entry.service, &entry.members)?;
    let told = until("show services names the problem", Duration::from_secs(1), || {
        world.shown_service("extra-30").is_ok_and(|row| row["problems"].to_string().contains("198.51.100.7"))
    });
    let served = world.shown_service("extra-30")?["externalIPs"].to_string();
    world.lab.manifests.delete(&entry.service)?;
    told?;
    ensure!(!served.contains("198.51.100.7"), "externalIPs in force: {served}");
    Ok(())
}

fn broken_manifest(world: &mut World) -> Result<()> {
    let (web, echo) = (catalog::web(), catalog::echo());
    let target = web.target(Frontend::LoadBalancer, "http", false);
    let file = service_file(&web.service);
    let seen = connections(world, target, || {
        world.lab.manifests.write(&file, "apiVersion: v1\nkind: Service\nmetadata:\n  name: [web\n")?;
        until("show sources names the broken file", Duration::from_secs(2), || {
            let sources = world.show("sources").unwrap_or_default();
            let rows = sources.as_array().cloned().unwrap_or_default();
            rows.iter().any(|row| {
                row["name"].as_str().is_some_and(|name| name.ends_with(&file))
                    && row["state"] == "Broken"
                    && row["error"].as_str().is_some_and(|error| !error.is_empty())
            })
        })?;
        // The other files are still followed.
        let one = [Member::ready("web-3")];
        world.change(|manifests| manifests.endpoints(&echo.service, &one))?;
        let address = echo.target(Frontend::LoadBalancer, "tcp", false);
        for _ in 0..8 {
            let pod = world.host("c2").within(|| EchoClient::connect(address).map(|client| client.pod))??;
            ensure!(pod == "web-3", "{pod} answered after its endpoint went");
        }
        world.lab.manifests.endpoints(&echo.service, &echo.members)?;
        world.lab.manifests.write(&file, &web.service.yaml())?;
        until("show sources is content again", Duration::from_secs(2), || {
            world.show("sources").is_ok_and(|sources| !sources.to_string().contains("\"Broken\""))
        })
    })?;
    ensure!(seen.len() > 20, "only {} requests meanwhile", seen.len());
    Ok(())
}
