//! Which endpoints count (rules C and D).

use super::*;

fn web(endpoints: &[&str]) -> World {
    World::off_node(&[service("web", 1, ""), slice("web", endpoints)])
}

#[test]
fn ready_endpoints_are_used_and_others_are_not() {
    let world = web(&[
        "10.1.1.1 @n1",
        "10.1.1.2 @n1 unready",
        "10.1.1.3 @n1 unready unserving",
        "10.1.2.4 terminating",
    ]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1");
}

#[test]
fn serving_and_terminating_ones_are_used_when_none_is_ready() {
    let world = web(&["10.1.1.1 unready", "10.1.1.2 terminating", "10.1.1.3 terminating unserving"]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.2");
}

#[test]
fn no_usable_endpoint_anywhere_rejects() {
    for endpoints in [&[][..], &["10.1.1.1 unready"], &["10.1.1.3 terminating unserving"]] {
        let world = World::off_node(&[balancer("web", 1, ""), slice("web", endpoints)]);
        for dst in ["10.96.0.1:80", "203.0.113.1:80", "192.0.2.1:30001"] {
            assert!(world.tcp(CLIENT, dst).ends_with("reject NoEndpoints"), "{endpoints:?} {dst}");
        }
    }
}

#[test]
fn all_slices_of_a_service_are_joined_whatever_their_names() {
    let other = slice("web", &["10.1.2.2"]).replace("name: web-1", "name: custom");
    let world = World::off_node(&[service("web", 1, ""), slice("web", &["10.1.1.1"]), other]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.2.2");
}

#[test]
fn ports_match_by_name_and_protocol_and_bring_their_own_number() {
    let named = service("web", 1, "").replace("{port: 80,", "{name: http, port: 80,");
    let mut first = slice("web", &["10.1.1.1"]);
    assert_eq!(
        World::off_node(&[named.clone(), first.clone()]).tcp(CLIENT, "10.96.0.1:80"),
        "ClusterIP reject NoEndpoints"
    );
    first =
        first.replace("[{port: 8080}]", "[{name: http, port: 9000}, {name: http, port: 53, protocol: UDP}]");
    let second = slice("web", &["10.1.1.2"])
        .replace("[{port: 8080}]", "[{name: http, port: 9001}]")
        .replace("web-1", "web-2");
    let world = World::off_node(&[named, first, second]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1:9000 10.1.1.2:9001");
}

#[test]
fn of_duplicates_the_one_that_stays_wins() {
    let leaving = slice("web", &["10.1.1.1 terminating unserving"]);
    let staying = slice("web", &["10.1.1.1"]).replace("web-1", "web-2");
    for order in [[leaving.clone(), staying.clone()], [staying, leaving]] {
        let world = World::off_node(&[vec![service("web", 1, "")], order.to_vec()].concat());
        assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1");
    }
}

#[test]
fn endpoints_that_no_station_may_have_are_refused() {
    let world = web(&["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "10.1.1.1"]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1");
    assert_eq!(world.problems("web").matches("refused").count(), 4, "{}", world.problems("web"));
}

#[test]
fn an_endpoint_in_a_service_cidr_is_told() {
    let world = web(&["10.96.0.77"]);
    assert!(world.problems("web").contains("lies in a service CIDR"));
}

#[test]
fn node_hints_decide_for_the_clients_node_when_every_ready_endpoint_has_them() {
    let world = web(&["10.1.1.1 @n1 node=n1", "10.1.2.1 @n2 node=n2", "10.1.2.2 @n2 terminating"]);
    assert_eq!(world.tcp(POD_1, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1");
    assert_eq!(world.tcp(NODE_2, "10.96.0.1:80"), "ClusterIP snat 10.1.2.1");
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.2.1");
}

#[test]
fn one_ready_endpoint_without_hints_switches_them_off() {
    let world = web(&["10.1.1.1 node=n1", "10.1.2.1"]);
    assert_eq!(world.tcp(POD_1, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.2.1");
}

#[test]
fn zone_hints_decide_where_no_node_hint_names_the_node() {
    let world = web(&["10.1.1.1 zone=a node=n1", "10.1.2.1 zone=b node=other", "10.1.2.2 zone=b node=other"]);
    assert_eq!(world.tcp(POD_1, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1");
    assert_eq!(world.tcp(POD_2, "10.96.0.1:80"), "ClusterIP snat 10.1.2.1 10.1.2.2");
}

#[test]
fn a_zone_that_no_hint_names_gets_all() {
    let world = web(&["10.1.1.1 zone=a", "10.1.2.1 zone=c"]);
    assert_eq!(world.tcp(POD_1, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1");
    assert_eq!(world.tcp(POD_2, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.2.1");
}

#[test]
fn hints_follow_a_nodes_zone_label() {
    let mut world = web(&["10.1.1.1 zone=a", "10.1.2.1 zone=b"]);
    assert_eq!(world.tcp(POD_2, "10.96.0.1:80"), "ClusterIP snat 10.1.2.1");
    let manifests = [service("web", 1, ""), slice("web", &["10.1.1.1 zone=a", "10.1.2.1 zone=b"]), nodes()];
    world.set(
        "all",
        &manifests.join("---\n").replace("topology.kubernetes.io/zone: b", "topology.kubernetes.io/zone: a"),
    );
    assert_eq!(world.tcp(POD_2, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1");
}

#[test]
fn an_appliance_that_is_a_node_uses_its_own_hints_for_everybody() {
    let manifests = [service("web", 1, ""), slice("web", &["10.1.1.1 zone=a", "10.1.2.1 zone=b"])];
    let world = World::on_n1(&manifests);
    for client in [CLIENT, POD_2] {
        assert!(world.tcp(client, "10.96.0.1:80").ends_with("10.1.1.1"), "{client}");
    }
}
