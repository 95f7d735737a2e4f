//! Which Services are served, and where (rules B, E, F5-F7, J and conflicts).

use super::*;
use crate::pool::Pool;
use packet::Family;
use tables::PortId;

fn one(service: String) -> World {
    World::off_node(&[service, slice("web", &["10.1.1.1"])])
}

#[test]
fn services_handed_to_another_proxy_are_not_ours() {
    let labelled = service("web", 1, "")
        .replace("{name: web}", "{name: web, labels: {service.kubernetes.io/service-proxy-name: x}}");
    let world = one(labelled);
    // Its address is one that nobody here serves.
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "drop ServiceCidrUnallocated");
    assert_eq!(world.tcp(CLIENT, "192.0.2.1:30001"), "deliver");
}

#[test]
fn headless_external_name_and_unaddressed_services_are_skipped() {
    for (from, to) in [
        ("clusterIP: 10.96.0.1", "clusterIP: None"),
        ("clusterIP: 10.96.0.1", "clusterIP: \"\""),
        ("  clusterIP: 10.96.0.1", "  type: ExternalName\n  clusterIP: 10.96.0.1"),
    ] {
        let world = one(service("web", 1, "").replace(from, to));
        assert_eq!(world.tcp(CLIENT, "192.0.2.1:30001"), "deliver", "{to}");
        assert_eq!(world.problems("web").contains("spec.clusterIP is empty"), to.contains("\"\""));
    }
}

#[test]
fn an_unknown_port_or_protocol_of_a_cluster_address_is_rejected() {
    let world = one(service("web", 1, ""));
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:81"), "reject VipPortUnknown");
    assert_eq!(look(&world.tables, Protocol::Udp, CLIENT, "10.96.0.1:80"), "reject VipPortUnknown");
}

#[test]
fn an_unallocated_address_of_a_service_cidr_is_dropped() {
    let mut world = one(service("web", 1, ""));
    assert_eq!(world.tcp(CLIENT, "10.96.0.2:80"), "drop ServiceCidrUnallocated");
    assert_eq!(world.tcp(CLIENT, "10.97.0.2:80"), "pass");
    let more = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.97.0.0/16]}\n";
    world.set("more", more);
    assert_eq!(world.tcp(CLIENT, "10.97.0.2:80"), "drop ServiceCidrUnallocated", "at once");
}

#[test]
fn an_unknown_port_of_a_balancer_or_external_address_is_left_alone() {
    let world = one(balancer("web", 1, "  externalIPs: [198.51.100.9]"));
    for dst in ["203.0.113.1:81", "198.51.100.9:81"] {
        assert_eq!(world.tcp(CLIENT, dst), "pass", "{dst}");
    }
}

#[test]
fn every_frontend_kind_is_served() {
    let world = one(balancer("web", 1, "  externalIPs: [198.51.100.9]"));
    for (dst, kind) in [
        ("10.96.0.1:80", "ClusterIP"),
        ("203.0.113.1:80", "LoadBalancer"),
        ("198.51.100.9:80", "ExternalIP"),
        ("192.0.2.1:30001", "NodePort"),
        ("10.0.0.1:30001", "NodePort"),
    ] {
        assert_eq!(world.tcp(CLIENT, dst), format!("{kind} snat 10.1.1.1"), "{dst}");
    }
    let report = world.report("web");
    assert_eq!(report.node_port, Some(30_001));
    assert_eq!(
        (report.cluster_ips.len(), report.external_ips.len(), report.load_balancer_ips.len()),
        (1, 1, 1)
    );
    assert_eq!(report.problems, [""; 0]);
}

#[test]
fn a_service_address_is_no_node_port_address() {
    let world = one(balancer("web", 1, ""));
    assert_eq!(world.tcp(CLIENT, "203.0.113.1:30001"), "pass");
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:30001"), "reject VipPortUnknown");
}

