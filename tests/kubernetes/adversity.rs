//! What makes following a cluster hard, under load: a Service of a thousand endpoints that changes, an API server that is
//! slow, one that has forgotten what happened, one whose clock is another's. No request fails, and `fairlead show` says what
//! `kubectl get` says.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::controlplane::Component;
use lab::load;
use lab::plan::NODES;
use lab::process;
use lab::relay::Relay;

use crate::services::{shop, under_load};
use crate::world::World;

pub(crate) const CHECKS: &[Check<World>] = &[
    ("a Service of a thousand endpoints in eleven slices changes", thousand),
    ("the API server answers slowly", slow),
    ("etcd is compacted while the watch is cut", compacted),
];

pub(crate) const LONG: &[Check<World>] = &[
    ("the appliance's clock is an hour ahead of the API server's", ahead),
    ("the appliance's clock is an hour behind the API server's", behind),
];

/// Endpoints of a slice, as the controller writes them.
const PER_SLICE: u32 = 100;
const SLICES: u32 = 11;

/// Addresses of [`thousand`]: all of them are one pod's.
const NETWORK: &str = "10.250.0.0/20";

/// An endpoint's address; a slice has its own /24, where `turn` says which part.
fn endpoint(slice: u32, number: u32, turn: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0afa_0000 + slice * 256 + turn * PER_SLICE + number)
}

fn slice(number: u32, turn: u32, count: u32) -> String {
    let mut text = format!(
        "---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {{name: many-{number}, namespace: shop, labels: {{kubernetes.io/service-name: many}}}},
 ports: [{{name: '', port: 8080, protocol: TCP}}], endpoints: ["
    );
    for at in 0..count {
        let _ = write!(text, "{{addresses: [{}]}},", endpoint(number, at, turn));
    }
    text + "]}\n"
}

/// Has one pod of the shop answer at every address of [`NETWORK`], and everybody on the way know that.
fn pod_of_many(world: &World) -> Result<()> {
    let pods = world.ready_pods(&shop())?;
    let node = NODES[0];
    let name = world.kubectl().run(&[
        "get",
        "pods",
        "-n",
        "shop",
        "-l",
        "app=web",
        "--field-selector",
        "spec.nodeName=n1",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])?;
    let ip = pods.get(name.trim()).and_then(|ips| ips.first()).context("no pod is ready on n1")?;
    let pod = world.lab.pod_namespace(node.name, "shop", name.trim());
    pod.script(&format!("ip route replace local {NETWORK} dev lo"))?;
    world.host(node.name).script(&format!("ip route replace {NETWORK} via {ip}"))?;
    world.host("gw").script(&format!("ip route replace {NETWORK} via {}", node.address())).map(drop)
}

fn thousand(world: &mut World) -> Result<()> {
    pod_of_many(world)?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: many, namespace: shop},
 spec: {type: LoadBalancer, ports: [{port: 80, targetPort: 8080}]}}\n";
    let slices: String = (0..SLICES).map(|number| slice(number, 0, PER_SLICE)).collect();
    world.kubectl().apply(&format!("{service}{slices}"))?;
    let server = SocketAddr::new(world.address_of("shop", "many")?, 80);
    world.agrees()?;
    let client = world.lab.share("c1");
    let ((), tally) = load::while_asked(&client, server, || {
        // Slices move on, shrink, grow again and go, one by one.
        for number in 0..SLICES {
            world.kubectl().apply(&slice(
                number,
                1,
                if number % 3 == 0 { PER_SLICE / 2 } else { PER_SLICE },
            ))?;
        }
        world.agrees()?;
        world.kubectl().run(&["delete", "endpointslice", "-n", "shop", "many-3", "many-7"])?;
        world.kubectl().apply(&slice(0, 0, PER_SLICE))?;
        world.agrees()
    })?;
    tally.flawless(100)?;
    // Two moments in which the machine stood still; thirteen changes that lost a SYN each would be more.
    ensure!(tally.slow <= 2 * load::CLIENTS, "{} answers took a second or more", tally.slow);
    world.kubectl().run(&[
        "delete",
        "endpointslice",
        "-n",
        "shop",
        "-l",
        "kubernetes.io/service-name=many",
    ])?;
    world.kubectl().run(&["delete", "service", "many", "-n", "shop"])?;
    world.agrees()
}

