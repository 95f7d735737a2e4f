//! The eight rows: pods, services, clusterIP, the control loop, NodePort, externalIPs, ingress, LoadBalancer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::catalog::{self, Entry, Frontend};
use lab::echo::EchoClient;
use lab::http;
use lab::manifests::Member;
use lab::plan::{self, Container};
use lab::process::until;
use lab::traffic;

use super::report::Report;
use super::{NAME, Stage};

/// The rows in order.
pub(super) const ALL: [fn(&mut Stage, &mut Report); 8] =
    [pods, services, cluster_ip, control_loop, node_port, external_ips, ingress, load_balancer];

fn curl(host: &str, target: SocketAddr) -> String {
    format!("ip netns exec fl-{NAME}-{host} curl -s http://{target}/")
}

/// Asks a web Service from a host; the answer names the pod and the client address that it saw.
fn ask(stage: &Stage, report: &mut Report, from: &str, what: &str, target: SocketAddr) {
    let answer = traffic::who(stage.host(from), target)
        .map(|answer| format!("pod {} answered; it saw the client as {}", answer.pod, answer.client));
    report.step(&format!("{from} asks {target} ({what})"), &curl(from, target), answer);
}

fn told(counts: &BTreeMap<String, u32>) -> String {
    counts.iter().map(|(pod, count)| format!("{pod} {count}")).collect::<Vec<_>>().join(", ")
}

fn pods(stage: &mut Stage, report: &mut Report) {
    report.row(
        "1",
        "Pods and the pod network",
        "Containers of a pod share a network stack; pod routes come from the Node objects.",
    );
    let listeners = stage.host("web-1").script("ss -Hltn | awk '{print $4}' | sort -u | tr '\\n' ' '");
    report.step(
        "pod web-1 runs two containers in one network namespace; what do they listen on?",
        &format!("ip netns exec fl-{NAME}-web-1 ss -ltn"),
        listeners,
    );
    let pod = SocketAddr::new(plan::pod("web-2").address().into(), Container::Web.port());
    ask(stage, report, "c1", "a pod on node n2, routed by the appliance", pod);
    let routes = stage.fairlead(&["show", "routes"]).and_then(|text| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("10.244.")).collect();
        ensure!(lines.len() >= 2, "no pod routes in:\n{text}");
        Ok(lines.join("\n"))
    });
    report.step(
        "which pod CIDRs does the appliance route, and to whom?",
        &by_hand(stage, "show routes"),
        routes,
    );
}

fn by_hand(stage: &Stage, what: &str) -> String {
    format!("fairlead {what} --socket {}/admin.sock", stage.lab.dir().display())
}

fn services(stage: &mut Stage, report: &mut Report) {
    report.row("2", "Why services", "One stable address, several pods behind it, reachable from outside.");
    let target = catalog::web().target(Frontend::LoadBalancer, "http", false);
    let spread = traffic::balance(stage.host("c1"), target, 60).and_then(|counts| {
        ensure!(counts.len() == 3, "only {}", told(&counts));
        Ok(told(&counts))
    });
    report.step(&format!("60 requests of c1 to {target}: which pods answer?"), &curl("c1", target), spread);
    let one = traffic::keep_alive(stage.host("c2"), target, 100).map(|pod| format!("all by {pod}"));
    report.step("100 requests of c2 on one connection: who answers?", "", one);
}

fn cluster_ip(stage: &mut Stage, report: &mut Report) {
    report.row(
        "3",
        "Service clusterIP",
        "An address that no bridge or NIC has: 10.3.241.152:80 becomes port 8080 of a healthy pod.",
    );
    let target = catalog::web().target(Frontend::ClusterIp, "http", true);
    let mut owners = Vec::new();
    for host in ["c1", "gw", "n1", "n2", "web-1", "web-2"] {
        if stage.host(host).script("ip -br addr").is_ok_and(|text| text.contains("10.3.241.152")) {
            owners.push(host);
        }
    }
    let nobody = if owners.is_empty() { Ok("nobody".to_owned()) } else { Err(anyhow::anyhow!("{owners:?}")) };
    report.step("who has 10.3.241.152 on an interface?", "", nobody);
    ask(stage, report, "tool-1", "a pod", target);
    ask(stage, report, "n1", "a node", target);
    ask(stage, report, "c1", "from outside, over a route", target);
    let packet = format!("tcp 10.244.1.61:40000 > {target}");
    let why = stage.fairlead(&["trace", "--live", &packet]);
    report.step(
        "why? fairlead explains the packet",
        &by_hand(stage, &format!("trace --live '{packet}'")),
        why,
    );
}

