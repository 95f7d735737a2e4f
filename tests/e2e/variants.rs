//! Labs that differ: a client with transmit checksum offload; ports without a kernel mirror.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, FRONTENDS, Frontend};
use lab::echo::{EchoClient, who_udp};
use lab::traffic;

use crate::Check;
use crate::kernel::ping;
use crate::world::World;

pub(crate) const OFFLOAD: &[Check] =
    &[("unfinished checksums of a client with transmit offload are finished", unfinished_checksums)];

pub(crate) const STATIC: &[Check] = &[
    ("without TAP, static neighbours serve every frontend", static_neighbours),
    ("without TAP, the dataplane answers ARP, ND and ping itself", own_answers),
    ("every packet is accounted for without TAP", |world| world.identity_holds()),
];

fn unfinished_checksums(world: &mut World) -> Result<()> {
    let offload = world.host("c1").script("ethtool -k eth0 | grep '^tx-checksumming'")?;
    ensure!(offload.contains(": on"), "the lab left it off: {offload}");
    let (web, echo) = (catalog::web(), catalog::echo());
    for (web, echo) in [(web.over_ipv6(), echo.over_ipv6()), (web, echo)] {
        for frontend in FRONTENDS {
            let what = || format!("{frontend:?} of {}", web.service.name);
            traffic::who(world.host("c1"), web.target(frontend, "http", false)).with_context(what)?;
            world
                .host("c1")
                .within(|| -> Result<()> {
                    EchoClient::connect(echo.target(frontend, "tcp", false))?.exchange(50_000)?;
                    who_udp(echo.target(frontend, "udp", false)).map(drop)
                })?
                .with_context(what)?;
        }
    }
    ping(world.host("c1"), "192.0.2.1")
}

fn static_neighbours(world: &mut World) -> Result<()> {
    for (web, c1) in [(catalog::web(), "192.0.2.11"), (catalog::web().over_ipv6(), "2001:db8:1::11")] {
        for (host, inside) in [("c1", false), ("n1", true), ("tool-1", true)] {
            for frontend in FRONTENDS {
                let target = web.target(frontend, "http", inside);
                let answer = traffic::who(world.host(host), target)
                    .with_context(|| format!("{frontend:?} from {host}"))?;
                // forwarding.mode is dnat here: outside clients keep their address on external frontends.
                if !inside && frontend != Frontend::ClusterIp {
                    ensure!(answer.client == c1, "{frontend:?}: the pod saw {answer:?}");
                }
            }
        }
        let target = web.target(Frontend::LoadBalancer, "http", false);
        traffic::keep_alive(world.host("c2"), target, 200)?;
    }
    Ok(())
}

fn own_answers(world: &mut World) -> Result<()> {
    let links = world.host("gw").run(&["ip", "-br", "link"], Duration::from_secs(5))?.ok()?;
    ensure!(!links.contains("outside"), "a TAP although the ports say tap: false:\n{links}");
    for (host, address) in
        [("c2", "192.0.2.1"), ("c2", "2001:db8:1::1"), ("n2", "10.0.0.1"), ("n2", "2001:db8:2::1")]
    {
        ping(world.host(host), address)?;
    }
    Ok(())
}
