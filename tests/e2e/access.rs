//! Who may use a Service, by its lists.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Frontend};
use lab::echo::EchoClient;
use lab::manifests::service_file;
use lab::process::until;
use lab::traffic;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] =
    &[("a client on a Service's deny list is kept out, others and open connections are not", lists)];

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
