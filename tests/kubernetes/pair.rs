//! Two appliances on one cluster: one decides about addresses, the other follows; whoever fails, no address changes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::appliance::Appliance;
use lab::checks::Check;
use lab::http;
use lab::load;
use lab::plan::PLACES;
use lab::process::until;

use crate::objects::Web;
use crate::services::shop;
use crate::world::{World, shown_by};

pub(crate) const CHECKS: &[Check<World>] =
    &[("two appliances give one answer, and the other goes on when one is killed", killed)];

pub(crate) const LONG: &[Check<World>] =
    &[("an appliance that is cut off from the API server serves on, and the other decides", cut_off)];

/// A Lease of 15 s runs out, is taken, and what waited is decided.
const TAKEN_OVER: Duration = Duration::from_secs(25);

/// A Lease that nobody holds is seen within 2 s.
const GIVEN_BACK: Duration = Duration::from_secs(5);

/// Whether an appliance decides, by its metrics.
fn leads(world: &World, appliance: &Appliance, place: &str) -> Result<bool> {
    Ok(appliance.metrics(world.host(place))?.sum("fairlead_kubernetes_leader") > 0.0)
}

/// The addresses in the Services' status, by name.
fn statuses(world: &World) -> Result<Vec<(String, String)>> {
    let list = world.kubectl().json(&["get", "services", "-A"])?;
    let services = list["items"].as_array().into_iter().flatten();
    let told = services.filter(|service| !service["status"]["loadBalancer"]["ingress"].is_null());
    let row = |service: &serde_json::Value| {
        let (meta, ingress) = (&service["metadata"], &service["status"]["loadBalancer"]["ingress"]);
        (format!("{}/{}", meta["namespace"], meta["name"]), ingress.to_string())
    };
    Ok(told.map(row).collect())
}

/// The problems that an appliance shows of a Service.
fn problems(appliance: &Appliance, name: &str) -> Result<String> {
    let shown = shown_by(appliance)?;
    let rows = shown.as_array().into_iter().flatten().filter(|row| row["name"] == name);
    let problems = rows.flat_map(|row| row["problems"].as_array().into_iter().flatten());
    Ok(problems.filter_map(|problem| problem.as_str()).collect::<Vec<_>>().join("; "))
}

fn service(name: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}},
 spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}}}"
    )
}

/// `c2` asks this address by way of the second appliance; `c1` asks everything by way of the first.
fn route_to_second(world: &World, address: IpAddr) -> Result<()> {
    let by = PLACES[1].outside().0;
    world.host("c2").script(&format!("ip route replace {address}/32 via {by}")).map(drop)
}

/// Starts the second appliance; it must follow, and answer as the first does.
fn second(world: &mut World) -> Result<(Appliance, SocketAddr)> {
    let options = world.options()?.clone();
    let second = world.lab.second_appliance(&options)?;
    let address = world.address(&shop())?;
    ensure!(world.address_by(&second, "shop", "web")? == address, "another address for shop/web");
    world.agrees()?;
    world.agrees_with(&second)?;
    ensure!(!leads(world, &second, "gw2")?, "both decide");
    route_to_second(world, address)?;
    let server = SocketAddr::new(address, 80);
    for client in ["c1", "c2"] {
        world.host(client).within(|| http::who(server, Duration::from_secs(5)))??;
    }
    Ok((second, server))
}

fn killed(world: &mut World) -> Result<()> {
    let (second, server) = second(world)?;
    world.kubectl().apply(&service("lacking", "fairlead.dev/pool: nowhere"))?;
    let because = |text: &str| {
        until(text, Duration::from_secs(5), || {
            problems(&second, "lacking").is_ok_and(|problems| problems.contains(text))
        })
    };
    because("whoever holds the Lease decides")?;
    let (before, kubeconfig) = (statuses(world)?, world.options()?.kubeconfig.clone());
    let client = world.lab.share("c2");
    let ((), tally) = load::while_asked(&client, server, || {
        world.kill_appliance();
        until("the second one decides", TAKEN_OVER, || leads(world, &second, "gw2").unwrap_or(false))?;
        world.kubectl().apply(&service("later", ""))?;
        world.address_by(&second, "shop", "later")?;
        world.agrees_with(&second)
    })?;
    tally.flawless(100)?;
    because("there is no pool nowhere")?;
    let kept = |now: &[(String, String)]| before.iter().all(|row| now.contains(row));
    ensure!(kept(&statuses(world)?), "before {before:?}, after {:?}", statuses(world)?);
    world.restart_appliance(&kubeconfig.context("the appliance has a kubeconfig")?)?;
    let later = world.address_of("shop", "later")?;
    ensure!(later == world.address_by(&second, "shop", "later")?, "two answers for shop/later");
    ensure!(leads(world, &second, "gw2")?, "whoever comes back takes the Lease away");
    world.agrees()?;
    ensure!(kept(&statuses(world)?), "before {before:?}, after {:?}", statuses(world)?);
    world.kubectl().run(&["delete", "service", "later", "lacking", "-n", "shop"])?;
    world.agrees_with(&second)?;
    // One that is ended in order gives the Lease back: nobody waits until it runs out.
    drop(second);
    until("the first one decides again", GIVEN_BACK, || {
        world.metrics().is_ok_and(|now| now.sum("fairlead_kubernetes_leader") > 0.0)
    })?;
    world.agrees()
}

fn cut_off(world: &mut World) -> Result<()> {
    let (second, server) = second(world)?;
    let before = statuses(world)?;
    // The first one leads, or will: it is the one that loses the API server.
    let ours = || world.metrics().is_ok_and(|now| now.sum("fairlead_kubernetes_leader") > 0.0);
    until("the first one decides", TAKEN_OVER, ours)?;
    let route = format!("blackhole {}/32", PLACES[0].inside().0);
    let plane = world.host("cp");
    plane.script(&format!("ip route add {route}"))?;
    let client = world.lab.share("c1");
    let ((), tally) = load::while_asked(&client, server, || {
        until("the second one decides", TAKEN_OVER, || leads(world, &second, "gw2").unwrap_or(false))?;
        ensure!(!ours(), "both decide");
        world.kubectl().apply(&service("later", ""))?;
        world.address_by(&second, "shop", "later").map(drop)
    })?;
    plane.script(&format!("ip route del {route}"))?;
    tally.flawless(100)?;
    let later = Web { name: "later", ..shop() };
    ensure!(world.address(&later)? == world.address_by(&second, "shop", "later")?, "two answers");
    ensure!(
        before.iter().all(|row| statuses(world).is_ok_and(|now| now.contains(row))),
        "an address changed"
    );
    world.agrees()?;
    world.agrees_with(&second)?;
    world.kubectl().run(&["delete", "service", "later", "-n", "shop"]).map(drop)
}
