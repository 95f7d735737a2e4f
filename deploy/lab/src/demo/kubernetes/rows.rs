//! The rows: the cluster, an exposed Deployment, pools, changes under load, an outage of the API server, an end.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::controlplane::Component;
use lab::http::WebAnswer;
use lab::ingress::{self, Certificate};
use lab::process::{Outcome, until};
use serde_json::Value;

use super::super::report::Report;
use super::{ANSWER, NAME, Stage, objects};

/// The rows in order.
pub(super) const ALL: [fn(&mut Stage, &mut Report); 9] =
    [cluster, expose, pools, scale, restart, drain, outage, ingress, delete];

/// Longest wait for the appliance to follow what Kubernetes did.
const FOLLOWS: Duration = Duration::from_secs(5);
/// How long the API server stays away.
const AWAY: Duration = Duration::from_secs(8);

fn curl(client: &str, server: SocketAddr) -> String {
    format!("ip netns exec fl-{NAME}-{client} curl -s http://{server}/")
}

fn cluster(stage: &mut Stage, report: &mut Report) {
    report.row(
        "1",
        "A cluster",
        "Kubernetes' own programs; only the kubelet is the lab's, so pods are real processes in namespaces of their own.",
    );
    stage.kubectl(report, "which version is this?", &["version"]);
    stage.kubectl(report, "which nodes are there?", &["get", "nodes", "-o", "wide"]);
    stage.kubectl(
        report,
        "who decides about addresses? The appliance that holds the Lease:",
        &["get", "lease", "-n", "fairlead-system"],
    );
    stage.fairlead(report, "what does the appliance follow?", &["show", "sources"]);
}

fn expose(stage: &mut Stage, report: &mut Report) {
    report.row(
        "2",
        "kubectl expose --type=LoadBalancer",
        "A Deployment gets an address from the appliance, and the address answers.",
    );
    stage.apply(report, "three web servers", "hello.yaml", objects::HELLO);
    let rolled = stage.rolled_out("hello");
    report.step("do they run?", &stage.by_hand(&["rollout", "status", "deployment/hello"]), rolled);
    exposed(stage, report);
    stage.kubectl(report, "what does Kubernetes say?", &["get", "service,endpointslices"]);
    stage.kubectl(
        report,
        "what was done about it?",
        &["get", "events", "--field-selector", "involvedObject.kind=Service"],
    );
    stage.fairlead(report, "what does the appliance serve?", &["show", "services"]);
    if let Ok(server) = stage.address("hello", 80) {
        let packet = format!("tcp 192.0.2.11:40000 > {server}");
        stage.fairlead(report, "where would a packet go, and why?", &["trace", "--live", &packet]);
    }
}

/// Exposes the Deployment and asks at the address that it gets.
fn exposed(stage: &Stage, report: &mut Report) {
    let (begun, ports) = (Instant::now(), ["--port=80", "--target-port=8080"]);
    stage.kubectl(
        report,
        "expose them",
        &[&["expose", "deployment", "hello", "--type=LoadBalancer"], &ports[..]].concat(),
    );
    let given = until("its status has an address", FOLLOWS, || stage.address("hello", 80).is_ok());
    let given = given.and_then(|()| {
        let (server, took) = (stage.address("hello", 80)?, begun.elapsed());
        let pod = stage.who("c1", server)?.pod;
        Ok(format!(
            "{} is in its status {:.2} s after expose began; pod {pod} answers",
            server.ip(),
            took.as_secs_f64()
        ))
    });
    let by_hand = stage.address("hello", 80).map_or_else(|_| String::new(), |server| curl("c1", server));
    report.step("how long did it take, and who answers c1, a client outside?", &by_hand, given);
}

fn pools(stage: &mut Stage, report: &mut Report) {
    report.row(
        "3",
        "Pools",
        "A pool is an object of the API as well; a Service may ask for a pool or an address.",
    );
    stage.apply(report, "a pool called shops", "pool.yaml", objects::POOL);
    stage.apply(
        report,
        "a Service from that pool, and one that wants what no pool has",
        "shop.yaml",
        objects::SHOP,
    );
    let answer = until("its status has an address", FOLLOWS, || stage.address("shop", 8000).is_ok())
        .and_then(|()| stage.address("shop", 8000))
        .and_then(|server| Ok(format!("{} answers at {server}", stage.who("c2", server)?.pod)));
    report.step("does it answer c2?", &stage.by_hand(&["get", "service", "shop"]), answer);
    let counted = until("the pool counts it", FOLLOWS, || {
        let used = stage.lab.kubectl().json(&["get", "addresspool", "shops"]);
        used.is_ok_and(|pool| pool["status"]["ipv4"]["inUse"] == 1)
    });
    let table = ["get", "addresspools", "-o", "wide"];
    let shown = counted.and_then(|()| stage.lab.kubectl().run(&table));
    report.step("how full is it?", &stage.by_hand(&table), shown);
    let refused = refusal(stage, "greedy");
    let events = ["get", "events", "--field-selector", "involvedObject.name=greedy"];
    report.step("what was said to the other?", &stage.by_hand(&events), refused);
    stage.kubectl(report, "both go again", &["delete", "service", "shop", "greedy"]);
}