fn control_loop(stage: &mut Stage, report: &mut Report) {
    report.row("4", "The control loop", "A change of the cluster is live within milliseconds; connections drain; a restart changes no address.");
    let web = catalog::web();
    let file = stage.lab.dir().join("manifests/shop-web.endpoints.yaml").display().to_string();
    let gone = readiness(stage, &web);
    report.step(
        "web-2 turns not ready: when did its last new connection begin?",
        &format!("edit {file}"),
        gone,
    );
    let drained = draining(stage);
    report.step("its pod terminates: does a connection that it holds go on?", "", drained);
    let restarted = restart(stage);
    report.step("the appliance is stopped and started: does the address work again?", "", restarted);
    report.not_shown(
        "the same loop driven by an API server's watch; here the source is a directory of manifests",
    );
}

fn readiness(stage: &Stage, web: &Entry) -> Result<String> {
    let target = web.target(Frontend::LoadBalancer, "http", false);
    let without = [Member::ready("web-1"), Member::not_ready("web-2"), Member::ready("web-3")];
    stage.lab.manifests.endpoints(&web.service, &without)?;
    let changed = Instant::now();
    let last = stage.host("c1").within(|| -> Result<Duration> {
        let mut last = Duration::ZERO;
        while changed.elapsed() < Duration::from_millis(400) {
            let begun = changed.elapsed();
            if http::who(target, traffic::ANSWER)?.pod == "web-2" {
                last = begun;
            }
        }
        Ok(last)
    })??;
    stage.lab.manifests.endpoints(&web.service, &web.members)?;
    let restored = Instant::now();
    until("web-2 serves again", Duration::from_secs(2), || {
        traffic::who(stage.host("c1"), target).is_ok_and(|answer| answer.pod == "web-2")
    })?;
    ensure!(last <= Duration::from_millis(50), "{last:?} after the change");
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok(format!(
        "{:.1} ms after the file changed; ready again, it served after {:.1} ms",
        ms(last),
        ms(restored.elapsed())
    ))
}

fn draining(stage: &Stage) -> Result<String> {
    let echo = catalog::echo();
    let target = echo.target(Frontend::LoadBalancer, "tcp", false);
    let mut client = stage.host("c1").within(|| EchoClient::connect(target))??;
    let pod = client.pod.clone();
    let members: Vec<Member> =
        echo.members.iter().map(|m| if m.pod == pod { Member::terminating(m.pod) } else { *m }).collect();
    stage.lab.manifests.endpoints(&echo.service, &members)?;
    thread::sleep(Duration::from_millis(100));
    client.exchange(100_000).context("the connection broke")?;
    for _ in 0..10 {
        let new = stage.host("c1").within(|| EchoClient::connect(target).map(|client| client.pod))??;
        ensure!(new != pod, "a new connection went to the terminating pod");
    }
    stage.lab.manifests.endpoints(&echo.service, &echo.members)?;
    Ok(format!("yes: 100 kB more through {pod}, while 10 new connections went to the others"))
}

fn restart(stage: &mut Stage) -> Result<String> {
    let target = catalog::web().target(Frontend::LoadBalancer, "http", false);
    let mut appliance = stage.appliance.take().context("the appliance is not running")?;
    let (status, took) = appliance.daemon().stop()?;
    ensure!(status.success(), "it ended with {status}");
    drop(appliance);
    let begun = Instant::now();
    stage.appliance = Some(stage.lab.appliance(&crate::options()?)?);
    let ready = begun.elapsed();
    let answer = traffic::who(stage.host("c1"), target)?;
    Ok(format!("stopped in {took:.1?}, ready again after {ready:.1?}; {} answered at {target}", answer.pod))
}