/// The kubeconfig of the appliance.
fn kubeconfig(world: &World) -> Result<PathBuf> {
    world.options()?.kubeconfig.clone().context("the appliance has a kubeconfig")
}

/// Runs a check with the appliance behind a relay, and puts it back.
fn relayed(world: &mut World, check: impl FnOnce(&mut World, &Relay) -> Result<()>) -> Result<()> {
    let direct = kubeconfig(world)?;
    let (relay, file) = world.lab.relay(&direct)?;
    world.restart_appliance(&file)?;
    let checked = check(world, &relay);
    relay.mend();
    relay.delay(Duration::ZERO);
    world.restart_appliance(&direct)?;
    checked
}

/// Half a second each way, so a change comes that late, and a list takes seconds.
fn slow(world: &mut World) -> Result<()> {
    relayed(world, |world, relay| {
        relay.delay(Duration::from_millis(500));
        under_load(world, |world| {
            world.scale(&shop(), 5)?;
            world.slices_settle(&shop(), 5)?;
            world.agrees()?;
            world.scale(&shop(), 3)?;
            world.slices_settle(&shop(), 3)
        })
        .map(drop)
    })
}

/// What happened while the watch was cut is nowhere any more: neither in etcd nor in the API server's own memory.
fn compacted(world: &mut World) -> Result<()> {
    relayed(world, |world, relay| {
        let gone = |world: &World| -> Result<f64> {
            Ok(world.metrics()?.sum_where("fairlead_kubernetes_errors_total", "error=\"gone\""))
        };
        let before = gone(world)?;
        let tally = under_load(world, |world| {
            relay.cut();
            world.scale(&shop(), 4)?;
            world.slices_settle(&shop(), 4)?;
            world.lab.plane.kill(Component::ApiServer);
            world.lab.plane.compact()?;
            world.lab.plane.come_back()?;
            relay.mend();
            world.agrees()?;
            world.scale(&shop(), 3)?;
            world.slices_settle(&shop(), 3)
        })?;
        ensure!(gone(world)? > before, "the API server did not say that the version is gone");
        ensure!(tally.pods.len() >= 4, "only {} pods were asked", tally.pods.len());
        Ok(())
    })
}

/// The appliance's wall clock is `seconds` off: what it writes into Leases, conditions and events, and what it holds
/// certificates against. Clocks that only count are right, and so is the API server's.
fn skewed(world: &mut World, seconds: i64) -> Result<()> {
    let direct = kubeconfig(world)?;
    let library = world.lab.dir().join("skew.so");
    let source = "tests/kubernetes/skew.c";
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).arg("-ldl");
    process::run(&mut compile, "", Duration::from_secs(30))?.ok()?;
    let environment = [("LD_PRELOAD", library.display().to_string()), ("SKEW_SECONDS", seconds.to_string())];
    world.restart_appliance_with(&environment)?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: timely, namespace: shop},
 spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}";
    let checked = under_load(world, |world| {
        world.scale(&shop(), 5)?;
        world.slices_settle(&shop(), 5)?;
        world.kubectl().apply(service)?;
        world.address_of("shop", "timely")?;
        world.agrees()?;
        world.kubectl().run(&["delete", "service", "timely", "-n", "shop"])?;
        world.scale(&shop(), 3)?;
        world.slices_settle(&shop(), 3)
    });
    world.restart_appliance(&direct)?;
    checked.map(drop)
}

fn ahead(world: &mut World) -> Result<()> {
    skewed(world, 3600)
}

fn behind(world: &mut World) -> Result<()> {
    skewed(world, -3600)
}