#[test]
fn node_ports_are_served_where_the_configuration_says() {
    let settings = Settings { node_port_addresses: vec!["10.0.0.0/8".parse().expect("CIDR")], ..settings() };
    let world = World::new(settings, &[service("web", 1, ""), slice("web", &["10.1.1.1"]), nodes()]);
    assert_eq!(world.tcp(CLIENT, "10.0.0.1:30001"), "NodePort snat 10.1.1.1");
    assert_eq!(world.tcp(CLIENT, "192.0.2.1:30001"), "deliver");
    // The list names no IPv6 network, so that family is not restricted; the Service has no IPv6 though.
    let serves = |address: &str| {
        world.tables.addresses.get(address.parse().expect("address")).is_some_and(|at| at.node_ports)
    };
    assert!(serves("fd00::1") && !serves("192.0.2.1"));
}

#[test]
fn a_proxied_or_unknown_ip_mode_is_not_programmed() {
    for mode in ["Proxy", "Router"] {
        let world = one(balancer("web", 1, "").replace(
            "{ip: 203.0.113.1}",
            &format!("{{ip: 203.0.113.1, ipMode: {mode}}}, {{hostname: x.example}}"),
        ));
        assert_eq!(world.tcp(CLIENT, "203.0.113.1:80"), "pass", "{mode}");
        assert_eq!(world.tcp(CLIENT, "192.0.2.1:30001"), "NodePort snat 10.1.1.1", "{mode}");
    }
}

#[test]
fn a_status_counts_for_type_load_balancer_only() {
    let world = one(balancer("web", 1, "").replace("type: LoadBalancer", "type: ClusterIP"));
    assert_eq!(world.tcp(CLIENT, "203.0.113.1:80"), "pass");
}

#[test]
fn external_ips_must_be_allowed() {
    let world = one(service("web", 1, "  externalIPs: [198.51.100.9, 192.0.2.77, bogus, 2001:db8:99::1]"));
    assert_eq!(world.tcp(CLIENT, "198.51.100.9:80"), "ExternalIP snat 10.1.1.1");
    assert_eq!(world.tcp(CLIENT, "192.0.2.77:80"), "pass");
    assert_eq!(
        look(&world.tables, Protocol::Tcp, "2001:db8::9", "[2001:db8:99::1]:80"),
        "pass",
        "no IPv6 clusterIP"
    );
    let problems = world.problems("web");
    assert!(
        problems.contains("192.0.2.77 refused") && problems.contains("`bogus` is no address"),
        "{problems}"
    );
}

#[test]
fn a_service_cannot_take_the_appliances_or_a_routers_or_a_nodes_address() {
    let anywhere = Settings {
        external_ip_allow: vec!["0.0.0.0/0".parse().expect("CIDR")],
        routes: vec![crate::config::RouteConfig {
            to: "172.16.0.0/12".parse().expect("CIDR"),
            via: vec!["10.0.0.254".parse().expect("address")],
        }],
        ..settings()
    };
    for address in [
        "192.0.2.1",
        "10.0.0.254",
        "10.0.0.11",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
    ] {
        let taking = service("web", 1, &format!("  externalIPs: [{address}]"));
        let world = World::new(anywhere.clone(), &[taking, slice("web", &["10.1.1.1"]), nodes()]);
        let got = world.tcp(CLIENT, &format!("{address}:80"));
        assert!(matches!(got.as_str(), "pass" | "deliver"), "{address}: {got}");
        assert!(world.problems("web").contains(&format!("externalIP {address} refused")), "{address}");
    }
}

