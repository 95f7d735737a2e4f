//! Traffic policies and translation, off-node and as a node (rules F, G and P).

use super::*;

const LOCAL_OUT: &str = "  externalTrafficPolicy: Local";
const LOCAL_IN: &str = "  internalTrafficPolicy: Local";
const VIP: &str = "203.0.113.1:80";
const CLUSTER: &str = "10.96.0.1:80";

fn off(spec: &str, endpoints: &[&str]) -> World {
    World::off_node(&[balancer("web", 1, spec), slice("web", endpoints)])
}

fn on(spec: &str, endpoints: &[&str]) -> World {
    World::on_n1(&[balancer("web", 1, spec), slice("web", endpoints)])
}

const BOTH: [&str; 2] = ["10.1.1.1 @n1", "10.1.2.1 @n2"];

#[test]
fn off_node_external_local_keeps_the_client_and_uses_any_endpoint() {
    let world = off(LOCAL_OUT, &BOTH);
    for dst in [VIP, "192.0.2.1:30001"] {
        assert!(world.tcp(CLIENT, dst).ends_with("dnat 10.1.1.1 10.1.2.1"), "{dst}");
        // Replies of a backend to a pod or node would not pass the appliance.
        assert!(world.tcp(POD_1, dst).ends_with("snat 10.1.1.1 10.1.2.1"), "{dst}");
    }
    let leaving = off(LOCAL_OUT, &["10.1.1.1 @n1 terminating"]);
    assert_eq!(leaving.tcp(CLIENT, VIP), "LoadBalancer dnat 10.1.1.1");
}

#[test]
fn off_node_external_cluster_hides_the_client() {
    let world = off("", &BOTH);
    for client in [CLIENT, POD_1, NODE_1] {
        assert_eq!(world.tcp(client, VIP), "LoadBalancer snat 10.1.1.1 10.1.2.1");
    }
}

#[test]
fn off_node_internal_local_is_the_clients_node() {
    let world = off(LOCAL_IN, &["10.1.1.1 @n1", "10.1.1.2 @n1"]);
    for client in [POD_1, NODE_1] {
        assert_eq!(world.tcp(client, CLUSTER), "ClusterIP snat 10.1.1.1 10.1.1.2");
    }
    for client in [POD_2, NODE_2, CLIENT] {
        assert_eq!(world.tcp(client, CLUSTER), "ClusterIP drop NoLocalEndpoints", "{client}");
    }
    // The policy is for clusterIPs alone.
    assert_eq!(world.tcp(POD_2, VIP), "LoadBalancer snat 10.1.1.1 10.1.1.2");
}

#[test]
fn a_local_set_falls_back_to_terminating_ones_of_that_node() {
    let world = off(LOCAL_IN, &["10.1.1.1 @n1 terminating", "10.1.2.1 @n2"]);
    assert_eq!(world.tcp(POD_1, CLUSTER), "ClusterIP snat 10.1.1.1");
    assert_eq!(world.tcp(POD_2, CLUSTER), "ClusterIP snat 10.1.2.1");
}

#[test]
fn local_beats_hints() {
    let world = off(LOCAL_IN, &["10.1.1.1 @n1 zone=b", "10.1.2.1 @n2 zone=b"]);
    assert_eq!(world.tcp(POD_1, CLUSTER), "ClusterIP snat 10.1.1.1");
}

#[test]
fn internal_local_without_any_endpoint_rejects() {
    let world = off(LOCAL_IN, &["10.1.1.1 @n1 unready"]);
    for client in [POD_1, CLIENT] {
        assert_eq!(world.tcp(client, CLUSTER), "ClusterIP reject NoEndpoints");
    }
}

/// kube-proxy asks the kernel which sources are local; the status names one address a family.
#[test]
fn on_node_every_own_address_is_the_node() {
    let world = on(LOCAL_OUT, &["10.1.2.1 @n2"]);
    for own in [NODE_1, "192.0.2.1", "10.0.0.1"] {
        assert_eq!(world.tcp(own, VIP), "LoadBalancer snat 10.1.2.1", "{own}");
    }
    assert_eq!(world.tcp(NODE_2, VIP), "LoadBalancer drop NoLocalEndpoints");
}

#[test]
fn on_node_an_address_that_a_port_gets_later_is_the_node_too() {
    let mut world = on(LOCAL_OUT, &["10.1.2.1 @n2"]);
    assert_eq!(world.tcp("192.0.2.9", VIP), "LoadBalancer drop NoLocalEndpoints");
    let mut network = network();
    network.ports[0].addresses.push("192.0.2.9/24".parse().expect("address"));
    world.compiler.set_network(network);
    world.tables = world.compiler.compile();
    assert_eq!(world.tcp("192.0.2.9", VIP), "LoadBalancer snat 10.1.2.1");
}

