//! The cluster itself, with the kernel's router in the appliance's place: what fails here is not the appliance's fault.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::controlplane::Component;
use lab::http::{self, Connection};
use lab::load;
use lab::process::until;

use crate::objects::Web;
use crate::world::{SOON, World};

pub(crate) const CHECKS: &[Check<World>] = &[
    ("a Deployment is scheduled, answers over both families and fills its slices", deployment),
    ("a pod that says it is not ready leaves the ready ones, and comes back", readiness),
    ("a container that ends is started again with a growing wait", crash_loop),
    ("a pod that shall end serves through its preStop, then its object goes", orderly_end),
    ("images and probes that a lab node does not know are told in the pod's status", refusals),
    ("a drained node is empty, and is used again", drain),
    ("a lost node's pods are replaced, and it comes back", node_loss),
    ("pods run on while the API server is away, and what was missed is caught up", api_outage),
    ("a ServiceAccount's kubeconfig has its rights and no more", rights),
];

fn web(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 8080)
}

fn deployment(world: &mut World) -> Result<()> {
    let shop = Web::new("scaling", 3);
    world.deploy(&shop)?;
    world.slices_settle(&shop, 3)?;
    let pods = world.ready_pods(&shop)?;
    for (name, ips) in &pods {
        ensure!(ips.len() == 2, "{name} has the addresses {ips:?}");
        let from_client = world.host("c1").within(|| http::who(web(ips[0]), SOON))??;
        ensure!(from_client.pod == *name, "{name} was asked, {} answered", from_client.pod);
        let from_node = world.host("n1").within(|| http::who(web(ips[1]), SOON))??;
        ensure!(from_node.pod == *name, "{name} was asked over IPv6, {} answered", from_node.pod);
    }
    for count in [6, 1] {
        world.scale(&shop, count)?;
        world.slices_settle(&shop, count.try_into()?)?;
    }
    world.delete(&shop)
}

fn readiness(world: &mut World) -> Result<()> {
    let shop = Web::new("readiness", 2);
    world.deploy(&shop)?;
    world.slices_settle(&shop, 2)?;
    let (pod, ips) = world.ready_pods(&shop)?.pop_first().context("no ready pod")?;
    let file = world.lab.container_dir(shop.namespace, &pod, "web").join("www/unready");
    fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
    until("its endpoint is not ready", Duration::from_secs(10), || {
        world.slices(&shop, "IPv4").is_ok_and(|slices| slices.get(&ips[0]) == Some(&false))
    })?;
    fs::remove_file(&file)?;
    world.slices_settle(&shop, 2)?;
    world.delete(&shop)
}

/// A pod with one container, as JSON that is YAML; it has so many seconds to end.
fn pod(name: &str, grace: u32, container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: {grace}, containers: [{container}]}}}}"
    )
}

/// A field of the first container's status.
fn container_status(world: &World, name: &str, path: &str) -> String {
    let path = format!("jsonpath={{.status.containerStatuses[0].{path}}}");
    world.kubectl().run(&["get", "pod", name, "-o", &path]).unwrap_or_default()
}

fn crash_loop(world: &mut World) -> Result<()> {
    let container = "{name: c, image: shell, args: ['-c', 'date +%s.%N >> starts; exit 3']}";
    world.kubectl().apply(&pod("crash", 5, container))?;
    until("it was started four times", SOON, || {
        container_status(world, "crash", "restartCount").parse().is_ok_and(|count: u32| count >= 3)
    })?;
    let reason = container_status(world, "crash", "state.waiting.reason");
    let code = container_status(world, "crash", "lastState.terminated.exitCode");
    ensure!((reason.as_str(), code.as_str()) == ("CrashLoopBackOff", "3"), "it is {reason}, code {code}");
    let file = world.lab.container_dir("default", "crash", "c").join("starts");
    let starts: Vec<f64> = fs::read_to_string(file)?.lines().filter_map(|line| line.parse().ok()).collect();
    let waits: Vec<f64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // No upper bound but that of the four starts: a machine that stands still for a while makes any wait longer.
    ensure!(waits.iter().zip([1.0, 2.0, 4.0]).all(|(wait, least)| *wait >= least), "waits of {waits:?} s");
    world.kubectl().run(&["delete", "pod", "crash"]).map(drop)
}

/// The preStop lasts until the check says so, so that nothing depends on how fast anybody is.
fn orderly_end(world: &mut World) -> Result<()> {
    let file = |name: &str| world.lab.dir().join(format!("ending.{name}"));
    let (begun, go) = (file("begun"), file("go"));
    let script = format!("touch {}; until [ -e {} ]; do sleep 0.05; done", begun.display(), go.display());
    let container = format!(
        "{{name: web, image: nginx, lifecycle: {{preStop: {{exec: {{command: [sh, -c, '{script}']}}}}}}}}"
    );
    world.kubectl().apply(&pod("ending", 60, &container))?;
    world.kubectl().wait(&["wait", "pod/ending", "--for=condition=Ready", "--timeout=30s"], SOON)?;
    let ip = world.kubectl().run(&["get", "pod", "ending", "-o", "jsonpath={.status.podIP}"])?.parse()?;
    let mut held = world.host("c1").within(|| Connection::open(web(ip), SOON))??;
    held.get("/")?;
    world.kubectl().run(&["delete", "pod", "ending", "--wait=false"])?;
    until("its preStop runs", SOON, || begun.exists())?;
    let ask = || world.host("c1").within(|| http::who(web(ip), Duration::from_secs(3)))?;
    for round in 0..5 {
        ask().with_context(|| format!("request {round} during its preStop"))?;
        held.get("/").context("the open connection during its preStop")?;
    }
    fs::write(&go, "")?;
    until("nobody answers after its preStop", SOON / 4, || ask().is_err())?;
    world.kubectl().wait(&["wait", "pod/ending", "--for=delete", "--timeout=30s"], SOON).map(drop)
}