/// The warning on a Service that gets no address.
fn refusal(stage: &Stage, service: &str) -> Result<String> {
    let selector = format!("involvedObject.name={service},type=Warning");
    let mut said = None;
    until("it has a warning", FOLLOWS, || {
        let list = stage.lab.kubectl().json(&["get", "events", "--field-selector", &selector]);
        let list = list.unwrap_or_default();
        let event = &list["items"][0];
        said = event["message"]
            .as_str()
            .map(|text| format!("{}: {text}", event["reason"].as_str().unwrap_or_default()));
        said.is_some()
    })?;
    said.context("just found")
}

fn scale(stage: &mut Stage, report: &mut Report) {
    report.row(
        "4",
        "kubectl scale",
        "Pods come and go while c1 asks again and again, each time on a new connection.",
    );
    for count in [8, 2, 3] {
        let replicas = format!("--replicas={count}");
        let arguments = ["scale", "deployment/hello", &replicas];
        let answer = stage.under_load(|stage| {
            stage.lab.kubectl().run(&arguments)?;
            stage.rolled_out("hello")?;
            settled(stage, count)
        });
        report.step(&format!("to {count}: did a request fail?"), &stage.by_hand(&arguments), answer);
    }
}

/// Waits until the appliance has so many backends that take new connections, and no other pod is left.
fn settled(stage: &Stage, count: usize) -> Result<()> {
    until("only those are left", super::SOON, || {
        let pods = stage.lab.kubectl().json(&["get", "pods", "-l", "app=hello"]).unwrap_or_default();
        pods["items"].as_array().is_some_and(|items| items.len() == count)
    })?;
    until("the appliance has as many backends", FOLLOWS, || backends(stage).is_ok_and(|found| found == count))
}

/// Backends of the Service `hello` that take new connections.
fn backends(stage: &Stage) -> Result<usize> {
    let shown = stage.appliance.ask(&["show", "services", "-o", "json"]).and_then(Outcome::ok)?;
    let rows: Value = serde_json::from_str(&shown)?;
    let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == "hello");
    let all = row.context("the appliance does not show hello")?["backends"].as_array().cloned();
    Ok(all.into_iter().flatten().filter(|backend| backend["state"] == "Active").count())
}

fn restart(stage: &mut Stage, report: &mut Report) {
    report.row("5", "kubectl rollout restart", "Every pod is replaced by a new one.");
    let arguments = ["rollout", "restart", "deployment/hello"];
    let answer = stage.under_load(|stage| {
        stage.lab.kubectl().run(&arguments)?;
        stage.rolled_out("hello")?;
        settled(stage, 3)
    });
    report.step("did a request fail?", &stage.by_hand(&arguments), answer);
}

fn drain(stage: &mut Stage, report: &mut Report) {
    report.row("6", "kubectl drain", "A node is emptied for maintenance.");
    let arguments = ["drain", "n2", "--ignore-daemonsets", "--timeout=80s"];
    let answer = stage.under_load(|stage| {
        stage.lab.kubectl().wait(&arguments, super::SOON)?;
        stage.rolled_out("hello")?;
        settled(stage, 3)
    });
    report.step("did a request fail?", &stage.by_hand(&arguments), answer);
    stage.kubectl(report, "where are the pods now?", &["get", "pods", "-o", "wide"]);
    stage.kubectl(report, "n2 may have pods again", &["uncordon", "n2"]);
}

fn outage(stage: &mut Stage, report: &mut Report) {
    report.row(
        "7",
        "The API server is away",
        "What it said last goes on being served; what happened meanwhile is caught up with.",
    );
    let mut meanwhile = Ok(String::new());
    let answer = stage.under_load(|stage| {
        stage.lab.plane.kill(Component::ApiServer);
        sleep(AWAY / 2);
        meanwhile = stage.appliance.ask(&["show", "sources"]).and_then(Outcome::ok);
        sleep(AWAY / 2);
        stage.lab.plane.come_back()
    });
    let by_hand = format!(
        "kill {} (kube-apiserver); sleep 8; {} &",
        stage.lab.plane.pid(Component::ApiServer).unwrap_or_default(),
        stage.lab.plane.script(Component::ApiServer).display()
    );
    report.step(
        &format!("it is killed and comes back after {AWAY:?}: did a request fail?"),
        &by_hand,
        answer,
    );
    report.step("what did the appliance say meanwhile?", "", meanwhile);
    let arguments = ["scale", "deployment/hello", "--replicas=4"];
    let caught = stage.lab.kubectl().run(&arguments).and_then(|_| stage.rolled_out("hello")).and_then(|_| {
        let ready = Instant::now();
        settled(stage, 4)?;
        Ok(format!(
            "yes: it has the fourth backend {:.2} s after the rollout was complete",
            ready.elapsed().as_secs_f64()
        ))
    });
    report.step(
        "a fourth pod afterwards: does the appliance follow again?",
        &stage.by_hand(&arguments),
        caught,
    );
}

