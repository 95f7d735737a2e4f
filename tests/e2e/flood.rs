//! Floods beside real clients, who notice nothing: SYNs from everywhere that nobody goes on with, and fragments whose
//! datagrams never become whole, more than the flow table and the fragments' memory hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lab::catalog::{self, Entry, Frontend};
use lab::echo::EchoClient;
use lab::http;
use lab::plan;
use packet::testkit::PacketBuilder;
use packet::{AnyKey, Protocol, TcpFlags};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] =
    &[("real clients notice nothing of a flood of SYNs and one of fragments", floods)];

/// Flows that the appliance holds here: a small part of the SYNs.
const FLOWS: u32 = 4_096;
/// Packets of each flood. Both take about three seconds, by their pace: it leaves a core of two to everybody else.
const SYNS: u32 = 20_000;
const FRAGMENTS: u32 = 10_000;
/// Packets sent at once, and the pause after them.
const AT_ONCE: u32 = 20;
const PACE: Duration = Duration::from_millis(2);
/// Connections that were there before.
const OPEN: usize = 32;
/// A client gives up after this: what the driver misses, TCP sends again.
const PATIENCE: Duration = Duration::from_secs(20);

fn floods(world: &mut World) -> Result<()> {
    world.start_with_pcap(|config| {
        config.replace("flowsPerWorker: 262144", &format!("flowsPerWorker: {FLOWS}"))
    })?;
    // In snat mode: an open connection whose flow is lost is reset by its server.
    let echo = translated(catalog::echo());
    world.lab.manifests.service(&echo.service, &echo.members)?;
    let outcome = beside(world, &echo);
    let echo = catalog::echo();
    world.lab.manifests.service(&echo.service, &echo.members)?;
    world.restart()?;
    outcome
}

fn translated(mut echo: Entry) -> Entry {
    echo.service.mode = Some("snat");
    echo
}

fn beside(world: &World, echo: &Entry) -> Result<()> {
    let (tcp, web) = (echo.target(Frontend::LoadBalancer, "tcp", false), catalog::web());
    let c1 = world.host("c1");
    let mut open =
        c1.within(|| -> Result<Vec<_>> { (0..OPEN).map(|_| EchoClient::connect(tcp)).collect() })??;
    let exchange = |open: &mut [EchoClient]| -> Result<()> {
        c1.within(|| open.iter_mut().try_for_each(|client| client.exchange(2_000)))?
    };
    exchange(&mut open).context("before the flood")?;
    let before = world.metrics()?;
    let over = AtomicBool::new(false);
    let asked = thread::scope(|scope| -> Result<u32> {
        let clients = scope.spawn(|| c1.within(|| ask(&web, &over)));
        let sent = world.host("c2").within(|| flood(tcp)).and_then(|sent| sent);
        over.store(true, Ordering::Relaxed);
        let asked = clients.join().map_err(|_| anyhow!("a client panicked"))??;
        sent?;
        asked
    })?;
    exchange(&mut open).context("a connection that was open before the flood")?;
    let after = world.metrics()?;
    let rose = |name: &str| after.sum(name) - before.sum(name);
    let recycled = rose("fairlead_flows_recycled_total");
    let drops = after.drops_since(&before);
    let refused: f64 =
        drops.iter().filter(|(labels, _)| labels.contains("Fragment")).map(|(_, count)| count).sum();
    println!("       {asked} requests beside it; {recycled} half-open flows recycled, drops {drops:?}");
    ensure!(asked > 0, "nobody asked meanwhile");
    ensure!(recycled > f64::from(FLOWS), "hardly any of the flood was seen: {recycled} flows were recycled");
    ensure!(refused > 0.0, "no fragment of the flood was seen: {drops:?}");
    ensure!(rose("fairlead_flows_refused_total") == 0.0, "a new flow found no room");
    world.identity_holds()
}

/// Requests of a client, one after the other; how many.
fn ask(web: &Entry, over: &AtomicBool) -> Result<u32> {
    let targets = [web.clone(), web.over_ipv6()].map(|web| web.target(Frontend::LoadBalancer, "http", false));
    let mut asked = 0;
    while !over.load(Ordering::Relaxed) {
        for target in targets {
            http::who(target, PATIENCE).with_context(|| format!("request {asked} during the flood"))?;
            asked += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(asked)
}

/// Sends both floods, at an even pace.
fn flood(tcp: SocketAddr) -> Result<()> {
    let raw = |family| socket(family, SocketType::RAW, Some(ipproto::RAW)).context("no raw socket");
    let (v4, v6) = (raw(AddressFamily::INET)?, raw(AddressFamily::INET6)?);
    let udp = |echo: Entry| echo.target(Frontend::LoadBalancer, "udp", false);
    let (udp, parts_to) = (udp(catalog::echo()), udp(catalog::echo().over_ipv6()));
    let IpAddr::V6(udp6) = parts_to.ip() else { return Err(anyhow!("{parts_to} is not of IPv6")) };
    let IpAddr::V4(tcp4) = tcp.ip() else { return Err(anyhow!("{tcp} is not of IPv4")) };
    for n in 0..SYNS {
        let packet = syn(n, tcp)?;
        pace(n, sendto(&v4, &packet, SendFlags::empty(), &SocketAddrV4::new(tcp4, 0)))?;
    }
    for n in 0..FRAGMENTS {
        // Two of each family in turn: the first part of a datagram, and a later one of another.
        if n / 2 % 2 == 0 {
            let packet = fragment(n, parts_to)?;
            pace(n, sendto(&v6, &packet, SendFlags::empty(), &SocketAddrV6::new(udp6, 0, 0, 0)))?;
        } else {
            let packet = fragment(n, udp)?;
            pace(n, sendto(&v4, &packet, SendFlags::empty(), &SocketAddrV4::new(tcp4, 0)))?;
        }
    }
    Ok(())
}

/// What the kernel has no room for is not sent: it is a flood.
fn pace(n: u32, sent: rustix::io::Result<usize>) -> Result<()> {
    match sent {
        Err(error) if error != rustix::io::Errno::NOBUFS => return Err(error.into()),
        _ => {}
    }
    if n % AT_ONCE == AT_ONCE - 1 {
        thread::sleep(PACE);
    }
    Ok(())
}

/// From an address that nobody has (RFC 2544), another one each time.
fn syn(n: u32, to: SocketAddr) -> Result<Vec<u8>> {
    let from = SocketAddr::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n).into(), 1_024);
    let key = AnyKey::new(from, to, Protocol::Tcp).context("one family")?;
    Ok(PacketBuilder::flow(key).flags(TcpFlags::SYN).numbers(n, 0).build().split_off(14))
}

/// The first part of a datagram, or a later one, in turn: always of another datagram, from an address that nobody has.
fn fragment(n: u32, to: SocketAddr) -> Result<Vec<u8>> {
    let bits = u128::from(plan::CLIENTS[1].address6()) & !0xffff_ffff | 1 << 31 | u128::from(n);
    let from = match to {
        SocketAddr::V6(_) => Ipv6Addr::from(bits).into(),
        SocketAddr::V4(_) => Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 0)) + n).into(),
    };
    let from = SocketAddr::new(from, 1_024);
    let key = AnyKey::new(from, to, Protocol::Udp).context("one family")?;
    let is_first = n.is_multiple_of(2);
    let offset = if is_first { 0 } else { 1_024 };
    let packet = PacketBuilder::flow(key).payload(&[7; 1_016]).fragment(n, offset, is_first);
    Ok(packet.build().split_off(14))
}