fn refusals(world: &mut World) -> Result<()> {
    for (name, container, reason, said) in [
        ("noimage", "{name: c, image: 'redis:7'}", "ErrImagePull", "no image \"redis:7\""),
        (
            "noport",
            "{name: c, image: nginx, env: [{name: PORT, value: x}]}",
            "CreateContainerConfigError",
            "PORT=x",
        ),
        (
            "noprobe",
            "{name: c, image: nginx, readinessProbe: {grpc: {port: 1}}}",
            "CreateContainerConfigError",
            "httpGet, tcpSocket or exec",
        ),
    ] {
        world.kubectl().apply(&pod(name, 5, container))?;
        until(&format!("{name} is {reason}"), SOON, || {
            container_status(world, name, "state.waiting.reason") == reason
        })?;
        let message = container_status(world, name, "state.waiting.message");
        ensure!(message.contains(said), "{name} says: {message}");
        world.kubectl().run(&["delete", "pod", name])?;
    }
    Ok(())
}

/// On which nodes its ready pods are.
fn nodes_of(world: &World, web: &Web) -> Result<Vec<String>> {
    let selector = format!("app={}", web.name);
    let columns = "jsonpath={.items[*].spec.nodeName}";
    let text = world.kubectl().run(&["get", "pods", "-n", web.namespace, "-l", &selector, "-o", columns])?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn drain(world: &mut World) -> Result<()> {
    let shop = Web::new("draining", 2);
    world.deploy(&shop)?;
    ensure!(nodes_of(world, &shop)?.iter().any(|node| node == "n1"), "no pod is on n1");
    world.kubectl().wait(&["drain", "n1", "--ignore-daemonsets", "--force", "--timeout=60s"], SOON)?;
    world.rolled_out(&shop)?;
    world.slices_settle(&shop, 2)?;
    let nodes = nodes_of(world, &shop)?;
    ensure!(nodes == ["n2", "n2"], "pods are on {nodes:?}");
    world.kubectl().run(&["uncordon", "n1"])?;
    world.scale(&shop, 4)?;
    ensure!(nodes_of(world, &shop)?.iter().any(|node| node == "n1"), "nothing is scheduled to n1 again");
    world.delete(&shop)
}

fn node_loss(world: &mut World) -> Result<()> {
    let shop = Web::new("loss", 2);
    world.deploy(&shop)?;
    world.lab.power_off("n2")?;
    world.kubectl().wait(&["wait", "node/n2", "--for=condition=Ready=Unknown", "--timeout=30s"], SOON)?;
    until("its pods are replaced on n1", SOON, || {
        let ready = world.slices(&shop, "IPv4").unwrap_or_default();
        let on_n1 = nodes_of(world, &shop).unwrap_or_default().iter().filter(|node| *node == "n1").count();
        on_n1 == 2 && ready.values().filter(|ready| **ready).count() == 2
    })?;
    world.lab.power_on("n2")?;
    world.kubectl().wait(&["wait", "node/n2", "--for=condition=Ready", "--timeout=30s"], SOON)?;
    until("the lost pods are gone for good", SOON, || {
        nodes_of(world, &shop).is_ok_and(|nodes| nodes.len() == 2)
    })?;
    world.scale(&shop, 4)?;
    world.slices_settle(&shop, 4)?;
    let pods = world.ready_pods(&shop)?;
    for ips in pods.values() {
        world.host("c1").within(|| http::who(web(ips[0]), SOON))??;
    }
    world.delete(&shop)
}

fn api_outage(world: &mut World) -> Result<()> {
    let shop = Web::new("outage", 2);
    world.deploy(&shop)?;
    let (pod, ips) = world.ready_pods(&shop)?.pop_first().context("no ready pod")?;
    let file = world.lab.container_dir(shop.namespace, &pod, "web").join("www/unready");
    let client = world.lab.share("c1");
    let ((), tally) = load::while_asked(&client, web(ips[0]), || {
        world.lab.plane.kill(Component::ApiServer);
        fs::write(&file, "")?;
        // Longer than a readiness period, shorter than the nodes' grace.
        std::thread::sleep(Duration::from_secs(3));
        world.lab.plane.come_back()
    })?;
    tally.flawless(100)?;
    until("what changed meanwhile is in the slices", SOON, || {
        world.slices(&shop, "IPv4").is_ok_and(|slices| slices.get(&ips[0]) == Some(&false))
    })?;
    fs::remove_file(&file)?;
    world.slices_settle(&shop, 2)?;
    world.delete(&shop)
}

fn rights(world: &mut World) -> Result<()> {
    world.kubectl().apply(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: default}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: reader},
 rules: [{apiGroups: [''], resources: [nodes], verbs: [get, list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: reader},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader},
 subjects: [{kind: ServiceAccount, name: reader, namespace: default}]}",
    )?;
    let kubeconfig = world.lab.plane.service_account_kubeconfig("default", "reader")?;
    let reader = world.lab.plane.kubectl_as(&kubeconfig);
    reader.run(&["get", "nodes"])?;
    let refused = reader.run(&["get", "services", "-A"]).err().context("it may list Services")?;
    ensure!(format!("{refused:#}").contains("Forbidden"), "{refused:#}");
    world.kubectl().run(&["delete", "clusterrolebinding,clusterrole", "reader"])?;
    world.kubectl().run(&["delete", "serviceaccount", "reader"]).map(drop)
}
