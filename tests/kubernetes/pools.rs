//! AddressPools as objects of the cluster: one that overlaps another is refused and says so, one that gets smaller leaves
//! the Services that have its addresses alone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::http;
use lab::process::until;
use serde_json::Value;

use crate::refusals::{problems, warnings};
use crate::services::under_load;
use crate::world::World;

pub(crate) const CHECKS: &[Check<World>] = &[(
    "a pool that overlaps another is refused, one that gets smaller keeps its Services, and both are told",
    pools,
)];

/// Longest wait for what the appliance writes.
const WRITTEN: Duration = Duration::from_secs(10);
/// For an answer that must come: a SYN may be lost, and the machine may stand still.
const PATIENT: Duration = Duration::from_secs(5);

fn pool(name: &str, cidr: &str) -> String {
    format!(
        "{{apiVersion: fairlead.dev/v1alpha1, kind: AddressPool, metadata: {{name: {name}}},
 spec: {{cidrs: [{cidr}], autoAssign: false}}}}\n---\n"
    )
}

/// A Service of the shop's pods that wants an address of a pool.
fn service(name: &str, pool: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop, annotations: {{fairlead.dev/pool: {pool}}}}},
 spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}}}\n---\n"
    )
}

/// Waits until the status of a pool is so.
fn pool_is(world: &World, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    let mut status = Value::Null;
    until(&format!("pool {name} {what}"), WRITTEN, || {
        let object = world.kubectl().json(&["get", "addresspool", name]);
        status = object.map(|object| object["status"].clone()).unwrap_or_default();
        is(&status)
    })
    .with_context(|| format!("its status is {status}"))
}

/// Waits until an object has a warning with these words, and the Service, if it is one, a problem.
fn told(world: &World, space: &str, name: &str, reason: &str, words: &str) -> Result<()> {
    let mut said = Vec::new();
    until(&format!("{name} is warned of"), WRITTEN, || {
        said = warnings(world, space, name).unwrap_or_default();
        said.iter().any(|(one, note)| one == reason && note.contains(words))
    })
    .with_context(|| format!("{said:?}"))
}

fn answers(world: &World, name: &str) -> Result<SocketAddr> {
    let server = SocketAddr::new(world.address_of("shop", name)?, 80);
    world.host("c2").within(|| http::who(server, PATIENT))?.with_context(|| format!("{name} at {server}"))?;
    Ok(server)
}

fn pools(world: &mut World) -> Result<()> {
    under_load(world, |world| {
        world.kubectl().apply(&(pool("site", "198.51.100.0/30") + &service("early", "site")))?;
        let early = answers(world, "early")?;
        pool_is(world, "site", "counts the Service", |status| status["ipv4"]["inUse"] == 1)?;
        overlaps(world)?;

        // Other addresses than the one that is in use.
        world.kubectl().apply(&pool("site", "198.51.100.8/30"))?;
        told(world, "shop", "early", "LoadBalancerFailed", "is in no pool any more")?;
        let said = problems(world, "shop")?;
        ensure!(said.get("early").is_some_and(|said| said.contains("is in no pool any more")), "{said:?}");
        ensure!(answers(world, "early")? == early, "early has another address");
        world.kubectl().apply(&service("late", "site"))?;
        ensure!(
            answers(world, "late")?.to_string().starts_with("198.51.100."),
            "late has an address of another pool"
        );
        world.agrees()?;
        world.kubectl().run(&["delete", "service", "early", "late", "-n", "shop", "--timeout=20s"])?;
        pool_is(world, "site", "has all of its addresses back", |status| status["ipv4"]["inUse"] == 0)?;
        world.kubectl().run(&["delete", "addresspool", "site"]).map(drop)
    })
    .map(drop)
}

/// A second pool with addresses of the first.
fn overlaps(world: &World) -> Result<()> {
    world.kubectl().apply(&(pool("twice", "198.51.100.0/28") + &service("none", "twice")))?;
    pool_is(world, "twice", "is refused", |status| {
        let condition = &status["conditions"][0];
        condition["type"] == "Ready"
            && condition["status"] == "False"
            && condition["message"].as_str().is_some_and(|said| said.contains("of pool site; take it out"))
    })?;
    told(world, "default", "twice", "PoolRefused", "of pool site; take it out of one of them")?;
    told(world, "shop", "none", "AllocationFailed", "twice")?;
    let shown = world.show("pools")?;
    let mut rows = shown.as_array().into_iter().flatten();
    let refused = rows
        .any(|row| row["name"] == "twice" && row["problem"].as_str().is_some_and(|said| !said.is_empty()));
    ensure!(refused, "show pools says: {shown}");
    let table = world.kubectl().run(&["get", "addresspools"])?;
    for (name, ready) in [("site", "True"), ("twice", "False")] {
        let row = table.lines().find(|line| line.starts_with(name)).context("a row")?;
        ensure!(row.split_whitespace().any(|word| word == ready), "{name} is not {ready}:\n{table}");
    }
    world.kubectl().run(&["delete", "service", "none", "-n", "shop", "--timeout=20s"])?;
    world.kubectl().run(&["delete", "addresspool", "twice"]).map(drop)
}