fn node_port(stage: &mut Stage, report: &mut Report) {
    report.row("5", "NodePort", "A port on the appliance's own addresses: 32213, as in the article.");
    let web = catalog::web();
    ask(
        stage,
        report,
        "c1",
        "the appliance's outside address",
        web.target(Frontend::NodePort, "http", false),
    );
    ask(stage, report, "n2", "its inside address", web.target(Frontend::NodePort, "http", true));
    let local = catalog::web_local().target(Frontend::NodePort, "", false);
    ask(stage, report, "c1", "externalTrafficPolicy Local: the client's address is kept", local);
    let spread = traffic::balance(stage.host("c1"), catalog::EDGE, 40).and_then(|counts| {
        ensure!(counts.len() == 2, "only {}", told(&counts));
        Ok(format!("{} (each behind its node's own nodePort {})", told(&counts), plan::NODE_PORT))
    });
    let asked =
        format!("as the external balancer: 40 requests to {}, whose endpoints are the nodes", catalog::EDGE);
    report.step(&asked, &curl("c1", catalog::EDGE), spread);
    report
        .not_shown("annotation fairlead.dev/target: nodePorts, which would derive such endpoints by itself");
}

fn external_ips(stage: &mut Stage, report: &mut Report) {
    report.row("6", "externalIPs", "An outside address listed in the Service, behind an allow-list.");
    ask(
        stage,
        report,
        "c1",
        "an allowed externalIP",
        catalog::web().target(Frontend::ExternalIp, "http", false),
    );
    let mut entry = extra("hijack", 40);
    entry.service.external_ips = vec![[198, 51, 100, 7].into()];
    let refused = (|| {
        stage.lab.manifests.service(&entry.service, &entry.members)?;
        let mut said = String::new();
        until("the problem is shown", Duration::from_secs(2), || {
            said = stage.fairlead(&["show", "services", "-o", "json"]).unwrap_or_default();
            said.contains("198.51.100.7")
        })?;
        let rows: serde_json::Value = serde_json::from_str(&said)?;
        let row = rows
            .as_array()
            .into_iter()
            .flatten()
            .find(|row| row["name"] == "hijack")
            .context("not listed")?;
        stage.lab.manifests.delete(&entry.service)?;
        row["problems"][0].as_str().map(str::to_owned).context("no problem is named")
    })();
    report.step(
        "a Service claims 198.51.100.7, which is not on the list",
        &by_hand(stage, "show services"),
        refused,
    );
}

fn ingress(stage: &mut Stage, report: &mut Report) {
    report.row(
        "7",
        "Beyond HTTP: what an ingress cannot carry",
        "Any TCP or UDP protocol passes: MQTT, RTMP, DNS.",
    );
    let (c1, c2) = (stage.host("c1"), stage.host("c2"));
    let mqtt = catalog::mqtt().target(Frontend::LoadBalancer, "", false);
    let heard = traffic::mqtt(c2, c1, mqtt, "hello").map(|text| format!("c2 heard {text:?}"));
    report.step(
        &format!("MQTT at {mqtt}: c1 publishes, c2 subscribes"),
        &format!("ip netns exec fl-{NAME}-c1 mosquitto_pub -h {} -t lab/x -m hello", mqtt.ip()),
        heard,
    );
    let rtmp = catalog::rtmp().target(Frontend::LoadBalancer, "", false);
    let played =
        traffic::rtmp(c1, c2, rtmp, "show", stage.lab.dir()).map(|()| "c2 decoded 15 frames".to_owned());
    report.step(
        &format!("RTMP at {rtmp}: c1 publishes a picture, c2 plays it"),
        &format!(
            "ip netns exec fl-{NAME}-c1 ffmpeg -re -f lavfi -i testsrc -c:v flv -f flv rtmp://{}/live/x",
            rtmp.ip()
        ),
        played,
    );
    let dns = catalog::dns().target(Frontend::LoadBalancer, "dns", false);
    let named = traffic::dns_who(c1, dns, false).and_then(|udp| {
        Ok(format!("{udp} by UDP, {} by TCP; an answer too long for UDP came by TCP", {
            traffic::dns_truncated(c1, dns)?;
            traffic::dns_who(c1, dns, true)?
        }))
    });
    let dig = format!("ip netns exec fl-{NAME}-c1 dig @{} TXT whoami.lab +short", dns.ip());
    report.step(&format!("DNS at {dns}: which pod answers?"), &dig, named);
    report.not_shown("the ADDRESS column of an Ingress: its controller copies it from a Service's status, which an API server keeps");
}

