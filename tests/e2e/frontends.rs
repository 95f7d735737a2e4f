//! Every kind of frontend, from a client outside, from a node and from a pod, with every protocol.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, FRONTENDS, Frontend};
use lab::echo::{EchoClient, who_udp};
use lab::plan::{self, GATEWAY_INSIDE};
use lab::{process, traffic};

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("pod addresses are routed", pods_are_routed),
    ("HTTP on every frontend, from outside, from a node, from a pod", http_everywhere),
    ("dnat keeps the client's address, for outside clients", dnat_keeps_the_client),
    ("a pod reaches itself through its Service", hairpin),
    ("requests spread over the backends", balance),
    ("a Service whose endpoints are the nodes' own nodePorts", nodes_as_endpoints),
    ("DNS over UDP and TCP on every frontend", dns_everywhere),
    ("MQTT on every frontend", mqtt_everywhere),
    ("TCP and UDP echo on every frontend", echo_everywhere),
    ("RTMP is published on one frontend and played on another", rtmp),
    ("iperf3 over TCP and UDP, both ways", iperf),
    ("100 MB both ways, from two clients in parallel", files),
    ("every packet is accounted for", |world| world.identity_holds()),
];

/// Where a client can sit: host name and whether it is inside.
const VANTAGES: [(&str, bool); 3] = [("c1", false), ("n1", true), ("tool-1", true)];
/// Size of the file that is carried.
const FILE_MIB: usize = 100;

fn pods_are_routed(world: &mut World) -> Result<()> {
    let target = format!("{}:8080", plan::pod("web-2").address()).parse()?;
    let answer = traffic::who(world.host("c1"), target)?;
    ensure!((answer.pod.as_str(), answer.client.as_str()) == ("web-2", "192.0.2.11"), "{answer:?}");
    Ok(())
}

fn http_everywhere(world: &mut World) -> Result<()> {
    let web = catalog::web();
    for (host, inside) in VANTAGES {
        for frontend in FRONTENDS {
            let target = web.target(frontend, "http", inside);
            let what = || format!("{frontend:?} {target} from {host}");
            let answer = traffic::who(world.host(host), target).with_context(what)?;
            ensure!(answer.pod.starts_with("web-"), "{}: {answer:?}", what());
            // externalTrafficPolicy Cluster: SNAT, so the pod sees the appliance. A pod may be told apart and keep
            // its own address only where the reply cannot go round the appliance.
            ensure!(answer.client == GATEWAY_INSIDE.to_string(), "{}: {answer:?}", what());
            traffic::keep_alive(world.host(host), target, 50).with_context(what)?;
        }
    }
    Ok(())
}

fn dnat_keeps_the_client(world: &mut World) -> Result<()> {
    let web = catalog::web_local();
    for frontend in [Frontend::NodePort, Frontend::ExternalIp, Frontend::LoadBalancer] {
        for (host, inside, seen) in [
            ("c1", false, "192.0.2.11"),
            ("c2", false, "192.0.2.12"),
            ("n1", true, "10.0.0.1"),
            ("tool-1", true, "10.0.0.1"),
        ] {
            let target = web.target(frontend, "", inside);
            let what = || format!("{frontend:?} {target} from {host}");
            let answer = traffic::who(world.host(host), target).with_context(what)?;
            ensure!(answer.client == seen, "{}: the pod saw {answer:?}, not {seen}", what());
        }
    }
    Ok(())
}

fn hairpin(world: &mut World) -> Result<()> {
    let target = catalog::web().target(Frontend::ClusterIp, "http", true);
    let counts = traffic::balance(world.host("web-1"), target, 40)?;
    ensure!(counts.contains_key("web-1"), "40 requests of web-1 never came back to it: {counts:?}");
    Ok(())
}

fn balance(world: &mut World) -> Result<()> {
    let target = catalog::web().target(Frontend::LoadBalancer, "http", false);
    let counts = traffic::balance(world.host("c1"), target, 300)?;
    // Three pods, 100 each on average, standard deviation 8.
    let fair = counts.len() == 3 && counts.values().all(|count| (50..=150).contains(count));
    ensure!(fair, "300 requests over three pods: {counts:?}");
    Ok(())
}

fn nodes_as_endpoints(world: &mut World) -> Result<()> {
    let counts = traffic::balance(world.host("c1"), catalog::EDGE, 60)?;
    ensure!(
        counts.len() == 2 && counts.values().all(|count| *count >= 10),
        "60 requests over two nodes: {counts:?}"
    );
    Ok(())
}