#[test]
fn the_oldest_service_wins_a_contested_address_and_the_loser_is_told() {
    let at = |name: &str, ip: u8, created: &str| {
        let meta = format!("{{name: {name}, creationTimestamp: \"{created}\"}}");
        service(name, ip, "  externalIPs: [198.51.100.9]").replace(&format!("{{name: {name}}}"), &meta)
    };
    let (old, young) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    for (a, b, winner) in
        [(young, old, "10.1.2.1"), (old, young, "10.1.1.1"), (old, old, "10.1.1.1"), ("", old, "10.1.2.1")]
    {
        let endpoints = [slice("a", &["10.1.1.1"]), slice("b", &["10.1.2.1"])]
            .concat()
            .replace("apiVersion: disc", "---\napiVersion: disc");
        let mut world = World::off_node(&[at("a", 1, a), at("b", 2, b), endpoints.clone()]);
        assert_eq!(world.tcp(CLIENT, "198.51.100.9:80"), format!("ExternalIP snat {winner}"), "{a} {b}");
        let (loser, other) = if winner == "10.1.1.1" { ("b", "a") } else { ("a", "b") };
        assert!(
            world.problems(loser).contains(&format!("198.51.100.9:80/TCP belongs to default/{other}")),
            "{}",
            world.problems(loser)
        );
        assert_eq!(world.problems(other), "");
        // The winner goes: the loser gets it.
        let left = if loser == "a" { at("a", 1, a) } else { at("b", 2, b) };
        world.set("all", &[left, endpoints, nodes()].join("---\n"));
        assert!(world.tcp(CLIENT, "198.51.100.9:80").starts_with("ExternalIP snat"));
        assert_eq!(world.problems(loser), "");
    }
}

#[test]
fn a_node_port_has_one_owner() {
    let second = service("second", 2, "").replace("30002", "30001");
    let world = World::off_node(&[service("first", 1, ""), second, slice("first", &["10.1.1.1"])]);
    assert_eq!(world.tcp(CLIENT, "192.0.2.1:30001"), "NodePort snat 10.1.1.1");
    assert!(world.problems("second").contains("nodePort 30001/TCP belongs to default/first"));
}