#[test]
fn on_node_internal_cluster_translates_everybody_but_pods() {
    let world = on("", &BOTH);
    assert_eq!(world.tcp(CLIENT, CLUSTER), "ClusterIP snat 10.1.1.1 10.1.2.1");
    assert_eq!(world.tcp(NODE_2, CLUSTER), "ClusterIP snat 10.1.1.1 10.1.2.1");
    assert_eq!(world.tcp(POD_2, CLUSTER), "ClusterIP dnat 10.1.1.1 10.1.2.1");
}

#[test]
fn on_node_without_pod_cidrs_cluster_addresses_are_not_translated() {
    let bare =
        nodes().lines().filter(|line| !line.contains("podCIDRs")).collect::<Vec<_>>().join("\n") + "\n";
    let settings = Settings { node_name: Some("n1".into()), ..settings() };
    let world = World::new(settings, &[balancer("web", 1, LOCAL_OUT), slice("web", &["10.1.2.1 @n2"]), bare]);
    assert_eq!(world.tcp(CLIENT, CLUSTER), "ClusterIP dnat 10.1.2.1");
    assert_eq!(world.tcp(POD_1, VIP), "LoadBalancer drop NoLocalEndpoints", "no shortcut for pods either");
}

#[test]
fn on_node_internal_local_uses_this_node_for_everybody() {
    let world = on(LOCAL_IN, &BOTH);
    for client in [CLIENT, POD_2] {
        assert!(world.tcp(client, CLUSTER).ends_with(" 10.1.1.1"), "{client}");
    }
    let elsewhere = on(LOCAL_IN, &["10.1.2.1 @n2"]);
    assert_eq!(elsewhere.tcp(POD_2, CLUSTER), "ClusterIP drop NoLocalEndpoints");
}

#[test]
fn on_node_external_cluster_always_translates() {
    let world = on("", &BOTH);
    for client in [CLIENT, POD_1, NODE_1] {
        assert_eq!(world.tcp(client, VIP), "LoadBalancer snat 10.1.1.1 10.1.2.1");
    }
}

#[test]
fn on_node_external_local_has_three_classes_of_clients() {
    let world = on(LOCAL_OUT, &["10.1.2.1 @n2"]);
    assert_eq!(world.tcp(POD_2, VIP), "LoadBalancer dnat 10.1.2.1", "pods: all endpoints, no translation");
    assert_eq!(world.tcp(NODE_1, VIP), "LoadBalancer snat 10.1.2.1", "this node: all endpoints, translated");
    for client in [CLIENT, NODE_2] {
        assert_eq!(world.tcp(client, VIP), "LoadBalancer drop NoLocalEndpoints", "others: local endpoints");
    }
    let world = on(LOCAL_OUT, &BOTH);
    assert_eq!(world.tcp(CLIENT, VIP), "LoadBalancer dnat 10.1.1.1");
    // The fallback is decided apart for the two sets.
    let world = on(LOCAL_OUT, &["10.1.1.1 @n1 terminating", "10.1.2.1 @n2"]);
    assert_eq!(world.tcp(CLIENT, VIP), "LoadBalancer dnat 10.1.1.1");
    assert_eq!(world.tcp(POD_1, VIP), "LoadBalancer dnat 10.1.2.1");
}

#[test]
fn the_external_policy_means_nothing_to_cluster_addresses() {
    assert_eq!(on(LOCAL_OUT, &["10.1.2.1 @n2"]).tcp(CLIENT, CLUSTER), "ClusterIP snat 10.1.2.1");
}

#[test]
fn source_ranges_guard_load_balancer_addresses_before_anything_else() {
    let ranges = "  loadBalancerSourceRanges: [\" 198.51.100.0/24 \"]";
    for endpoints in [&BOTH[..], &[]] {
        let world = off(ranges, endpoints);
        assert_eq!(world.tcp(CLIENT, VIP), "LoadBalancer drop SourceRange");
        assert_eq!(world.tcp(POD_1, VIP), "LoadBalancer drop SourceRange");
        assert!(!world.tcp("198.51.100.7", VIP).contains("SourceRange"));
        assert!(!world.tcp(CLIENT, "192.0.2.1:30001").contains("SourceRange"));
        assert!(!world.tcp(CLIENT, CLUSTER).contains("SourceRange"));
    }
}

#[test]
fn ranges_of_the_other_family_or_of_everybody_leave_it_open() {
    for ranges in ["[\"2001:db8::/32\"]", "[10.9.0.0/16, 0.0.0.0/0]"] {
        let world = off(&format!("  loadBalancerSourceRanges: {ranges}"), &BOTH);
        assert!(world.tcp(CLIENT, VIP).starts_with("LoadBalancer snat"), "{ranges}");
    }
}