fn ingress(stage: &mut Stage, report: &mut Report) {
    report.row(
        "8",
        "Ingress",
        "An ingress controller behind a Service of its own, whose address it writes to the Ingresses.",
    );
    stage.apply(report, "the controller: Traefik", "traefik.yaml", ingress::CONTROLLER);
    let ready = ["rollout", "status", "deployment/traefik", "-n", ingress::NAME, "--timeout=80s"];
    stage.kubectl(report, "does it run?", &ready);
    let certificate = match Certificate::create("hello.example", stage.lab.dir()) {
        Ok(certificate) => certificate,
        Err(error) => return report.step("a certificate for hello.example", "", Err(error)),
    };
    let rules = ingress::ingress("default", "hello", "hello.example", "hello");
    let both = format!("{}\n---\n{rules}", certificate.secret("default", "hello"));
    stage.apply(report, "an Ingress for hello.example, and its certificate", "ingress.yaml", &both);
    let filled = until("the Ingress has an address", 3 * FOLLOWS, || ingress_address(stage).is_ok());
    report.step("does it get an address?", "", filled.map(|()| "yes".to_owned()));
    stage.kubectl(
        report,
        "which one has the controller's Service?",
        &["get", "service", "traefik", "-n", ingress::NAME],
    );
    stage.kubectl(report, "and which one the Ingress, under ADDRESS?", &["get", "ingress", "hello"]);
    let address = ingress_address(stage);
    let words = |scheme: &str, address: IpAddr| match scheme {
        "http" => format!("curl -sS --fail --resolve hello.example:80:{address} http://hello.example/"),
        _ => certificate.curl(address).join(" "),
    };
    for scheme in ["http", "https"] {
        let answer = address
            .as_ref()
            .map_err(|error| anyhow!("{error:#}"))
            .and_then(|address| asked(stage, &words(scheme, *address)));
        let by_hand = address.as_ref().map_or_else(
            |_| String::new(),
            |address| format!("ip netns exec fl-{NAME}-c1 {}", words(scheme, *address)),
        );
        report.step(&format!("who answers {scheme}://hello.example/ of c1?"), &by_hand, answer);
    }
}

fn ingress_address(stage: &Stage) -> Result<IpAddr> {
    let found = ingress::addresses(stage.lab.kubectl(), "ingress", "default", "hello")?;
    found.first().copied().context("the Ingress has no address yet")
}

/// The answer to a `curl` of c1, once there is one: the controller may have heard of the Ingress last.
fn asked(stage: &Stage, words: &str) -> Result<String> {
    let mut said = String::new();
    until("it answers", 3 * FOLLOWS, || {
        let answer = stage.lab.host("c1").run(&words.split(' ').collect::<Vec<_>>(), ANSWER);
        let answer = answer.and_then(Outcome::ok).map(|text| said = text);
        answer.is_ok()
    })?;
    Ok(format!("pod {}", WebAnswer::parse(&said)?.pod))
}

fn delete(stage: &mut Stage, report: &mut Report) {
    report.row("9", "kubectl delete", "Pods, then the Service itself.");
    let arguments = ["delete", "pods", "-l", "app=hello", "--wait=false"];
    let answer = stage.under_load(|stage| {
        stage.lab.kubectl().run(&arguments)?;
        sleep(Duration::from_secs(1));
        stage.rolled_out("hello")?;
        settled(stage, 4)
    });
    report.step(
        "all pods at once, which Kubernetes replaces: did a request fail?",
        &stage.by_hand(&arguments),
        answer,
    );
    let server = stage.address("hello", 80);
    stage.kubectl(report, "the Service", &["delete", "service", "hello"]);
    let gone = server.and_then(|server| {
        if let Ok(answer) = stage.lab.host("c1").within(|| lab::http::who(server, ANSWER))? {
            bail!("{} still answers at {server}", answer.pod);
        }
        let used = stage.appliance.ask(&["show", "pools", "-o", "wide"])?.ok()?;
        ensure!(!used.contains("hello"), "its address is still in use:\n{used}");
        Ok(format!("nobody answers at {server}, and it is free for others"))
    });
    report.step("what became of its address?", "fairlead show pools -o wide", gone);
    exposed(stage, report);
}