#[test]
fn families_are_served_apart() {
    let dual = service("web", 1, "  clusterIPs: [10.96.0.1, \"fd96::1\"]\n  ipFamilies: [IPv4, IPv6]");
    let six = slice("web", &["fd01:1::1"])
        .replace("addressType: IPv4", "addressType: IPv6")
        .replace("web-1", "web-6");
    let world = World::off_node(&[dual, six]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP reject NoEndpoints");
    assert_eq!(world.tcp("2001:db8::9", "[fd96::1]:80"), "ClusterIP snat [fd01:1::1]");
    assert_eq!(world.tcp("2001:db8::9", "[2001:db8:1::1]:30001"), "NodePort snat [fd01:1::1]");
    let single = World::off_node(&[service("web", 1, "")]);
    assert_eq!(
        single.tcp("2001:db8::9", "[2001:db8:1::1]:30001"),
        "deliver",
        "a family without clusterIP is not served"
    );
}

#[test]
fn protocols_are_separate_spaces() {
    let both = service("dns", 1, "").replace(
        "[{port: 80, nodePort: 30001}]",
        "[{name: t, port: 53}, {name: u, port: 53, protocol: UDP}]",
    );
    let ends = slice("dns", &["10.1.1.1"])
        .replace("[{port: 8080}]", "[{name: t, port: 5353}, {name: u, port: 5354, protocol: UDP}]");
    let world = World::off_node(&[both, ends]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:53"), "ClusterIP snat 10.1.1.1:5353");
    assert_eq!(look(&world.tables, Protocol::Udp, CLIENT, "10.96.0.1:53"), "ClusterIP snat 10.1.1.1:5354");
    assert_eq!(look(&world.tables, Protocol::Sctp, CLIENT, "10.96.0.1:53"), "reject VipPortUnknown");
}

#[test]
fn pools_give_addresses_that_are_answered_on_their_segment() {
    let pool = |first: &str, last: &str| Pool {
        name: first.into(),
        ranges: vec![(first.parse().expect("address"), last.parse().expect("address"))],
        ..Pool::default()
    };
    let settings = Settings {
        pools: vec![pool("192.0.2.100", "192.0.2.100"), pool("203.0.113.200", "203.0.113.201")],
        ..settings()
    };
    let plain = |name, ip| service(name, ip, "  type: LoadBalancer");
    let world = World::new(settings, &[plain("a", 1), plain("b", 2), slice("a", &["10.1.1.1"]), nodes()]);
    assert_eq!(world.tcp(CLIENT, "192.0.2.100:80"), "LoadBalancer snat 10.1.1.1");
    assert_eq!(world.tcp(CLIENT, "203.0.113.200:80"), "LoadBalancer reject NoEndpoints");
    let info = |address: &str| *world.tables.addresses.get(address.parse().expect("address")).expect("known");
    let near = info("192.0.2.100");
    assert!(near.usable && near.answer_arp.contains(PortId(0)) && !near.answer_arp.contains(PortId(1)));
    let far = info("203.0.113.200");
    assert!(!far.usable && far.answer_arp.contains(PortId(0)) && far.answer_arp.contains(PortId(1)));
    assert!(!info("10.96.0.1").answer_arp.contains(PortId(0)), "clusterIPs are routed");
    let mut world = world;
    let mut closed = network();
    closed.ports[0].serves.vip = false;
    world.compiler.set_network(closed);
    let tables = world.compiler.compile();
    let far = tables.addresses.get("203.0.113.200".parse().expect("address")).expect("known").answer_arp;
    assert!(!far.contains(PortId(0)) && far.contains(PortId(1)), "a port that serves no VIP calls nobody");
    assert_eq!(world.compiler.assignments().to_text(), "default/a 192.0.2.100\ndefault/b 203.0.113.200\n");
    assert_eq!(world.compiler.pools()[0].used.len(), 1);
}

#[test]
fn node_ports_and_listeners_are_left_out_of_snat() {
    let settings = Settings { listeners: vec![9472], ..settings() };
    let mut world = World::new(settings, &[service("web", 1, "")]);
    let free = |world: &World, port| world.tables.snat.ports.contains(port);
    assert!(!free(&world, 30_001) && !free(&world, 9472));
    assert!(!free(&world, 30_002), "nor is a number that may become a nodePort");
    assert!(free(&world, 29_999) && free(&world, 32_768));
    world.set("all", "");
    assert_eq!(world.tables.index.node_port(Family::V4, Protocol::Tcp, 30_001), None);
}

#[test]
fn a_node_port_that_appears_moves_no_translated_flow_to_another_worker() {
    let settings = Settings { workers: 3, ..settings() };
    let mut world = World::new(settings.clone(), &[]);
    let before = world.tables.clone();
    let manifests = [service("web", 1, ""), slice("web", &["10.1.1.1"]), nodes()].join("---\n");
    world.set("all", &manifests);
    assert!(world.tables.index.node_port(Family::V4, Protocol::Tcp, 30_001).is_some());
    for port in (1024..=60_999).filter(|port| before.snat.ports.contains(*port)) {
        let end = |text: &str, port| std::net::SocketAddr::new(text.parse().expect("address"), port);
        let reply = packet::AnyKey::new(end("10.1.1.1", 8080), end("10.0.0.1", port), Protocol::Tcp);
        let reply = reply.expect("one family");
        let owner = |tables| tables::owner::of_key(reply, tables);
        assert_eq!(owner(&world.tables), owner(&before), "port {port}");
    }
    assert_eq!(world.problems("web"), "");
    // Outside the range there may be flows; with one worker they are found first.
    let stray = manifests.replace("nodePort: 30001", "nodePort: 20001");
    world.set("all", &stray);
    assert!(world.problems("web").starts_with("nodePort 20001 lies outside kubernetes.nodePortRange"));
    let mut alone = World::new(Settings { workers: 1, ..settings }, &[]);
    alone.set("all", &stray);
    assert_eq!(alone.problems("web"), "");
}

#[test]
fn affinity_and_mode_reach_the_tables() {
    let world = one(service("web", 1, "  sessionAffinity: ClientIP"));
    let service = world.tables.services.iter().next().expect("one");
    assert_eq!(service.affinity_timeout_s, Some(10_800));
}

#[test]
fn a_removed_service_leaves_nothing() {
    let mut world = one(balancer("web", 1, "  externalIPs: [198.51.100.9]"));
    world.set("all", "");
    let tables = &world.tables;
    assert!(tables.services.is_empty() && tables.backends.is_empty() && tables.index.is_empty());
    assert!(tables.addresses.iter().all(|(_, info)| matches!(info.kind, AddressKind::Own(_))));
}
