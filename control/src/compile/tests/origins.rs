//! Whose answers endpoints give to clients outside that keep their address.

use super::*;

const LOCAL: &str = "  externalTrafficPolicy: Local";
const DNAT: &str = "metadata: {annotations: {fairlead.dev/mode: dnat}, ";

fn dnat(manifest: &str) -> String {
    manifest.replace("metadata: {", DNAT)
}

#[test]
fn an_endpoint_answers_for_the_one_address_that_clients_outside_are_told() {
    let ends = ["10.1.1.1", "10.1.2.1 terminating", "10.1.2.2 unready"];
    let two = "  externalIPs: [198.51.100.9]";
    for (name, manifests, want) in [
        ("snat", vec![balancer("web", 1, "")], "-"),
        ("Local: dnat outside only", vec![balancer("web", 1, LOCAL)], "203.0.113.1:80"),
        ("by annotation: the clusterIP too", vec![dnat(&balancer("web", 1, ""))], "203.0.113.1:80"),
        ("no other address", vec![dnat(&service("web", 1, ""))], "10.96.0.1:80"),
        ("nodePort alone", vec![service("web", 1, &format!("  type: NodePort\n{LOCAL}"))], "none"),
        ("two addresses", vec![balancer("web", 1, &format!("{LOCAL}\n{two}"))], "none"),
        (
            "two Services with one endpoint",
            vec![balancer("web", 1, LOCAL), balancer("b", 2, LOCAL), slice("b", &ends)],
            "none",
        ),
        (
            "one of two in snat mode",
            vec![balancer("web", 1, LOCAL), balancer("b", 2, ""), slice("b", &ends)],
            "203.0.113.1:80",
        ),
    ] {
        let slices = [slice("web", &ends)];
        let world = World::off_node(&manifests.into_iter().chain(slices).collect::<Vec<_>>());
        // Whatever state they are in: who drains has clients, and so may have who is not ready.
        for endpoint in ["10.1.1.1:8080", "10.1.2.1:8080", "10.1.2.2:8080"] {
            assert_eq!(world.origin(endpoint), want, "{name}: {endpoint}");
        }
        assert_eq!((world.origin("10.1.1.1:80"), world.origin("10.1.9.9:8080")), ("-".into(), "-".into()));
    }
}

#[test]
fn what_is_known_of_endpoints_follows_services_and_slices() {
    let mut world = World::off_node(&[]);
    let ends = |world: &World| ["10.1.1.1:8080", "10.1.2.1:8080"].map(|end| world.origin(end));
    let both = ["10.1.1.1", "10.1.2.1"];
    let is = |world: &World, want: [&str; 2], when| assert_eq!(ends(world), want, "{when}");
    world.set("service", &balancer("web", 1, LOCAL));
    is(&world, ["-", "-"], "no endpoints");
    world.set("slice", &slice("web", &both));
    is(&world, ["203.0.113.1:80"; 2], "both");
    world.set("slice", &slice("web", &both[..1]));
    is(&world, ["203.0.113.1:80", "-"], "one went");
    world.set("other", &(balancer("b", 2, LOCAL) + "---\n" + &slice("b", &both)));
    is(&world, ["none", "203.0.113.2:80"], "shared");
    world.set("service", &balancer("web", 1, ""));
    is(&world, ["203.0.113.2:80"; 2], "the first one went to snat");
    world.set("service", &balancer("web", 3, LOCAL));
    is(&world, ["none", "203.0.113.2:80"], "and back, at another address");
    world.set("other", "");
    is(&world, ["203.0.113.3:80", "-"], "the other is gone");
    world.set("service", "");
    is(&world, ["-", "-"], "nobody is left");
    assert!(world.tables.origins.is_empty());
}
