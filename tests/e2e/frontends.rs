//! Every kind of frontend, from a client outside, from a node and from a pod, with every protocol.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Entry, FRONTENDS, Frontend};
use lab::echo::{EchoClient, who_udp};
use lab::{plan, process, traffic};

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("pod addresses are routed", pods_are_routed),
    ("HTTP on every frontend, from outside, from a node, from a pod", |world| http(world, &catalog::web())),
    ("HTTP over IPv6 on every frontend", |world| http(world, &catalog::web().over_ipv6())),
    ("dnat keeps the client's address, for outside clients", |world| dnat(world, &catalog::web_local())),
    ("dnat over IPv6 keeps the client's address", |world| dnat(world, &catalog::web_local().over_ipv6())),
    ("a pod reaches itself through its Service", |world| hairpin(world, &catalog::web())),
    ("a pod reaches itself over IPv6", |world| hairpin(world, &catalog::web().over_ipv6())),
    ("requests spread over the backends", |world| balance(world, &catalog::web())),
    ("requests over IPv6 spread over the backends", |world| balance(world, &catalog::web().over_ipv6())),
    ("a Service whose endpoints are the nodes' own nodePorts", nodes_as_endpoints),
    ("DNS over UDP and TCP on every frontend", |world| dns(world, &catalog::dns())),
    ("DNS over IPv6 on every frontend", |world| dns(world, &catalog::dns().over_ipv6())),
    ("MQTT on every frontend", |world| mqtt(world, &catalog::mqtt())),
    ("MQTT over IPv6 on every frontend", |world| mqtt(world, &catalog::mqtt().over_ipv6())),
    ("TCP and UDP echo on every frontend", |world| echo(world, &catalog::echo())),
    ("TCP and UDP echo over IPv6 on every frontend", |world| echo(world, &catalog::echo().over_ipv6())),
    ("RTMP is published on one frontend and played on another", rtmp),
    ("iperf3 over TCP and UDP, both ways", |world| iperf(world, &catalog::iperf())),
    ("iperf3 over IPv6", |world| iperf(world, &catalog::iperf().over_ipv6())),
    ("100 MB both ways, from two clients in parallel", files),
    ("every packet is accounted for", |world| world.identity_holds()),
];

/// Where a client can sit: host name and whether it is inside.
const VANTAGES: [(&str, bool); 3] = [("c1", false), ("n1", true), ("tool-1", true)];
/// Size of the file that is carried.
const FILE_MIB: usize = 100;

/// What pods see of clients.
struct Seen {
    c1: &'static str,
    c2: &'static str,
    /// Whose source is translated.
    translated: &'static str,
}

fn seen(entry: &Entry) -> Seen {
    if entry.service.is_ipv6() {
        Seen { c1: "2001:db8:1::11", c2: "2001:db8:1::12", translated: "2001:db8:2::1" }
    } else {
        Seen { c1: "192.0.2.11", c2: "192.0.2.12", translated: "10.0.0.1" }
    }
}

fn pods_are_routed(world: &mut World) -> Result<()> {
    let pod = plan::pod("web-2");
    for (address, client) in
        [(IpAddr::V4(pod.address()), "192.0.2.11"), (IpAddr::V6(pod.address6()), "2001:db8:1::11")]
    {
        let answer = traffic::who(world.host("c1"), (address, 8080).into())?;
        ensure!((answer.pod.as_str(), answer.client.as_str()) == ("web-2", client), "{answer:?}");
    }
    Ok(())
}

fn http(world: &mut World, web: &Entry) -> Result<()> {
    for (host, inside) in VANTAGES {
        for frontend in FRONTENDS {
            let target = web.target(frontend, "http", inside);
            let what = || format!("{frontend:?} {target} from {host}");
            let answer = traffic::who(world.host(host), target).with_context(what)?;
            ensure!(answer.pod.starts_with("web-"), "{}: {answer:?}", what());
            // externalTrafficPolicy Cluster: SNAT, so the pod sees the appliance. A pod may be told apart and keep
            // its own address only where the reply cannot go round the appliance.
            ensure!(answer.client == seen(web).translated, "{}: {answer:?}", what());
            traffic::keep_alive(world.host(host), target, 50).with_context(what)?;
        }
    }
    Ok(())
}

fn dnat(world: &mut World, web: &Entry) -> Result<()> {
    let Seen { c1, c2, translated } = seen(web);
    for frontend in [Frontend::NodePort, Frontend::ExternalIp, Frontend::LoadBalancer] {
        for (host, inside, seen) in
            [("c1", false, c1), ("c2", false, c2), ("n1", true, translated), ("tool-1", true, translated)]
        {
            let target = web.target(frontend, "", inside);
            let what = || format!("{frontend:?} {target} from {host}");
            let answer = traffic::who(world.host(host), target).with_context(what)?;
            ensure!(answer.client == seen, "{}: the pod saw {answer:?}, not {seen}", what());
        }
    }
    Ok(())
}

fn hairpin(world: &mut World, web: &Entry) -> Result<()> {
    let target = web.target(Frontend::ClusterIp, "http", true);
    let counts = traffic::balance(world.host("web-1"), target, 40)?;
    ensure!(counts.contains_key("web-1"), "40 requests of web-1 never came back to it: {counts:?}");
    Ok(())
}

fn balance(world: &mut World, web: &Entry) -> Result<()> {
    let target = web.target(Frontend::LoadBalancer, "http", false);
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

fn dns(world: &mut World, dns: &Entry) -> Result<()> {
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

fn mqtt(world: &mut World, mqtt: &Entry) -> Result<()> {
    for (host, inside) in VANTAGES {
        for (number, frontend) in FRONTENDS.into_iter().enumerate() {
            let target = mqtt.target(frontend, "", inside);
            let message = format!("{}-{host}-{number}", mqtt.service.name);
            traffic::mqtt(world.host(host), world.host(host), target, &message)
                .with_context(|| format!("{frontend:?} {target} from {host}"))?;
        }
    }
    Ok(())
}

fn echo(world: &mut World, echo: &Entry) -> Result<()> {
    for (host, inside) in VANTAGES {
        for frontend in FRONTENDS {
            let (tcp, udp) = (echo.target(frontend, "tcp", inside), echo.target(frontend, "udp", inside));
            let what = || format!("{frontend:?} {tcp} from {host}");
            let sides = world.host(host).within(|| -> Result<_> {
                let mut client = EchoClient::connect(tcp)?;
                client.exchange(200_000)?;
                Ok((client.seen.ip(), who_udp(udp)?.1.ip()))
            });
            let (by_tcp, by_udp) = sides?.with_context(what)?;
            // The annotation says dnat: outside clients are seen as themselves on the external frontends.
            if !inside && frontend != Frontend::ClusterIp {
                let own = seen(echo).c1.parse::<IpAddr>()?;
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

fn iperf(world: &mut World, iperf: &Entry) -> Result<()> {
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
