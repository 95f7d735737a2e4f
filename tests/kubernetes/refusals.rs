//! Objects that the API server takes and the appliance cannot serve: each is told why, by an event and in `fairlead show
//! services`, and nobody else notices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::process::until;
use lab::{http, plan};
use serde_json::{Value, json};

use crate::services::{shop, under_load};
use crate::world::{SOON, World};

pub(crate) const CHECKS: &[Check<World>] = &[
    ("what cannot be served is told why, and harms nobody", refused),
    ("two Services at one address and port: who lost the port has it in its status", port_taken),
    (
        "slices that name the appliance, a VIP and a clusterIP lead nowhere, and the pod among them serves",
        astray,
    ),
    ("a Service of 3,000 ports comes and goes", wide),
];

/// An address of a pool that may be an externalIP too.
const TAKEN: &str = "192.0.2.150";

/// A Service that is wrong, and what is said about it.
struct Case {
    name: &'static str,
    annotations: Value,
    spec: Value,
    /// Of its warning event.
    reason: &'static str,
    /// In the event and in `fairlead show services`.
    words: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |name, annotations, spec, reason, words| Case { name, annotations, spec, reason, words };
    let balanced = || json!({"type": "LoadBalancer"});
    vec![
        case(
            "no-address",
            json!({"fairlead.dev/ips": "first one"}),
            balanced(),
            "AllocationFailed",
            "is no address",
        ),
        case(
            "no-pools",
            json!({"fairlead.dev/ips": "198.51.100.7"}),
            balanced(),
            "AllocationFailed",
            "it is in no pool",
        ),
        case(
            "no-pool",
            json!({"fairlead.dev/pool": "nowhere"}),
            balanced(),
            "AllocationFailed",
            "there is no pool nowhere",
        ),
        case(
            "our-own",
            json!({"fairlead.dev/ips": "192.0.2.1"}),
            balanced(),
            "AllocationFailed",
            "cannot be given",
        ),
        case("mode", json!({"fairlead.dev/mode": "magic"}), balanced(), "LoadBalancerFailed", "magic"),
        case(
            "foreign",
            json!({}),
            json!({"externalIPs": ["198.51.100.8"]}),
            "Degraded",
            "externalIP 198.51.100.8",
        ),
        case("gateway", json!({}), json!({"externalIPs": ["192.0.2.1"]}), "Degraded", "externalIP 192.0.2.1"),
        case(
            "node",
            json!({}),
            json!({"externalIPs": ["192.0.2.255"]}),
            "Degraded",
            "externalIP 192.0.2.255",
        ),
    ]
}