#[test]
fn a_range_with_the_nodes_address_admits_the_vip_itself() {
    let ranges = "  loadBalancerSourceRanges: [10.0.0.0/24]";
    assert_eq!(off(ranges, &BOTH).tcp("203.0.113.1", VIP), "LoadBalancer drop SourceRange");
    assert!(on(ranges, &BOTH).tcp("203.0.113.1", VIP).starts_with("LoadBalancer snat"));
}

#[test]
fn limits_of_new_flows_are_shared_by_the_workers() {
    let asked = |rate: &str| {
        let annotations =
            format!("{{name: web, annotations: {{fairlead.dev/new-flows-per-second: \"{rate}\"}}}}");
        balancer("web", 1, "").replace("{name: web}", &annotations)
    };
    let protection = tables::Limits { flows_per_source: 9, flows_per_service: 1, ..Default::default() };
    let settings = Settings { workers: 4, protection, ..settings() };
    for (rate, want) in [("100", Some(25)), ("2", Some(1)), ("0", Some(0)), ("many", None)] {
        let world = World::new(settings.clone(), &[asked(rate), slice("web", &BOTH), nodes()]);
        let id = world.tables.index.vip("203.0.113.1".parse().expect("address"), Protocol::Tcp, 80);
        let service = world.tables.service(id.expect("served").service).expect("live");
        assert_eq!(service.flows_per_second, want, "{rate}");
        assert_eq!(world.problems("web").contains("`many` is not valid"), want.is_none());
        let limits = world.tables.limits;
        assert_eq!(
            (limits.flows_per_source, limits.flows_per_service, limits.kernel),
            (3, 1, protection.kernel)
        );
    }
}

#[test]
fn what_senders_are_told_is_as_the_settings_say_from_one_version_to_the_next() {
    let answers = tables::Answers { echo: false, reject: tables::RejectForm::Silent, takes_midstream: false };
    let mut world = World::off_node(&[balancer("web", 1, ""), slice("web", &BOTH)]);
    assert_eq!(world.tables.answers, tables::Answers::default());
    for wanted in [answers, tables::Answers::default()] {
        world.compiler.set_settings(Settings { answers: wanted, ..settings() });
        assert_eq!(world.compiler.compile().answers, wanted);
    }
}

#[test]
fn modes_can_be_asked_for() {
    let asked = |mode: &str| {
        balancer("web", 1, LOCAL_OUT)
            .replace("{name: web}", &format!("{{name: web, annotations: {{fairlead.dev/mode: {mode}}}}}"))
    };
    let world = |mode: &str| World::off_node(&[asked(mode), slice("web", &BOTH)]);
    assert!(world("snat").tcp(CLIENT, VIP).contains(" snat "));
    assert!(world("dnat").tcp(CLIENT, CLUSTER).contains(" dnat "));
    assert!(world("dnat").tcp(POD_1, CLUSTER).contains(" snat "), "replies between pods would not pass");
    let odd = world("dsr");
    assert!(odd.tcp(CLIENT, VIP).contains(" dnat ") && odd.problems("web").contains("`dsr` is not known"));
    let configured = Settings { mode: crate::config::Mode::Dnat, ..settings() };
    let world = World::new(configured, &[balancer("web", 1, ""), slice("web", &BOTH), nodes()]);
    assert!(world.tcp(CLIENT, VIP).contains(" dnat "));
}

