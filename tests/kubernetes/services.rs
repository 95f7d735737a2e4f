//! LoadBalancer Services through `fairlead run`, while Kubernetes does what it does: no request fails, and
//! `fairlead show` says what `kubectl get` says.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::controlplane::Component;
use lab::http;
use lab::load::{self, Tally};
use lab::process::until;
use serde_json::{Value, json};

use crate::objects::Web;
use crate::world::{SOON, World};

pub(crate) const CHECKS: &[Check<World>] = &[
    ("an exposed Deployment gets an address within a second, and it answers", expose),
    ("scaled from 3 to 10 to 2", scale),
    ("restarted pod by pod", rolling_restart),
    ("a pod that crashes again and again gets nothing", crash_loop),
    ("readiness flaps", flapping),
    ("a node is drained", drain),
    ("a node is lost", node_loss),
    ("another namespace is deleted", namespace_deleted),
    ("the Service goes through all types and back", types),
    ("its port is renamed and renumbered", ports),
    ("it is deleted and made again", recreated),
    ("its slices are written by hand, with an address in two of them", hand_written),
    ("the API server is away in the middle of a rollout", api_outage),
    ("the right to read slices is taken away and given back", rights),
];

/// For an answer that must come: a SYN may be lost, and the machine may stand still.
const PATIENT: Duration = Duration::from_secs(5);

/// The Service that every check finds and leaves: three pods, type LoadBalancer.
pub(crate) fn shop() -> Web {
    Web { kind: "LoadBalancer", ..Web::new("shop", 3) }
}

/// Load on the shop while something happens: every request must be answered. Afterwards both views are equal.
pub(crate) fn under_load(world: &mut World, during: impl FnOnce(&mut World) -> Result<()>) -> Result<Tally> {
    let server = SocketAddr::new(world.address(&shop())?, 80);
    let client = world.lab.share("c1");
    let before = world.metrics()?;
    let ((), tally) = load::while_asked(&client, server, || during(world))?;
    let drops = world.metrics()?.drops_since(&before);
    tally.flawless(100).with_context(|| format!("pods {:?}, drops {drops:?}", tally.pods))?;
    world.agrees()?;
    Ok(tally)
}

/// Within a second is the promise; a machine that stands still for one may break it once, but not three times.
fn expose(world: &mut World) -> Result<()> {
    let kubectl = world.kubectl().clone();
    kubectl.run(&["create", "deployment", "hello", "--image=nginx", "--port=8080", "--replicas=2"])?;
    kubectl.wait(&["rollout", "status", "deployment/hello", "--timeout=60s"], SOON)?;
    let mut times = Vec::new();
    while times.len() < 3 && !times.iter().any(|given| *given <= Duration::from_secs(1)) {
        kubectl.run(&[
            "expose",
            "deployment",
            "hello",
            "--type=LoadBalancer",
            "--port=80",
            "--target-port=8080",
        ])?;
        let begun = Instant::now();
        let server = SocketAddr::new(world.address_of("default", "hello")?, 80);
        times.push(begun.elapsed());
        world.host("c1").within(|| http::who(server, PATIENT))??;
        world.agrees()?;
        kubectl.run(&["delete", "service", "hello"])?;
    }
    let in_time = times.last().is_some_and(|given| *given <= Duration::from_secs(1));
    ensure!(in_time, "the address came after {times:?}");
    kubectl.run(&["delete", "deployment", "hello"]).map(drop)
}

fn scale(world: &mut World) -> Result<()> {
    let tally = under_load(world, |world| {
        world.scale(&shop(), 10)?;
        world.slices_settle(&shop(), 10)?;
        // Long enough for every pod to be asked, even if the machine stands still for a second of it.
        std::thread::sleep(Duration::from_millis(1500));
        world.scale(&shop(), 2)?;
        world.slices_settle(&shop(), 2)
    })?;
    ensure!(tally.pods.len() >= 8, "only {} pods were asked", tally.pods.len());
    world.scale(&shop(), 3)
}

