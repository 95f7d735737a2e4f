//! The appliance's own addresses and its place on the wire: TAP mirror, neighbours, ARP for VIPs, ping.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::catalog::{self, Frontend};
use lab::netns::Namespace;
use lab::traffic;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("ping of the appliance's own addresses", ping_own),
    ("a TCP service of the appliance's kernel is reached through the TAP", ssh_port),
    ("an externalIP that is the appliance's own does not take its ssh port", own_address_claimed),
    ("ip neigh on the appliance knows its neighbours", neighbours),
    ("tcpdump on the TAP sees the kernel's traffic", tcpdump),
    ("a VIP on the connected pool is answered by ARP with the port's MAC", arp_for_vip),
    ("a VIP of IPv6 on the connected pool is answered by ND with the port's MAC", nd_for_vip),
    ("ping of a VIP with a usable backend", ping_vip),
    ("a packet whose TTL runs out is answered from the receiving port's address", ttl),
    ("a clusterIP's unknown port is refused, an unallocated one dropped", refusals),
];

pub(crate) fn ping(from: &Namespace, address: &str) -> Result<()> {
    let outcome = from.run(&["ping", "-c", "2", "-i", "0.2", "-W", "2", address], Duration::from_secs(8))?;
    let said = outcome.ok().with_context(|| format!("ping {address} from {}", from.name()))?;
    ensure!(!said.contains("DUP"), "more than one answer to a ping:\n{said}");
    Ok(())
}

fn ping_own(world: &mut World) -> Result<()> {
    for (host, addresses) in [("c1", ["192.0.2.1", "2001:db8:1::1"]), ("n1", ["10.0.0.1", "2001:db8:2::1"])] {
        for address in addresses {
            ping(world.host(host), address)?;
        }
    }
    Ok(())
}

fn ssh_port(world: &mut World) -> Result<()> {
    let listener = world.host("gw").within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 22)))??;
    let server = thread::spawn(move || -> std::io::Result<()> {
        for _ in 0..2 {
            use std::io::Write;
            listener.accept()?.0.write_all(b"SSH-2.0-lab\r\n")?;
        }
        Ok(())
    });
    for (host, address) in [("c1", Ipv4Addr::new(192, 0, 2, 1)), ("n1", Ipv4Addr::new(10, 0, 0, 1))] {
        let banner = world.host(host).within(|| -> Result<String> {
            let mut stream = TcpStream::connect_timeout(&(address, 22).into(), traffic::ANSWER)?;
            stream.set_read_timeout(Some(traffic::ANSWER))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })?;
        let banner = banner.with_context(|| format!("port 22 of {address} from {host}"))?;
        ensure!(banner.starts_with("SSH-2.0"), "{banner:?}");
    }
    server.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    Ok(())
}

fn own_address_claimed(world: &mut World) -> Result<()> {
    let mut entry = catalog::web();
    entry.service.name = "greedy".to_owned();
    entry.service.cluster_ip = [10, 3, 242, 90].into();
    entry.service.load_balancer_ip = None;
    entry.service.external_ips = vec![[192, 0, 2, 1].into()];
    entry.service.ports[0].port = 22;
    entry.service.ports[0].node_port = 0;
    world.change(|manifests| manifests.service(&entry.service, &entry.members))?;
    let reached = ssh_port(world);
    world.lab.manifests.delete(&entry.service)?;
    reached
}

fn neighbours(world: &mut World) -> Result<()> {
    let known = world.host("gw").script("ip neigh")?;
    for (address, device, mac) in
        [("192.0.2.11", "outside", "02:00:00:00:00:0b"), ("10.0.0.12", "inside", "02:00:00:00:01:0c")]
    {
        let line = known.lines().find(|line| line.starts_with(&format!("{address} ")));
        let line = line.with_context(|| format!("no {address} in:\n{known}"))?;
        ensure!(line.contains(device) && line.contains(mac), "{line}");
    }
    Ok(())
}

fn tcpdump(world: &mut World) -> Result<()> {
    let (gateway, client) = (world.host("gw"), world.host("c2"));
    let argv = ["tcpdump", "-n", "-l", "-i", "outside", "-c", "2", "icmp"];
    let seen = thread::scope(|scope| -> Result<String> {
        let capture = scope.spawn(|| gateway.run(&argv, Duration::from_secs(15)));
        // It needs a moment to listen; pings go on until it has what it wants.
        for _ in 0..10 {
            if capture.is_finished() {
                break;
            }
            ping(client, "192.0.2.1")?;
        }
        capture.join().map_err(|_| anyhow::anyhow!("tcpdump panicked"))??.ok()
    })?;
    ensure!(seen.contains("192.0.2.12 > 192.0.2.1: ICMP echo request"), "{seen}");
    Ok(())
}

fn arp_for_vip(world: &mut World) -> Result<()> {
    let web = catalog::web_local();
    let client = world.host("c2");
    traffic::who(client, web.target(Frontend::LoadBalancer, "", false))?;
    let known = client.script("ip neigh show 192.0.2.110")?;
    ensure!(known.contains("02:00:00:00:01:01"), "192.0.2.110 resolved to: {known}");
    Ok(())
}

fn nd_for_vip(world: &mut World) -> Result<()> {
    let web = catalog::web_local().over_ipv6();
    let client = world.host("c2");
    traffic::who(client, web.target(Frontend::LoadBalancer, "", false))?;
    let known = client.script("ip -6 neigh show 2001:db8:1::110")?;
    ensure!(known.contains("02:00:00:00:01:01"), "2001:db8:1::110 resolved to: {known}");
    Ok(())
}

fn ping_vip(world: &mut World) -> Result<()> {
    for vip in ["192.0.2.110", "203.0.113.10", "2001:db8:1::110", "2001:db8:f::10"] {
        ping(world.host("c1"), vip)?;
    }
    Ok(())
}

fn ttl(world: &mut World) -> Result<()> {
    for (pod, own) in [("10.244.1.11", "192.0.2.1"), ("fd00:244:1::11", "2001:db8:1::1")] {
        let argv = ["ping", "-n", "-c", "1", "-t", "1", "-W", "2", pod];
        let outcome = world.host("c1").run(&argv, Duration::from_secs(5))?;
        ensure!(outcome.stdout.contains(&format!("From {own} ")), "{}", outcome.stdout);
    }
    Ok(())
}

/// A refused connection must be told at once.
const AT_ONCE: Duration = Duration::from_millis(100);

fn refusals(world: &mut World) -> Result<()> {
    world.host("c1").within(|| {
        for open in [catalog::web(), catalog::web().over_ipv6()].map(|web| web.service.cluster_ip) {
            let begun = Instant::now();
            let refused = TcpStream::connect_timeout(&(open, 9).into(), Duration::from_secs(2));
            let Err(error) = refused else { bail!("port 9 of {open} took a connection") };
            ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "port 9 of {open}: {error}");
            ensure!(begun.elapsed() < AT_ONCE, "port 9 of {open} was refused after {:?}", begun.elapsed());
        }
        for nobody in ["10.3.250.1", "fd00:3::9999"] {
            let nobody = SocketAddr::new(nobody.parse()?, 80);
            let dropped = TcpStream::connect_timeout(&nobody, Duration::from_millis(700));
            let Err(error) = dropped else { bail!("{nobody}, an unallocated clusterIP, took a connection") };
            ensure!(error.kind() == std::io::ErrorKind::TimedOut, "{nobody}, unallocated: {error}");
        }
        Ok(())
    })?
}