/// Another Service over the web pods, with nothing but a clusterIP and what the caller adds.
fn extra(name: &str, number: u8) -> Entry {
    let mut entry = catalog::web();
    entry.service.name = name.to_owned();
    entry.service.cluster_ip = [10, 3, 242, number].into();
    entry.service.load_balancer_ip = None;
    entry.service.external_ips.clear();
    entry.service.ports[0].node_port = 0;
    entry
}

fn load_balancer(stage: &mut Stage, report: &mut Report) {
    report.row(
        "8",
        "LoadBalancer",
        "The infrastructure itself: picks the address, answers for it on the wire, balances.",
    );
    let mut entry = extra("fresh", 50);
    let picked = picked_address(stage, &entry);
    let address = picked.as_ref().ok().copied();
    report.step(
        "a new Service of type LoadBalancer: which address does it get, and does it work?",
        &by_hand(stage, "show pools"),
        picked.and_then(|address| {
            let target = SocketAddr::new(address, 80);
            let pod = traffic::who(stage.host("c1"), target)?.pod;
            Ok(format!("{address}, from pool public; {pod} answered there"))
        }),
    );
    if address.is_some() {
        entry.service.load_balancer_ip = address;
        report.step(
            "the Service is deleted",
            "",
            stage.lab.manifests.delete(&entry.service).map(|()| "done".into()),
        );
    }
    let local = catalog::web_local().target(Frontend::LoadBalancer, "", false);
    ask(stage, report, "c2", "an address of the clients' own segment, found by ARP", local);
    let mac = stage.host("c2").script(&format!("ip neigh show {}", local.ip())).and_then(|text| {
        ensure!(text.contains("02:00:00:00:01:01"), "{text}");
        Ok(text)
    });
    report.step(
        "whose MAC is that?",
        &format!("ip netns exec fl-{NAME}-c2 ip neigh show {}", local.ip()),
        mac,
    );
    let counted = accounted(stage);
    report.step(
        "is every packet of this demo accounted for?",
        &format!("ip netns exec fl-{NAME}-gw curl -s http://127.0.0.1:9472/metrics"),
        counted,
    );
    report.not_shown(
        "writing the address to the Service's status (an API server keeps it) and BGP (no router here)",
    );
}

fn picked_address(stage: &Stage, entry: &Entry) -> Result<std::net::IpAddr> {
    stage.lab.manifests.service(&entry.service, &entry.members)?;
    let mut address = None;
    until("it has an address", Duration::from_secs(2), || {
        let text = stage.fairlead(&["show", "services", "-o", "json"]).unwrap_or_default();
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == "fresh").cloned();
        address = row.and_then(|row| row["loadBalancerIPs"][0].as_str().and_then(|text| text.parse().ok()));
        address.is_some()
    })?;
    address.context("no address")
}

fn accounted(stage: &Stage) -> Result<String> {
    let appliance = stage.appliance.as_ref().context("the appliance is not running")?;
    for _ in 0..100 {
        let (came, went) = appliance.metrics(stage.host("gw"))?.identity();
        if came > 0.0 && came == went {
            return Ok(format!("yes: {came} packets came or were made, and as many have a verdict"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("the two sides of the packet identity differ")
}