fn rolling_restart(world: &mut World) -> Result<()> {
    let tally = under_load(world, |world| {
        world.kubectl().run(&["rollout", "restart", "deployment/web", "-n", "shop"])?;
        world.rolled_out(&shop())?;
        world.slices_settle(&shop(), 3)
    })?;
    ensure!(tally.pods.len() >= 5, "only {} pods were asked", tally.pods.len());
    Ok(())
}

fn crash_loop(world: &mut World) -> Result<()> {
    under_load(world, |world| {
        world.kubectl().apply(
            "{apiVersion: v1, kind: Pod, metadata: {name: crash, namespace: shop, labels: {app: web}}, spec: {containers: [
  {name: c, image: shell, args: ['-c', 'sleep 0.2; exit 1'], ports: [{name: http, containerPort: 8080}],
   readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}}]}}",
        )?;
        std::thread::sleep(Duration::from_secs(5));
        world.kubectl().run(&["delete", "pod", "crash", "-n", "shop", "--grace-period=1"]).map(drop)
    })
    .map(drop)
}

fn flapping(world: &mut World) -> Result<()> {
    let (pod, _) = world.ready_pods(&shop())?.pop_first().context("no ready pod")?;
    let file = world.lab.container_dir("shop", &pod, "web").join("www/unready");
    under_load(world, |world| {
        for _ in 0..3 {
            fs::write(&file, "")?;
            until("it is not ready", SOON, || world.ready_pods(&shop()).is_ok_and(|pods| pods.len() == 2))?;
            fs::remove_file(&file)?;
            world.slices_settle(&shop(), 3)?;
        }
        Ok(())
    })
    .map(drop)
}

fn drain(world: &mut World) -> Result<()> {
    under_load(world, |world| {
        world.kubectl().wait(&["drain", "n2", "--ignore-daemonsets", "--force", "--timeout=60s"], SOON)?;
        world.rolled_out(&shop())?;
        world.slices_settle(&shop(), 3)?;
        world.kubectl().run(&["uncordon", "n2"]).map(drop)
    })?;
    world.kubectl().run(&["rollout", "restart", "deployment/web", "-n", "shop"])?;
    world.rolled_out(&shop())?;
    world.slices_settle(&shop(), 3)
}

/// Until Kubernetes says that the node is lost, what goes to its pods is lost too; from then on nothing is.
fn node_loss(world: &mut World) -> Result<()> {
    world.lab.power_off("n2")?;
    world.kubectl().wait(&["wait", "node/n2", "--for=condition=Ready=Unknown", "--timeout=30s"], SOON)?;
    until("its pods are out of the ready ones", SOON, || {
        world.ready_on(&shop(), "n2").is_ok_and(|count| count == 0)
    })?;
    std::thread::sleep(Duration::from_millis(100));
    under_load(world, |world| {
        until("its pods are replaced", SOON, || world.ready_pods(&shop()).is_ok_and(|pods| pods.len() == 3))?;
        world.lab.power_on("n2")?;
        world.kubectl().wait(&["wait", "node/n2", "--for=condition=Ready", "--timeout=30s"], SOON)?;
        world.scale(&shop(), 5)?;
        world.slices_settle(&shop(), 5)?;
        world.scale(&shop(), 3)?;
        world.slices_settle(&shop(), 3)
    })
    .map(drop)
}

fn namespace_deleted(world: &mut World) -> Result<()> {
    let other = Web { kind: "LoadBalancer", ..Web::new("other", 2) };
    world.deploy(&other)?;
    let gone = SocketAddr::new(world.address(&other)?, 80);
    world.host("c2").within(|| http::who(gone, PATIENT))??;
    under_load(world, |world| {
        world.delete(&other)?;
        world.kubectl().wait(&["wait", "namespace/other", "--for=delete", "--timeout=60s"], SOON).map(drop)
    })?;
    let answer = world.host("c2").within(|| http::who(gone, Duration::from_millis(300)))?;
    ensure!(answer.is_err(), "{gone} still answers");
    Ok(())
}

