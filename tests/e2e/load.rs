//! A thousand table swaps while traffic flows: nothing is lost or reordered inside the appliance.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Frontend};
use lab::echo::{EchoClient, UdpReport, udp_stream};
use lab::http;
use lab::manifests::Member;
use lab::traffic;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("1,000 table swaps during transfers lose and reorder nothing inside the appliance", swaps),
    ("a soak: new connections and changes without an error, memory stays", soak),
];

/// Table versions that must go by.
const SWAPS: f64 = 1000.0;
/// Longest that they may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Frames that the kernel handed to the appliance's devices, and those that the appliance says it received. The
/// difference was missed between device and driver.
fn missed(world: &World) -> Result<f64> {
    let mut offered = 0.0;
    for device in ["gw-out", "gw-in"] {
        let text = world.host("gw").script(&format!("cat /sys/class/net/{device}/statistics/rx_packets"))?;
        offered += text.trim().parse::<f64>()?;
    }
    Ok(offered - world.metrics()?.sum("fairlead_rx_packets_total"))
}

/// The numbered datagrams, the held connection, and one request at the end.
const FLOWS: f64 = 3.0;

fn swaps(world: &mut World) -> Result<()> {
    let (web, echo) = (catalog::web(), catalog::echo());
    let target = echo.target(Frontend::LoadBalancer, "udp", false);
    world.identity_holds()?;
    let (before, missed_before) = (world.metrics()?, missed(world)?);
    let over = AtomicBool::new(false);
    let (report, echoed) = thread::scope(|scope| -> Result<(UdpReport, u64)> {
        let numbered = scope
            .spawn(|| world.host("c1").within(|| udp_stream(target, 2000, || !over.load(Ordering::Relaxed))));
        let held = scope.spawn(|| {
            world.host("c2").within(|| -> Result<u64> {
                let mut client = EchoClient::connect(echo.target(Frontend::LoadBalancer, "tcp", false))?;
                let mut echoed = 0;
                while !over.load(Ordering::Relaxed) {
                    client.exchange(32 * 1024)?;
                    echoed += 32 * 1024;
                }
                Ok(echoed)
            })
        });
        let swapped = swap(world, &web, before.generation());
        over.store(true, Ordering::Relaxed);
        let report = numbered.join().map_err(|_| anyhow::anyhow!("the UDP client panicked"))???;
        let echoed = held.join().map_err(|_| anyhow::anyhow!("the TCP client panicked"))???;
        swapped?;
        Ok((report, echoed))
    })?;
    world.identity_holds()?;
    let (after, missed) = (world.metrics()?, missed(world)? - missed_before);
    let drops = after.drops_since(&before);
    println!(
        "       {report:?}, {echoed} bytes echoed by TCP, {missed} frames missed by the driver, drops {drops:?}"
    );
    ensure!(report.sent > 1000 && echoed > 0, "hardly any traffic");
    ensure!((report.reordered, report.duplicated) == (0, 0), "{report:?}");
    let lost = report.sent - report.received;
    ensure!(
        u32::try_from(lost).map(f64::from)? <= missed.max(0.0),
        "{lost} datagrams lost, the driver missed {missed}"
    );
    // Frames for others, and the last words of connections that were open when an earlier check stopped the appliance.
    let strays = ["NotForUs", "Multicast", "TcpWithoutFlow", "ReplyWithoutFlow", "SnatPortUnowned"];
    let ours = drops.iter().filter(|(labels, _)| !strays.iter().any(|stray| labels.contains(stray)));
    ensure!(ours.clone().count() == 0, "drops inside the appliance: {:?}", ours.collect::<Vec<_>>());
    // Flows of ours that were lost would have begun anew. Such last words may begin one, too.
    let created = "fairlead_flows_created_total";
    let begun = after.sum(created) - before.sum(created);
    ensure!((FLOWS..FLOWS * 2.0).contains(&begun), "{begun} flows began, where there were three connections");
    Ok(())
}

/// Rewrites the endpoints of another Service until a thousand table versions have been taken.
fn swap(world: &World, web: &catalog::Entry, from: f64) -> Result<()> {
    // Seven different sets in turn: whichever writes become one look at the directory, the next look finds a change.
    let state = |turn: usize, place: usize| (turn % 7 + 1) >> place & 1 == 1;
    let start = Instant::now();
    let mut taken = 0.0;
    for turn in 0_usize.. {
        let pods = web.members.iter().enumerate();
        let members: Vec<Member> = pods
            .map(|(place, member)| if state(turn, place) { *member } else { Member::not_ready(member.pod) })
            .collect();
        world.lab.manifests.endpoints(&web.service, &members)?;
        thread::sleep(Duration::from_millis(4));
        if turn % 100 == 99 {
            taken = world.metrics()?.generation() - from;
        }
        if taken >= SWAPS {
            break;
        }
        ensure!(start.elapsed() < LIMIT, "{taken} table versions within {LIMIT:?}, {turn} files written");
    }
    world.lab.manifests.endpoints(&web.service, &web.members)?;
    let target = web.target(Frontend::LoadBalancer, "http", false);
    traffic::who(world.host("c1"), target).context("the swapped Service itself").map(drop)
}

/// New connections from both clients while endpoints and Services come and go; `LAB_SOAK_SECONDS` says how long.
fn soak(world: &mut World) -> Result<()> {
    let seconds = std::env::var("LAB_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let (web, end) = (catalog::web(), Instant::now() + Duration::from_secs(seconds));
    let target = web.target(Frontend::ExternalIp, "http", false);
    let load = || -> Result<u64> {
        let mut requests = 0;
        while Instant::now() < end {
            http::who(target, traffic::ANSWER).with_context(|| format!("request {requests}"))?;
            requests += 1;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(requests)
    };
    let before = world.memory_kib()?;
    let requests = thread::scope(|scope| -> Result<u64> {
        let load = &load;
        let clients = [world.host("c1"), world.host("c2")].map(|from| scope.spawn(move || from.within(load)));
        for turn in 0_usize.. {
            if Instant::now() >= end {
                break;
            }
            let mut members = web.members.clone();
            members.remove(turn % members.len());
            world.lab.manifests.endpoints(&web.service, &members)?;
            thread::sleep(Duration::from_millis(50));
        }
        world.lab.manifests.endpoints(&web.service, &web.members)?;
        let mut requests = 0;
        for client in clients {
            requests += client.join().map_err(|_| anyhow::anyhow!("a client panicked"))???;
        }
        Ok(requests)
    })?;
    let after = world.memory_kib()?;
    println!("       {requests} requests in {seconds} s; resident memory {before} KiB, then {after} KiB");
    ensure!(after < before + before / 5 + 16 * 1024, "resident memory grew from {before} to {after} KiB");
    world.identity_holds()
}
