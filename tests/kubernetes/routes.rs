//! Routes to pods: they are those of the cluster's Nodes, and follow them.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::checks::Check;
use lab::process::until;
use serde_json::Value;

use crate::services::under_load;
use crate::world::World;

pub(crate) const CHECKS: &[Check<World>] =
    &[("a Node that comes, moves and goes has its pods' network routed to it", node)];

/// Longest wait for the appliance to follow.
const FOLLOWS: Duration = Duration::from_secs(5);
const NAME: &str = "stranger";
/// Of the cluster's pod networks, as the controllers would have given it one; the lab's nodes have the first ones.
const NETWORKS: [&str; 2] = ["10.244.77.0/24", "fd00:244:0:77::/64"];

fn set_addresses(world: &World, addresses: [&str; 2]) -> Result<()> {
    let list =
        addresses.map(|address| format!("{{\"type\":\"InternalIP\",\"address\":\"{address}\"}}")).join(",");
    let patch = format!("{{\"status\":{{\"addresses\":[{list}]}}}}");
    world
        .kubectl()
        .run(&["patch", "node", NAME, "--subresource=status", "--type=merge", "-p", &patch])
        .map(drop)
}

/// Waits until each of its networks has this next hop and is in force; none: it has no route.
fn routed(world: &World, hops: Option<[&str; 2]>) -> Result<()> {
    let mut shown = Value::Null;
    until(&format!("routes by {hops:?}"), FOLLOWS, || {
        shown = world.show("routes").unwrap_or_default();
        let rows: Vec<&Value> = shown.as_array().into_iter().flatten().collect();
        let has = |network: &str, hop: &str| {
            rows.iter().any(|row| {
                row["to"] == network && row["via"] == hop && row["origin"] == "node" && row["inForce"] == true
            })
        };
        match hops {
            Some(hops) => NETWORKS.iter().zip(hops).all(|(network, hop)| has(network, hop)),
            None => {
                !shown.is_null()
                    && !rows.iter().any(|row| NETWORKS.iter().any(|network| row["to"] == *network))
            }
        }
    })
    .with_context(|| format!("{shown}"))
}

fn node(world: &mut World) -> Result<()> {
    let object = format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {NAME}}},
 spec: {{podCIDR: '{}', podCIDRs: ['{}', '{}'], unschedulable: true}}}}",
        NETWORKS[0], NETWORKS[0], NETWORKS[1]
    );
    under_load(world, |world| {
        world.kubectl().apply(&object)?;
        for addresses in [["10.0.0.77", "2001:db8:2::77"], ["10.0.0.78", "2001:db8:2::78"]] {
            set_addresses(world, addresses)?;
            routed(world, Some(addresses))?;
        }
        world.kubectl().run(&["delete", "node", NAME])?;
        routed(world, None)
    })
    .map(drop)
}