fn dns_everywhere(world: &mut World) -> Result<()> {
    let dns = catalog::dns();
    let mut pods = BTreeMap::new();
    for (host, inside) in VANTAGES {
        for frontend in FRONTENDS {
            let (udp, tcp) = (dns.target(frontend, "dns", inside), dns.target(frontend, "dns-tcp", inside));
            let what = || format!("{frontend:?} {udp} from {host}");
            let from = world.host(host);
            *pods.entry(traffic::dns_who(from, udp, false).with_context(what)?).or_insert(0) += 1;
            *pods.entry(traffic::dns_who(from, tcp, true).with_context(what)?).or_insert(0) += 1;
        }
        traffic::dns_truncated(world.host(host), dns.target(Frontend::ClusterIp, "dns", inside))?;
    }
    ensure!(pods.len() == 2, "24 questions, answered by {pods:?}");
    Ok(())
}

fn mqtt_everywhere(world: &mut World) -> Result<()> {
    let mqtt = catalog::mqtt();
    for (host, inside) in VANTAGES {
        for (number, frontend) in FRONTENDS.into_iter().enumerate() {
            let target = mqtt.target(frontend, "", inside);
            let message = format!("{host}-{number}");
            traffic::mqtt(world.host(host), world.host(host), target, &message)
                .with_context(|| format!("{frontend:?} {target} from {host}"))?;
        }
    }
    Ok(())
}

fn echo_everywhere(world: &mut World) -> Result<()> {
    let echo = catalog::echo();
    for (host, inside) in VANTAGES {
        for frontend in FRONTENDS {
            let (tcp, udp) = (echo.target(frontend, "tcp", inside), echo.target(frontend, "udp", inside));
            let what = || format!("{frontend:?} {tcp} from {host}");
            let seen = world.host(host).within(|| -> Result<_> {
                let mut client = EchoClient::connect(tcp)?;
                client.exchange(200_000)?;
                Ok((client.seen.ip(), who_udp(udp)?.1.ip()))
            });
            let (by_tcp, by_udp) = seen?.with_context(what)?;
            // The annotation says dnat: outside clients are seen as themselves on the external frontends.
            if !inside && frontend != Frontend::ClusterIp {
                let own = "192.0.2.11".parse::<std::net::IpAddr>()?;
                ensure!(by_tcp == own && by_udp == own, "{}: the pod saw {by_tcp} and {by_udp}", what());
            }
        }
    }
    Ok(())
}

fn rtmp(world: &mut World) -> Result<()> {
    let rtmp = catalog::rtmp();
    for (number, frontend) in FRONTENDS.into_iter().enumerate() {
        let target = rtmp.target(frontend, "", false);
        let (publisher, player) = (world.host("c1"), world.host("c2"));
        traffic::rtmp(publisher, player, target, &format!("show{number}"), world.lab.dir())
            .with_context(|| format!("{frontend:?} {target}"))?;
    }
    Ok(())
}

fn iperf(world: &mut World) -> Result<()> {
    let iperf = catalog::iperf();
    for (host, inside) in VANTAGES {
        let target = iperf.target(Frontend::LoadBalancer, "tcp", inside);
        for options in
            [&[][..], &["-R"], &["-u", "-b", "20M", "-l", "1200"], &["-u", "-b", "20M", "-l", "1200", "-R"]]
        {
            let result = traffic::iperf(world.host(host), target, 1, options)
                .with_context(|| format!("from {host} {options:?}"))?;
            ensure!(result.mbps > 5.0, "from {host} {options:?}: {result:?}");
        }
    }
    for frontend in FRONTENDS {
        let target = iperf.target(frontend, "tcp", false);
        traffic::iperf(world.host("c1"), target, 1, &[]).with_context(|| format!("{frontend:?}"))?;
    }
    Ok(())
}

fn files(world: &mut World) -> Result<()> {
    let dir = world.lab.dir().to_owned();
    let source = dir.join("source.bin");
    let mut make = Command::new("sh");
    make.arg("-c").arg(format!("head -c {} /dev/urandom >{}", FILE_MIB << 20, source.display()));
    process::run(&mut make, "", Duration::from_secs(60))?.ok()?;
    let pods = ["web-1", "web-2", "web-3"];
    for pod in pods {
        std::fs::hard_link(&source, world.lab.www(pod).join("source.bin"))?;
    }
    let sum = traffic::sha256(&source)?;
    let target = catalog::web().target(Frontend::LoadBalancer, "http", false);
    std::thread::scope(|scope| -> Result<()> {
        let clients = ["c1", "c2"].map(|host| {
            let (from, source, dir) = (world.host(host), &source, &dir);
            scope.spawn(move || -> Result<_> {
                let copy = dir.join(format!("{host}.bin"));
                traffic::download(from, target, "source.bin", &copy)?;
                traffic::upload(from, target, source, &format!("from-{host}.bin"))?;
                traffic::sha256(&copy)
            })
        });
        for client in clients {
            let got = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            ensure!(got == sum, "a download came out changed");
        }
        Ok(())
    })?;
    for host in ["c1", "c2"] {
        let mut places = pods.iter().map(|pod| world.lab.www(pod).join(format!("from-{host}.bin")));
        let place = places.find(|place| place.exists()).context("no pod has the upload")?;
        ensure!(traffic::sha256(&place)? == sum, "the upload of {host} came out changed");
    }
    Ok(())
}
