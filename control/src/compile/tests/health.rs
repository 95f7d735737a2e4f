//! Who has a healthCheckNodePort and how many endpoints it counts.

use super::*;
use crate::compile::{HealthCheck, HealthChecks};
use crate::model::ObjectKey;

const LOCAL: &str = "  externalTrafficPolicy: Local\n  healthCheckNodePort: 32111";

fn checks(world: &mut World) -> HealthChecks {
    world.compiler.take_health_checks().expect("they changed")
}

fn of_web(checks: &HealthChecks) -> Option<HealthCheck> {
    checks.services.get(&ObjectKey::new("default", "web")).copied()
}

#[test]
fn only_load_balancers_with_policy_local_and_a_port_are_asked() {
    for (service, has) in [
        (balancer("web", 1, LOCAL), true),
        (balancer("web", 1, "  externalTrafficPolicy: Local\n  healthCheckNodePort: 0"), false),
        (balancer("web", 1, "  externalTrafficPolicy: Local"), false),
        (balancer("web", 1, "  healthCheckNodePort: 32111"), false),
        (service("web", 1, &format!("  type: NodePort\n{LOCAL}")), false),
        (
            balancer("web", 1, LOCAL)
                .replace("{name: web}", "{name: web, labels: {service.kubernetes.io/service-proxy-name: x}}"),
            false,
        ),
    ] {
        let mut world = World::off_node(&[service.clone(), slice("web", &["10.1.1.1"])]);
        let want = has.then_some(HealthCheck { port: 32_111, endpoints: 1 });
        assert_eq!(world.compiler.take_health_checks().as_ref().and_then(of_web), want, "{service}");
    }
}

#[test]
fn ready_endpoints_are_counted_by_address_and_on_a_node_only_its_own() {
    let endpoints = slice(
        "web",
        &[
            "10.1.1.1 @n1",
            "10.1.1.2 @n1 unready",
            "10.1.2.1 @n2",
            "10.1.2.2 @n2 unready terminating",
            "127.0.0.1 @n1",
        ],
    );
    let again = endpoints.replace("web-1", "web-2").replace("port: 8080", "port: 8081");
    let manifests = [balancer("web", 1, LOCAL), endpoints, again];
    let count = |mut world: World| of_web(&checks(&mut world)).map(|check| check.endpoints);
    assert_eq!(
        count(World::off_node(&manifests)),
        Some(2),
        "an appliance that goes straight to pods has all"
    );
    assert_eq!(count(World::on_n1(&manifests)), Some(1));
}

#[test]
fn they_are_told_when_they_change_and_left_out_of_snat() {
    // Outside the API server's usual range, so that nothing else leaves it out.
    let spec = LOCAL.replace("32111", "20111");
    let settings = Settings { mirrored: vec!["outside".into()], ..settings() };
    let mut world = World::new(settings, &[balancer("web", 1, &spec), slice("web", &["10.1.1.1"]), nodes()]);
    let told = checks(&mut world);
    let own: Vec<IpAddr> = ["192.0.2.1", "2001:db8:1::1"].map(|text| text.parse().expect("address")).into();
    assert_eq!(told.addresses.iter().copied().collect::<Vec<_>>(), own, "where the kernel has the address");
    assert!(!world.tables.snat.ports.contains(20_111));
    assert_eq!(world.compiler.take_health_checks(), None, "nothing changed since");
    world.set("all", &[balancer("web", 1, &spec), slice("web", &["10.1.1.1 unready"])].join("---\n"));
    assert_eq!(of_web(&checks(&mut world)), Some(HealthCheck { port: 20_111, endpoints: 0 }));
    world.set("all", "");
    assert_eq!(of_web(&checks(&mut world)), None);
    assert!(world.tables.snat.ports.contains(20_111));
}
