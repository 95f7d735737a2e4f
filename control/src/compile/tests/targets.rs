//! Nodes as targets: `fairlead.dev/target: nodePorts`, and the default of the configuration.

use super::*;
use crate::config::Target;

const VIP: &str = "203.0.113.1:80";
const BOTH: [&str; 2] = ["10.1.1.1 @n1", "10.1.2.1 @n2"];

fn at_node_ports(spec: &str) -> String {
    balancer("web", 1, spec)
        .replace("{name: web}", "{name: web, annotations: {fairlead.dev/target: nodePorts}}")
}

fn world(spec: &str, endpoints: &[&str]) -> World {
    World::off_node(&[at_node_ports(spec), slice("web", endpoints)])
}

#[test]
fn flows_go_to_the_nodes_that_serve_the_port() {
    let (cluster, local) = ("", "  externalTrafficPolicy: Local\n");
    let (both, one) = ("10.0.0.11:30001 10.0.0.12:30001", "10.0.0.12:30001");
    for (name, spec, endpoints, want) in [
        ("Cluster", cluster, &BOTH[..], format!("LoadBalancer snat {both}")),
        ("Cluster, endpoints on one Node", cluster, &BOTH[1..], format!("LoadBalancer snat {both}")),
        (
            "Cluster, only terminating ones",
            cluster,
            &["10.1.2.1 @n2 terminating"],
            format!("LoadBalancer snat {both}"),
        ),
        ("Cluster, none", cluster, &[], "LoadBalancer reject NoEndpoints".into()),
        ("Local", local, &BOTH, format!("LoadBalancer dnat {both}")),
        ("Local, endpoints on one Node", local, &BOTH[1..], format!("LoadBalancer dnat {one}")),
        (
            "Local, ready on one Node and terminating on the other",
            local,
            &["10.1.1.1 @n1 terminating", "10.1.2.1 @n2"],
            format!("LoadBalancer dnat {one}"),
        ),
        (
            "Local, only terminating ones",
            local,
            &["10.1.2.1 @n2 terminating"],
            format!("LoadBalancer dnat {one}"),
        ),
        (
            "Local, not ready",
            local,
            &["10.1.2.1 @n2 unready unserving"],
            "LoadBalancer reject NoEndpoints".into(),
        ),
        ("Local, on no Node", local, &["10.1.2.1"], "LoadBalancer reject NoEndpoints".into()),
    ] {
        assert_eq!(world(spec, endpoints).tcp(CLIENT, VIP), want, "{name}");
    }
}

#[test]
fn each_family_has_its_nodes() {
    let spec = "  clusterIPs: [10.96.0.1, \"fd96::1\"]\n  ipFamilies: [IPv4, IPv6]\n  externalIPs: [\"2001:db8:99::1\"]\n";
    let v6 = slice("web", &["fd01:1::1 @n1"]).replace("web-1", "web-6").replace("IPv4", "IPv6");
    let world = World::off_node(&[at_node_ports(spec), slice("web", &BOTH), v6]);
    let seen = world.tcp("2001:db8:5::5", "[2001:db8:99::1]:80");
    assert_eq!(seen, "ExternalIP snat [fd00::11]:30001 [fd00::12]:30001");
}

#[test]
fn nodes_that_load_balancers_leave_out_are_left_out_and_come_back() {
    let mut world = world("", &BOTH);
    for (name, change) in [
        (
            "the label",
            nodes().replace(
                "zone: a}",
                "zone: a, node.kubernetes.io/exclude-from-external-load-balancers: \"\"}",
            ),
        ),
        (
            "the taint",
            nodes().replacen(
                "spec: {",
                "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}], ",
                1,
            ),
        ),
        ("gone", nodes().split_once("---\n").expect("two Nodes").1.to_owned()),
    ] {
        let rest = [at_node_ports(""), slice("web", &BOTH)].join("---\n");
        world.set("all", &format!("{rest}---\n{change}"));
        assert_eq!(world.tcp(CLIENT, VIP), "LoadBalancer snat 10.0.0.12:30001", "{name}");
        world.set("all", &format!("{rest}---\n{}", nodes()));
        assert_eq!(world.tcp(CLIENT, VIP), "LoadBalancer snat 10.0.0.11:30001 10.0.0.12:30001", "{name}");
    }
}

#[test]
fn a_port_without_a_node_port_goes_to_its_pods_and_says_so() {
    let none = at_node_ports("").replace(", nodePort: 30001", "");
    let world = World::off_node(&[none, slice("web", &BOTH)]);
    assert_eq!(world.tcp(CLIENT, VIP), "LoadBalancer snat 10.1.1.1 10.1.2.1");
    assert!(world.problems("web").contains("port 80 has no nodePort"), "{}", world.problems("web"));
}

#[test]
fn the_configuration_gives_the_default_and_an_odd_word_is_told() {
    let configured = Settings { target: Target::NodePorts, ..settings() };
    let manifests = |text: String| [text, slice("web", &BOTH), nodes()];
    let world = World::new(configured.clone(), &manifests(balancer("web", 1, "")));
    assert!(world.tcp(CLIENT, VIP).contains("10.0.0.11:30001"));
    let annotated = |word: &str| at_node_ports("").replace("target: nodePorts", &format!("target: {word}"));
    let world = World::new(configured.clone(), &manifests(annotated("pods")));
    assert!(world.tcp(CLIENT, VIP).contains("10.1.1.1"));
    let world = World::new(configured, &manifests(annotated("hosts")));
    assert!(world.tcp(CLIENT, VIP).contains("10.0.0.11:30001"));
    assert!(world.problems("web").contains("`hosts` is not known"));
}