impl Case {
    fn object(&self, space: &str) -> Value {
        let mut spec = self.spec.clone();
        spec["ports"] = json!([{"port": 80}]);
        let metadata = json!({"name": self.name, "namespace": space, "annotations": self.annotations});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    }
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Kubernetes takes some seconds for what is left of it; nobody waits for that.
fn delete(world: &World, space: &str) -> Result<()> {
    world.kubectl().run(&["delete", "services", "--all", "-n", space, "--timeout=20s"])?;
    world.kubectl().run(&["delete", "namespace", space, "--wait=false"]).map(drop)
}

/// What is wrong with the Services of a namespace by `fairlead show services`.
pub(crate) fn problems(world: &World, space: &str) -> Result<BTreeMap<String, String>> {
    let shown = world.shown()?;
    let rows = shown.as_array().into_iter().flatten().filter(|row| row["namespace"] == space);
    Ok(rows
        .map(|row| (row["name"].as_str().unwrap_or_default().to_owned(), row["problems"].to_string()))
        .collect())
}

/// The warnings about an object: reason and sentence.
pub(crate) fn warnings(world: &World, space: &str, name: &str) -> Result<Vec<(String, String)>> {
    let selector = format!("involvedObject.name={name},type=Warning");
    let list = world.kubectl().json(&["get", "events", "-n", space, "--field-selector", &selector])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = list["items"].as_array().into_iter().flatten();
    Ok(events.map(|event| (text(&event["reason"]), text(&event["message"]))).collect())
}

fn refused(world: &mut World) -> Result<()> {
    let (space, cases) = ("refused", cases());
    let mut objects = vec![namespace(space)];
    objects.extend(cases.iter().map(|case| case.object(space)));
    under_load(world, |world| {
        world.kubectl().apply(&list(&objects))?;
        for case in &cases {
            told(world, space, case).with_context(|| case.name)?;
        }
        delete(world, space)
    })
    .map(drop)
}

fn told(world: &World, space: &str, case: &Case) -> Result<()> {
    let (mut events, mut shown) = (Vec::new(), BTreeMap::new());
    until("it is told", SOON / 6, || {
        events = warnings(world, space, case.name).unwrap_or_default();
        shown = problems(world, space).unwrap_or_default();
        let event = |(reason, said): &(String, String)| reason == case.reason && said.contains(case.words);
        events.iter().any(event) && shown.get(case.name).is_some_and(|said| said.contains(case.words))
    })
    .with_context(|| format!("events {events:?}, shown {:?}", shown.get(case.name)))
}

/// An externalIP of one Service is the address of another, and both want one of its ports.
fn port_taken(world: &mut World) -> Result<()> {
    let space = "taken";
    let service = |name: &str, annotations: Value, spec: Value| {
        let metadata = json!({"name": name, "namespace": space, "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    };
    let first = json!({"externalIPs": [TAKEN], "ports": [{"port": 80}]});
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}, {"name": "c", "port": 82, "protocol": "SCTP"}]);
    let second = json!({"type": "LoadBalancer", "ports": ports});
    world.kubectl().apply(&list(&[namespace(space), service("first", json!({}), first)]))?;
    world.kubectl().apply(&service("second", json!({"fairlead.dev/ips": TAKEN}), second).to_string())?;
    let mut status = Value::Null;
    let mut until_status = |what: &str, is: fn(&Value) -> bool| {
        until(what, SOON / 4, || {
            let second = world.kubectl().json(&["get", "service", "second", "-n", space]);
            status = second.map(|second| second["status"].clone()).unwrap_or_default();
            is(&status)
        })
        .with_context(|| format!("status {status}"))
    };
    until_status("the second lacks a port", |status| {
        let entry = &status["loadBalancer"]["ingress"][0];
        let want = json!([
            {"port": 80, "protocol": "TCP", "error": "fairlead.dev/PortTaken"},
            {"port": 81, "protocol": "TCP"},
            {"port": 82, "protocol": "SCTP"},
        ]);
        let condition = &status["conditions"][0];
        entry["ip"] == TAKEN
            && entry["ports"] == want
            && condition["type"] == "LoadBalancerPortsError"
            && condition["status"] == "True"
    })?;
    let said = warnings(world, space, "second")?;
    ensure!(
        said.iter().any(|(_, said)| said.contains("192.0.2.150:80/TCP belongs to taken/first")),
        "{said:?}"
    );
    world.kubectl().run(&["delete", "service", "first", "-n", space])?;
    until_status("the second has all of its ports", |status| {
        status["loadBalancer"]["ingress"] == json!([{"ip": TAKEN, "ipMode": "VIP"}])
            && status["conditions"].is_null()
    })?;
    delete(world, space)
}

/// Endpoints that the API server takes, and that nobody can serve.
fn astray(world: &mut World) -> Result<()> {
    let space = "astray";
    let vip = world.address(&shop())?;
    let (name, pods) = world.ready_pods(&shop())?.pop_first().context("no ready pod")?;
    let own = plan::GATEWAY_INSIDE.into();
    let addresses = [own, vip, plan::KUBERNETES_SERVICE.into(), pods[0]];
    let endpoints: Vec<Value> = addresses.iter().map(|at| json!({"addresses": [at]})).collect();
    let labels = json!({"kubernetes.io/service-name": "astray"});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "astray", "namespace": space, "labels": labels},
        "ports": [{"name": "", "port": 8080}], "endpoints": endpoints,
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "astray", "namespace": space},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}]},
    });
    under_load(world, |world| {
        world.kubectl().apply(&list(&[namespace(space), service, slice]))?;
        let server = SocketAddr::new(world.address_of(space, "astray")?, 80);
        world.agrees()?;
        // A request in four or more meets the pod: that none of 200 does, or all of 30, is rarer than 10^-14.
        let (mut answers, mut silences) = (0, 0);
        while answers + silences < 30 || ((answers == 0 || silences == 0) && answers + silences < 200) {
            match world.host("c2").within(|| http::who(server, Duration::from_millis(100)))? {
                Ok(answer) => {
                    ensure!(answer.pod == name, "{} answered, which is no endpoint", answer.pod);
                    answers += 1;
                }
                Err(_) => silences += 1,
            }
        }
        ensure!(answers > 0 && silences > 0, "{answers} requests were answered, {silences} were not");
        let said = problems(world, space)?;
        let told = format!("endpoint {} lies in a service CIDR", plan::KUBERNETES_SERVICE);
        ensure!(said.get("astray").is_some_and(|said| said.contains(&told)), "{said:?}");
        delete(world, space)
    })
    .map(drop)
}

fn wide(world: &mut World) -> Result<()> {
    let space = "wide";
    let ports: Vec<Value> =
        (1..=3000).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "wide", "namespace": space}, "spec": {"ports": ports}});
    let file = world.lab.dir().join("wide.json");
    std::fs::write(&file, service.to_string())?;
    world.kubectl().apply(&namespace(space).to_string())?;
    under_load(world, |world| {
        world.kubectl().run(&["create", "-f", &file.display().to_string()])?;
        world.agrees()?;
        let shown = world.shown()?;
        let rows = shown.as_array().into_iter().flatten().filter(|row| row["name"] == "wide").count();
        ensure!(rows == 3000, "{rows} of its ports are shown");
        delete(world, space)
    })
    .map(drop)
}
