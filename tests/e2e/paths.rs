//! Paths that are narrow or long: path MTU discovery through the translation, datagrams in fragments, traceroute.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::catalog::{self, Entry, Frontend};
use lab::echo::EchoClient;
use lab::netns::Namespace;
use lab::{plan, traffic};

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("8 KB datagrams in fragments, both ways, on every frontend", |world| {
        big_datagrams(world, &catalog::echo().over_ipv6())
    }),
    ("8 KB datagrams in fragments of IPv4, both ways, on every frontend", |world| {
        world.start_with_pcap(|config| config)?;
        let outcome = big_datagrams(world, &catalog::echo()).and_then(|()| in_fragments(world));
        world.restart()?;
        outcome
    }),
    ("path MTU discovery towards pods behind a narrow network", |world| {
        narrow(world, |world| discovery(world, catalog::echo(), catalog::web()))
    }),
    ("path MTU discovery over IPv6", |world| {
        narrow(world, |world| discovery(world, catalog::echo().over_ipv6(), catalog::web().over_ipv6()))
    }),
    ("without path MTU discovery, datagrams are cut on the way", |world| narrow(world, cut_on_the_way)),
    ("traceroute through a VIP", traceroute),
    ("tracepath to a pod finds the narrow link", |world| narrow(world, tracepath)),
];

/// The narrow network's MTU.
const NARROW: &str = "1400";
/// Payload of a datagram that fits the wide network and not the narrow one.
const LONG: usize = 1_430;

/// Runs a check while both nodes' pod networks take 1,400 bytes only; the pods do not know.
fn narrow(world: &mut World, check: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    let set = |world: &World, mtu: &str| -> Result<()> {
        for node in plan::NODES {
            world.host(node.name).script(&format!("ip link set cni0 mtu {mtu}"))?;
        }
        for client in plan::CLIENTS {
            world.host(client.name).script("ip route flush cache; ip -6 route flush cache")?;
        }
        Ok(())
    };
    set(world, NARROW)?;
    let outcome = check(world);
    set(world, "1500")?;
    outcome
}

/// Sends a datagram until its echo comes back whole; how often it took.
fn echoed(from: &Namespace, server: SocketAddr, len: usize) -> Result<u32> {
    from.within(|| {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(700)))?;
        let sent: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap_or_default()).collect();
        let mut answer = vec![0; len + 1];
        for times in 1..=5 {
            socket.send(&sent)?;
            if let Ok(got) = socket.recv(&mut answer) {
                ensure!(answer[..got] == sent, "the echo of {len} bytes came back changed: {got} bytes");
                return Ok(times);
            }
        }
        bail!("no echo of {len} bytes from {server}")
    })?
}

fn big_datagrams(world: &mut World, echo: &Entry) -> Result<()> {
    for (host, inside) in [("c1", false), ("n1", true), ("tool-1", true)] {
        for frontend in catalog::FRONTENDS {
            let target = echo.target(frontend, "udp", inside);
            let what = || format!("{frontend:?} {target} from {host}");
            for len in [2_000, 8_192, 20_000] {
                echoed(world.host(host), target, len).with_context(what)?;
            }
        }
    }
    Ok(())
}

/// No datagram was joined before the appliance had it: what is longer than a frame would be refused as cut off.
fn in_fragments(world: &World) -> Result<()> {
    let cut = world.metrics()?.sum_where("fairlead_dropped_packets_total", "reason=\"Truncated\"");
    ensure!(cut == 0.0, "{cut} packets were longer than a frame");
    world.identity_holds()
}

/// The MTU that a host has learned of the way to an address.
fn learned(host: &Namespace, to: IpAddr) -> Result<bool> {
    Ok(host.script(&format!("ip route get {to}"))?.contains(&format!("mtu {NARROW}")))
}

/// `echo` keeps the client's address, `web` does not.
fn discovery(world: &mut World, echo: Entry, web: Entry) -> Result<()> {
    let (c1, c2) = (world.host("c1"), world.host("c2"));
    let udp = echo.target(Frontend::LoadBalancer, "udp", false);
    let times = echoed(c1, udp, LONG)?;
    ensure!(times > 1 && learned(c1, udp.ip())?, "UDP: {times} sent, no MTU learned for {}", udp.ip());
    ensure!(echoed(c1, udp, LONG)? == 1, "UDP: once it is known, nothing is lost");

    let tcp = echo.target(Frontend::LoadBalancer, "tcp", false);
    c2.within(|| EchoClient::connect(tcp)?.exchange(300_000))?.context("TCP, dnat")?;
    ensure!(learned(c2, tcp.ip())?, "TCP, dnat: no MTU learned for {}", tcp.ip());

    let snat = web.target(Frontend::LoadBalancer, "http", false);
    let file = world.lab.dir().join("narrow.bin");
    std::fs::write(&file, vec![7; 500_000])?;
    traffic::upload(c2, snat, &file, "narrow.bin").context("TCP, snat")?;
    ensure!(learned(c2, snat.ip())?, "TCP, snat: no MTU learned for {}", snat.ip());
    Ok(())
}

fn cut_on_the_way(world: &mut World) -> Result<()> {
    let client = world.host("c1");
    client.sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
    let target = catalog::echo().target(Frontend::LoadBalancer, "udp", false);
    let times = echoed(client, target, LONG);
    client.sysctl("net/ipv4/ip_no_pmtu_disc", "0")?;
    ensure!(times? == 1, "the first datagram was lost");
    Ok(())
}

fn traceroute(world: &mut World) -> Result<()> {
    for web in [catalog::web(), catalog::web().over_ipv6()] {
        let target = web.target(Frontend::LoadBalancer, "http", false);
        let (vip, port) = (target.ip().to_string(), target.port().to_string());
        let own = if target.is_ipv4() { "192.0.2.1" } else { "2001:db8:1::1" };
        let argv = ["traceroute", "-n", "-T", "-q", "1", "-w", "2", "-m", "5", "-p", &port, &vip];
        let said = world.host("c1").run(&argv, Duration::from_secs(15))?.ok()?;
        let hops: Vec<_> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        // The appliance, the node in the name of the VIP, and the pod.
        ensure!(hops == [own, &vip, &vip], "{said}");
    }
    Ok(())
}

fn tracepath(world: &mut World) -> Result<()> {
    let pod = plan::pod("web-1");
    for pod in [IpAddr::V4(pod.address()), pod.address6().into()] {
        let argv = ["tracepath", "-n", "-m", "5", &pod.to_string()];
        let said = world.host("c1").run(&argv, Duration::from_secs(20))?.ok()?;
        ensure!(said.contains(&format!("pmtu {NARROW}")) && said.contains("reached"), "{said}");
    }
    Ok(())
}
