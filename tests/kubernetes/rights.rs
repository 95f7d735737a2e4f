//! The rights that are shipped are those that the appliance uses. The last check of its group: it judges all that the
//! others had it ask, and makes up for none of them when it runs alone.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::checks::Check;
use lab::process::until;

use crate::world::World;

pub(crate) const CHECKS: &[Check<World>] =
    &[("the appliance needs exactly the rights that are shipped", exact)];

/// Longest wait for the appliance's writes.
const WRITTEN: Duration = Duration::from_secs(10);

/// A pool and a Service come and go: everything that is ever written is written once.
const OBJECTS: &str = "apiVersion: fairlead.dev/v1alpha1
kind: AddressPool
metadata: {name: rights}
spec: {cidrs: [203.0.113.64/28], autoAssign: false}
---
apiVersion: v1
kind: Service
metadata: {name: rights, annotations: {fairlead.dev/pool: rights}}
spec: {type: LoadBalancer, ports: [{port: 80}]}
";

fn exact(world: &mut World) -> Result<()> {
    world.kubectl().apply(OBJECTS)?;
    until("the pool's status counts the Service", WRITTEN, || {
        let pool = world.kubectl().json(&["get", "addresspool", "rights"]);
        pool.is_ok_and(|pool| pool["status"]["ipv4"]["inUse"] == 1)
    })?;
    world.kubectl().run(&["delete", "service", "rights", "--timeout=20s"])?;
    world.kubectl().run(&["delete", "addresspool", "rights"])?;
    let mut differ = Vec::new();
    until("what is used is what is shipped", WRITTEN, || {
        differ = world.lab.rights_differ().unwrap_or_else(|error| vec![format!("{error:#}")]);
        differ.is_empty()
    })
    .with_context(|| differ.join("\n       "))
}
