//! An appliance that starts while the API server is away serves what it last knew, but no address that another host on the
//! segment has by then.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::controlplane::Component;
use lab::plan::CLIENTS;
use lab::{http, process::until};

use crate::services::shop;
use crate::world::World;

pub(crate) const CHECKS: &[Check<World>] =
    &[("restarted without the API server, it leaves an address to the host that has it by now", held)];

/// On the clients' segment; the last one nobody else will have.
const HELD: [&str; 2] = ["192.0.2.160", "2001:db8:1::160"];
const KEPT: &str = "192.0.2.161";

fn service(name: &str, ips: &str) -> String {
    format!(
        "---
{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop, annotations: {{fairlead.dev/ips: '{ips}'}}}},
 spec: {{type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}}}
"
    )
}

/// Whose Ethernet address an address on the segment has, as `c1` finds out anew.
fn owner(world: &World, address: &str) -> Result<String> {
    // Asked again while the machine stands still.
    let script = format!(
        "ip neigh flush to {address}
for n in 1 2 3; do ping -n -c 1 -W 1 {address} >/dev/null && break || true; done
ip -o neigh show {address}"
    );
    let shown = world.host("c1").script(&script)?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
    Ok(words.nth(1).unwrap_or_default().to_owned())
}

/// A row of `fairlead show services`: its load balancer addresses and its problems.
fn row(world: &World, name: &str) -> Result<(String, String)> {
    let shown = world.shown()?;
    let mut rows = shown.as_array().into_iter().flatten();
    let row = rows.find(|row| row["name"] == name).with_context(|| format!("{name} is not shown"))?;
    Ok((row["loadBalancerIPs"].to_string(), row["problems"].to_string()))
}

fn answers(world: &World, address: &str) -> Result<()> {
    let server = SocketAddr::new(address.parse::<IpAddr>()?, 80);
    world.host("c1").within(|| http::who(server, Duration::from_secs(5)))?.map(drop)
}

fn held(world: &mut World) -> Result<()> {
    world.kubectl().apply(&(service("held", &HELD.join(",")) + &service("kept", KEPT)))?;
    world.address_of("shop", "kept")?;
    for address in [HELD[0], HELD[1], KEPT] {
        until(address, Duration::from_secs(5), || answers(world, address).is_ok())?;
    }
    let file = world.lab.dir().join("state/kubernetes");
    until("the state with both is on disk", Duration::from_secs(15), || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.matches(&format!("\"{}\"", HELD[0])).count() > 0 && text.contains(&format!("\"{KEPT}\""))
    })?;
    let gateway = owner(world, KEPT)?;
    world.lab.plane.kill(Component::ApiServer);
    world.kill_appliance();
    let other = CLIENTS[1];
    let has = |verb: &str, address: &str| {
        world.host(other.name).script(&format!("ip address {verb} {address} dev eth0 nodad")).map(drop)
    };
    has("add", "192.0.2.160/32")?;
    has("add", "2001:db8:1::160/128")?;
    let checked = without_server(world, &gateway, &other.mac());
    let back = world.lab.plane.come_back();
    checked.and(back)?;
    until("the API server has said whose it is", Duration::from_secs(30), || {
        row(world, "held").is_ok_and(|(served, _)| served.contains(HELD[0]))
    })?;
    world.host(other.name).script("ip address del 192.0.2.160/32 dev eth0")?;
    ensure!(owner(world, HELD[0])? == gateway, "{} is not announced again", HELD[0]);
    HELD.iter().try_for_each(|address| answers(world, address))?;
    world.kubectl().run(&["delete", "service", "held", "kept", "-n", "shop"])?;
    world.agrees()
}

/// The API server is away, and another host has both addresses of a Service.
fn without_server(world: &mut World, gateway: &str, other: &str) -> Result<()> {
    world.start_appliance()?;
    // Ready means: whoever was asked has had his time.
    for address in [HELD[0], HELD[1]] {
        ensure!(owner(world, address)? == *other, "{address} is {}'s, not {other}'s", owner(world, address)?);
    }
    ensure!(owner(world, KEPT)? == gateway, "{KEPT} is not announced");
    answers(world, KEPT)?;
    answers(world, &world.address(&shop())?.to_string())?;
    let (served, problems) = row(world, "held")?;
    let told = HELD.iter().all(|at| problems.contains(&format!("{at} is not served: {other} behind port")));
    ensure!(served == "[]" && told, "held has {served}, and is said to have {problems}");
    let count =
        |world: &World| -> Result<f64> { Ok(world.metrics()?.sum("fairlead_addresses_held_elsewhere")) };
    ensure!(count(world)? == 2.0, "{} addresses are counted", count(world)?);
    // The other host gives one back; nobody is there to say so, but the segment.
    world.host("c2").script(&format!("ip address del {}/128 dev eth0", HELD[1]))?;
    until("it is served when the other host is gone", Duration::from_secs(10), || {
        answers(world, HELD[1]).is_ok()
    })?;
    ensure!(owner(world, HELD[0])? == *other && count(world)? == 1.0, "the other address was taken as well");
    Ok(())
}