fn set_type(world: &World, web: &Web, spec: &Value) -> Result<()> {
    let patch = json!({"spec": spec}).to_string();
    world.kubectl().run(&["patch", "service", web.name, "-n", web.namespace, "-p", &patch]).map(drop)
}

fn types(world: &mut World) -> Result<()> {
    let other = Web { kind: "LoadBalancer", ..Web::new("types", 1) };
    world.deploy(&other)?;
    let gone = SocketAddr::new(world.address(&other)?, 80);
    let steps = [
        json!({"type": "NodePort"}),
        json!({"type": "ClusterIP"}),
        // It has no families of its own; the API server takes its clusterIPs away.
        json!({"type": "ExternalName", "externalName": "elsewhere.example", "ipFamilies": null, "ipFamilyPolicy": null}),
        json!({"type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "RequireDualStack"}),
        json!({"type": "NodePort"}),
    ];
    under_load(world, |world| {
        for spec in &steps {
            set_type(world, &other, spec)?;
            world.agrees().with_context(|| format!("as {spec}"))?;
            let answer = world.host("c2").within(|| http::who(gone, Duration::from_millis(300)))?;
            ensure!(answer.is_err(), "as {spec}, {gone} still answers");
        }
        let events = ["get", "events", "-n", "types", "--field-selector", "reason=DeletedLoadBalancer"];
        until("an event tells that it was given up", SOON / 6, || {
            world
                .kubectl()
                .json(&events)
                .is_ok_and(|list| !list["items"].as_array().is_none_or(Vec::is_empty))
        })?;
        set_type(world, &other, &json!({"type": "LoadBalancer"}))?;
        let again = SocketAddr::new(world.address(&other)?, 80);
        world.agrees()?;
        world.host("c2").within(|| http::who(again, PATIENT))??;
        world.delete(&other)
    })
    .map(drop)
}

fn ports(world: &mut World) -> Result<()> {
    let other = Web { kind: "LoadBalancer", ..Web::new("ports", 2) };
    world.deploy(&other)?;
    let address = world.address(&other)?;
    under_load(world, |world| {
        let patch = "[{\"op\":\"replace\",\"path\":\"/spec/ports/0/name\",\"value\":\"www\"},
            {\"op\":\"replace\",\"path\":\"/spec/ports/0/port\",\"value\":8000}]";
        world.kubectl().run(&["patch", "service", "web", "-n", "ports", "--type=json", "-p", patch])?;
        world.agrees()?;
        let renumbered = SocketAddr::new(address, 8000);
        world.host("c2").within(|| http::who(renumbered, PATIENT))??;
        let old = world
            .host("c2")
            .within(|| http::who(SocketAddr::new(address, 80), Duration::from_millis(300)))?;
        ensure!(old.is_err(), "port 80 still answers");
        world.delete(&other)
    })
    .map(drop)
}

fn recreated(world: &mut World) -> Result<()> {
    let other = Web { kind: "LoadBalancer", ..Web::new("again", 2) };
    world.deploy(&other)?;
    under_load(world, |world| {
        for round in 0..3 {
            let before = world.kubectl().json(&["get", "service", "web", "-n", "again"])?;
            world.kubectl().run(&["delete", "service", "web", "-n", "again"])?;
            world.kubectl().apply(&other.yaml())?;
            let after = world.kubectl().json(&["get", "service", "web", "-n", "again"])?;
            ensure!(
                before["spec"]["clusterIP"] != after["spec"]["clusterIP"],
                "round {round}: the same clusterIP"
            );
            let server = SocketAddr::new(world.address(&other)?, 80);
            world.agrees()?;
            world.host("c2").within(|| http::who(server, PATIENT))??;
        }
        world.delete(&other)
    })
    .map(drop)
}

fn hand_written(world: &mut World) -> Result<()> {
    let pods = world.ready_pods(&shop())?;
    let ips: Vec<_> = pods.values().filter_map(|ips| ips.first()).collect();
    let (a, b) = (ips.first().context("no pod")?, ips.get(1).context("one pod only")?);
    let slice = |name: &str, address: &IpAddr| {
        format!(
            "---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: manual}}}},
 ports: [{{name: '', port: 8080, protocol: TCP}}], endpoints: [{{addresses: [{address}]}}]}}
"
        )
    };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: manual, namespace: default},
 spec: {type: LoadBalancer, ports: [{port: 80, targetPort: 8080}]}}\n";
    under_load(world, |world| {
        let all =
            format!("{service}{}{}{}", slice("manual-1", a), slice("manual-2", b), slice("manual-3", a));
        world.kubectl().apply(&all)?;
        let server = SocketAddr::new(world.address_of("default", "manual")?, 80);
        world.agrees()?;
        let client = world.lab.share("c2");
        // The slice that repeats an address goes: the address stays.
        let ((), tally) = load::while_asked(&client, server, || {
            world.kubectl().run(&["delete", "endpointslice", "manual-1"])?;
            std::thread::sleep(Duration::from_millis(500));
            world.agrees()
        })?;
        // A hundred requests and more to two pods: that all go to one by chance, once in 2^99.
        tally.flawless(100)?;
        ensure!(tally.pods.len() == 2, "{:?} answered", tally.pods);
        world.kubectl().run(&[
            "delete",
            "service,endpointslice",
            "-l",
            "kubernetes.io/service-name=manual",
        ])?;
        world.kubectl().run(&["delete", "service", "manual", "--ignore-not-found"]).map(drop)
    })
    .map(drop)
}