/// How many of the slots of the VIP's table each backend has, of a thousand, by its address.
fn shares(world: &World) -> Vec<(String, usize)> {
    let frontend = world.tables.index.vip("203.0.113.1".parse().expect("address"), Protocol::Tcp, 80);
    let service = world.tables.service(frontend.expect("served").service).expect("live");
    let pool = &service.pools[0];
    let picked = (0..100_000u64).filter_map(|n| pool.pick(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let mut counts = std::collections::BTreeMap::new();
    picked.for_each(|id| *counts.entry(id).or_insert(0usize) += 1);
    let address = |id| world.tables.backend(id).expect("live").address.to_string();
    let mut shares: Vec<_> =
        counts.into_iter().map(|(id, count)| (address(id), (count + 50) / 100)).collect();
    shares.sort();
    shares
}

#[test]
fn endpoints_have_weights_by_address_or_node() {
    const PODS: [&str; 4] = ["10.1.1.1 @n1", "10.1.1.2 @n1", "10.1.2.1 @n2", "10.1.2.2 @n2"];
    let weighted = |weights: &str| {
        let annotations = format!("{{name: web, annotations: {{fairlead.dev/weights: \"{weights}\"}}}}");
        let web = balancer("web", 1, "").replace("{name: web}", &annotations);
        World::new(settings(), &[web, slice("web", &PODS), nodes()])
    };
    for (weights, want) in [
        ("", [250, 250, 250, 250]),
        ("node/n1=3", [375, 375, 125, 125]),
        ("node/n1 = 3, 10.1.1.2 = 1", [500, 167, 167, 167]),
        ("node/n2=0,10.1.1.1=4", [800, 200, 0, 0]),
        ("node/n1=0,node/n2=0", [250, 250, 250, 250]),
        ("node/n3=7,fd00::1=9", [250, 250, 250, 250]),
    ] {
        let world = weighted(weights);
        let shares = shares(&world);
        for (pod, want) in PODS.iter().zip(want) {
            let address = pod.split(' ').next().expect("an address");
            let share = shares.iter().find(|(at, _)| at == address).map_or(0, |(_, share)| *share);
            assert!(share.abs_diff(want) <= 20, "{weights}: {address} {share}, {want} is right");
        }
        assert!(!world.problems("web").contains("weights"), "{}", world.problems("web"));
    }
    for bad in ["n1=3", "node/n1", "node/n1=-1", "10.1.1.1=1001", "10.1.1=2"] {
        let world = weighted(&format!("{bad}, node/n1=3"));
        assert!(
            world.problems("web").contains(&format!("`{bad}` is not valid")),
            "{}",
            world.problems("web")
        );
        assert_eq!(shares(&world).len(), 4);
    }
}

#[test]
fn udp_flows_get_the_next_longer_idle_timeout() {
    let asked = |idle: &str| {
        let annotations =
            format!("{{name: web, annotations: {{fairlead.dev/udp-idle-timeout: \"{idle}\"}}}}");
        balancer("web", 1, "").replace("{name: web}", &annotations)
    };
    for (idle, want) in
        [("10m", Some(600)), ("61s", Some(90)), ("1500ms", Some(2)), ("8d", None), ("soon", None)]
    {
        let world = World::new(settings(), &[asked(idle), slice("web", &BOTH), nodes()]);
        let id = world.tables.index.vip("203.0.113.1".parse().expect("address"), Protocol::Tcp, 80);
        let service = world.tables.service(id.expect("served").service).expect("live");
        assert_eq!(service.udp_idle.seconds(), want, "{idle}");
        assert_eq!(world.problems("web").contains("is not usable"), want.is_none());
    }
}

/// A load balancer with annotations.
fn listed(annotations: &str) -> World {
    let annotated = format!("{{name: web, annotations: {{{annotations}}}}}");
    let web = balancer("web", 1, "").replacen("{name: web}", &annotated, 1);
    World::off_node(&[web, slice("web", &BOTH)])
}

#[test]
fn lists_decide_at_every_frontend_and_the_longest_prefix_of_both_counts() {
    let deny = "fairlead.dev/deny: \"203.0.113.0/24 198.51.100.7\"";
    let allow = "fairlead.dev/allow: \"203.0.113.250, 198.51.100.0/24\"";
    for (annotations, client, admitted) in [
        (deny.to_owned(), CLIENT, false),
        (deny.to_owned(), "198.51.100.8", true),
        (allow.to_owned(), CLIENT, true),
        (allow.to_owned(), "203.0.113.1", false),
        (allow.to_owned(), POD_1, false),
        (format!("{allow}, {deny}"), CLIENT, true),
        (format!("{allow}, {deny}"), "203.0.113.1", false),
        (format!("{allow}, {deny}"), "198.51.100.7", false),
        ("fairlead.dev/allow: \"\"".to_owned(), CLIENT, false),
        ("fairlead.dev/deny: \"\"".to_owned(), CLIENT, true),
        ("fairlead.dev/allow: 192.0.2.1, fairlead.dev/deny: 192.0.2.1".to_owned(), "192.0.2.1", false),
    ] {
        let world = listed(&annotations);
        for dst in [VIP, CLUSTER, "192.0.2.1:30001"] {
            let said = world.tcp(client, dst);
            assert_eq!(
                !said.contains("drop SourceListed"),
                admitted,
                "{annotations}: {client} > {dst}: {said}"
            );
        }
    }
}

#[test]
fn a_bad_entry_of_a_list_is_told_and_lets_nobody_in() {
    let world = listed("fairlead.dev/allow: \"203.0.113.0/33\"");
    assert!(world.problems("web").contains("annotation fairlead.dev/allow: `203.0.113.0/33` is not valid"));
    assert!(world.tcp(CLIENT, VIP).contains("drop SourceListed"));
}
