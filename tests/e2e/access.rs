//! Who may use a Service, by its lists, and what those hear who are refused.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Frontend};
use lab::echo::EchoClient;
use lab::manifests::service_file;
use lab::process::until;
use lab::traffic;

use crate::Check;
use crate::kernel::ping;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("a client on a Service's deny list is kept out, others and open connections are not", lists),
    ("what refused clients and pings hear follows the configuration at a reload", answers),
    (
        "a connection that a restarted appliance has forgotten is reset, where it may not be taken up",
        forgotten,
    ),
];

fn lists(world: &mut World) -> Result<()> {
    for (echo, c1) in [(catalog::echo(), "192.0.2.11"), (catalog::echo().over_ipv6(), "2001:db8:1::11")] {
        let target = echo.target(Frontend::LoadBalancer, "tcp", false);
        let mut open = world.host("c1").within(|| EchoClient::connect(target))??;
        let service = &echo.service;
        let yaml = service.yaml().replacen(
            "  annotations:\n",
            &format!("  annotations:\n    fairlead.dev/deny: \"198.51.100.0/24, {c1}\"\n"),
            1,
        );
        ensure!(yaml.contains("fairlead.dev/deny"), "the Service has no annotations:\n{yaml}");
        world.lab.manifests.write(&service_file(service), &yaml)?;
        let listed = "reason=\"SourceListed\"";
        let drops = |world: &World| -> Result<f64> {
            Ok(world.metrics()?.sum_where("fairlead_dropped_packets_total", listed))
        };
        let before = drops(world)?;
        let kept_out = || {
            let connected = world
                .host("c1")
                .within(|| TcpStream::connect_timeout(&target, Duration::from_millis(200)).is_ok());
            connected.is_ok_and(|connected| !connected)
        };
        until("c1 is kept out", Duration::from_secs(5), kept_out)?;
        ensure!(drops(world)? > before, "{c1}: SourceListed does not count");
        world.host("c1").within(|| open.exchange(5_000))?.context("a connection that was open before")?;
        world.host("c2").within(|| EchoClient::connect(target)?.exchange(5_000))??;
        let web = if c1.contains(':') { catalog::web().over_ipv6() } else { catalog::web() };
        traffic::who(world.host("c1"), web.target(Frontend::LoadBalancer, "http", false))
            .context("another Service")?;
        world.lab.manifests.service(service, &echo.members)?;
    }
    Ok(())
}

fn answers(world: &mut World) -> Result<()> {
    for (keys, expected) in [
        ("reject: icmp, answerEcho: false, ", Some(ErrorKind::ConnectionRefused)),
        ("reject: silent, ", Some(ErrorKind::TimedOut)),
        ("reject: auto, answerEcho: true, ", Some(ErrorKind::ConnectionRefused)),
    ] {
        world.change(|_| world.forwarding(keys))?;
        for web in [catalog::web(), catalog::web().over_ipv6()] {
            // A clusterIP's unknown port, and a VIP that has endpoints.
            told(world, keys, SocketAddr::new(web.service.cluster_ip, 9), expected)?;
            let vip = web.target(Frontend::LoadBalancer, "http", false).ip();
            let answered = ping(world.host("c1"), &vip.to_string());
            ensure!(answered.is_ok() != keys.contains("answerEcho: false"), "{keys}: {vip}: {answered:?}");
        }
    }
    world.forwarding("")
}

/// A client hears this, by ICMP if that is the form.
fn told(world: &World, keys: &str, at: SocketAddr, expected: Option<ErrorKind>) -> Result<()> {
    let unreachable = |world: &World| -> Result<u64> {
        let seen = world.host("c1").script("nstat -asz IcmpInDestUnreachs Icmp6InDestUnreachs")?;
        Ok(seen.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
    };
    let before = unreachable(world)?;
    let connect = || TcpStream::connect_timeout(&at, Duration::from_secs(2)).err().map(|error| error.kind());
    let heard = world.host("c1").within(connect)?;
    ensure!(heard == expected, "{keys}: {at}: {heard:?}");
    let by_icmp = unreachable(world)? > before;
    ensure!(by_icmp == keys.contains("icmp"), "{keys}: {at}: by ICMP: {by_icmp}");
    Ok(())
}

fn forgotten(world: &mut World) -> Result<()> {
    let refused = |world: &World| -> Result<f64> {
        Ok(world.metrics()?.sum_where("fairlead_dropped_packets_total", "reason=\"MidstreamRefused\""))
    };
    for echo in [catalog::echo(), catalog::echo().over_ipv6()] {
        let target = echo.target(Frontend::LoadBalancer, "tcp", false);
        let mut open = world.host("c1").within(|| EchoClient::connect(target))??;
        world.take_appliance()?.daemon().kill();
        world.start_with(|config| config.replacen("forwarding: {", "forwarding: {midstream: refuse, ", 1))?;
        let heard = open.exchange(5_000).err().context("a forgotten connection goes on")?;
        let kind = heard.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionReset), "{target}: {heard:#}");
        ensure!(refused(world)? >= 1.0, "{target}: MidstreamRefused does not count");
        world.host("c1").within(|| EchoClient::connect(target)?.exchange(5_000))??;
        world.take_appliance()?.daemon().stop()?;
        world.start()?;
    }
    Ok(())
}