/// How long the API server stays away; `E2E_OUTAGE_SECONDS` makes it longer.
fn outage() -> Duration {
    let seconds = std::env::var("E2E_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

fn api_outage(world: &mut World) -> Result<()> {
    let tally = under_load(world, |world| {
        world.kubectl().run(&["rollout", "restart", "deployment/web", "-n", "shop"])?;
        std::thread::sleep(Duration::from_secs(2));
        world.lab.plane.kill(Component::ApiServer);
        std::thread::sleep(outage());
        world.lab.plane.come_back()?;
        world.rolled_out(&shop())?;
        world.slices_settle(&shop(), 3)?;
        // It waits for five seconds: whoever backed off further has not caught up by then.
        world.agrees()
    })?;
    ensure!(tally.pods.len() >= 5, "only {} pods were asked", tally.pods.len());
    Ok(())
}

/// The rules of the appliance's role, but those for one resource.
fn rules_without(role: &Value, resource: &str) -> Value {
    let rules = role["rules"].as_array().cloned().unwrap_or_default();
    let kept = rules.into_iter().filter(|rule| rule["resources"] != json!([resource]));
    kept.collect()
}

fn rights(world: &mut World) -> Result<()> {
    let role = world.kubectl().json(&["get", "clusterrole", "fairlead"])?;
    let with = |rules: &Value| json!({"apiVersion": role["apiVersion"], "kind": role["kind"], "metadata": {"name": "fairlead"}, "rules": rules});
    let less = rules_without(&role, "endpointslices");
    ensure!(less != role["rules"], "the role has no rule for endpointslices alone: {role}");
    under_load(world, |world| {
        world.kubectl().apply(&with(&less).to_string())?;
        // Watches that are open stay open: the API server's restart makes the appliance ask again, in vain.
        world.lab.plane.kill(Component::ApiServer);
        world.lab.plane.come_back()?;
        std::thread::sleep(Duration::from_secs(3));
        world.kubectl().apply(&with(&role["rules"]).to_string())?;
        world.scale(&shop(), 4)?;
        world.slices_settle(&shop(), 4)?;
        world.agrees()?;
        world.scale(&shop(), 3)?;
        world.slices_settle(&shop(), 3)
    })
    .map(drop)
}
