//! What failing health checks do to new flows, and which probes are wanted.

use std::collections::BTreeMap;

use tables::BackendState;

use super::*;
use crate::probe::{Check, Fault, Health, Probe};

const BAD: Health = Health::Failing(Fault::Refused);

/// A Service whose backends are checked, by annotation.
fn checked(text: &str) -> String {
    let annotated = format!("{{name: web, annotations: {{fairlead.dev/health-check: {text}}}}}");
    service("web", 1, "").replacen("{name: web}", &annotated, 1)
}

fn world(service: String, endpoints: &[&str]) -> World {
    let settings = Settings { probes_reach: true, ..settings() };
    World::new(settings, &[service, slice("web", endpoints), nodes()])
}

fn names(world: &mut World) -> Vec<String> {
    let wanted = world.compiler.take_wanted_probes();
    wanted.iter().map(|(probe, wanted)| format!("{}{probe}", if *wanted { "+" } else { "-" })).collect()
}

/// Says that the backends at these addresses are so.
fn note(world: &mut World, health: Health, addresses: &[&str]) {
    let check = Check::default().read("tcp").unwrap();
    let probe = |at: &&str| {
        let at = SocketAddr::new(at.parse().unwrap(), 8080);
        (check.of(at, Protocol::Tcp).unwrap(), health)
    };
    let news: BTreeMap<Probe, Health> = addresses.iter().map(probe).collect();
    world.compiler.note_health(news);
    world.tables = world.compiler.compile();
}

#[test]
fn a_backend_that_fails_gets_no_new_flows_until_it_is_good_again() {
    let mut world = world(checked("tcp"), &["10.1.1.1", "10.1.1.2", "10.1.1.3 unready"]);
    assert_eq!(names(&mut world), ["+tcp 10.1.1.1:8080", "+tcp 10.1.1.2:8080"], "ready ones are asked");
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.1.2", "not known yet");
    note(&mut world, BAD, &["10.1.1.1"]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.2");
    let states: Vec<_> = world.report("web").backends.iter().map(|one| (one.state, one.health)).collect();
    let unknown = Some(Health::Unknown(None));
    let want =
        [(BackendState::Down, Some(BAD)), (BackendState::Active, unknown), (BackendState::Draining, None)];
    assert_eq!(states, want);
    note(&mut world, Health::Good, &["10.1.1.1"]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.1.2");
    assert_eq!(world.problems("web"), "");
    assert_eq!(names(&mut world), [""; 0], "nothing new is wanted");
}

#[test]
fn where_all_ready_ones_fail_all_are_used_and_it_is_told() {
    let mut world = world(checked("tcp"), &["10.1.1.1", "10.1.1.2", "10.1.1.3 terminating"]);
    note(&mut world, BAD, &["10.1.1.1", "10.1.1.2"]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.1.2");
    assert!(
        world.problems("web").contains("every ready endpoint of port 80 fails"),
        "{}",
        world.problems("web")
    );
    note(&mut world, Health::Good, &["10.1.1.2"]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.2");
    assert_eq!(world.problems("web"), "");
}

#[test]
fn what_kubernetes_says_comes_first() {
    let mut world = world(checked("tcp"), &["10.1.1.1 unready", "10.1.1.2"]);
    note(&mut world, Health::Good, &["10.1.1.1"]);
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.2");
    let none_ready = slice("web", &["10.1.1.1 unready", "10.1.1.2 unready"]);
    world.set("all", &[checked("tcp"), none_ready, nodes()].join("---\n"));
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP reject NoEndpoints");
    assert_eq!(names(&mut world), ["-tcp 10.1.1.2:8080"]);
}

#[test]
fn a_probe_is_asked_once_for_all_who_want_it_and_as_long_as_somebody_does() {
    let other = checked("tcp")
        .replace("name: web,", "name: other,")
        .replace("10.96.0.1", "10.96.0.2")
        .replace("30001", "30002");
    let slices = [slice("web", &["10.1.1.1"]), slice("other", &["10.1.1.1"])];
    let both = [&[checked("tcp"), other.clone()][..], &slices].concat().join("---\n");
    let mut world = World::new(Settings { probes_reach: true, ..settings() }, &[both]);
    assert_eq!(names(&mut world), ["+tcp 10.1.1.1:8080"]);
    note(&mut world, BAD, &["10.1.1.1"]);
    assert!(world.problems("other").contains("fails") && world.problems("web").contains("fails"));
    world.set("all", &[&[checked("none"), other][..], &slices].concat().join("---\n"));
    assert_eq!(names(&mut world), [""; 0]);
    assert!(world.problems("other").contains("fails") && !world.problems("web").contains("fails"));
    world.set("all", &slices.join("---\n"));
    assert_eq!(names(&mut world), ["-tcp 10.1.1.1:8080"]);
}

#[test]
fn a_change_compiles_the_services_of_that_backend_alone() {
    let mut manifests = vec![checked("tcp"), slice("web", &["10.1.1.1", "10.1.1.2"])];
    manifests.extend((2..50).map(|ip| service(&format!("s{ip}"), ip, "")));
    let mut world = World::new(Settings { probes_reach: true, ..settings() }, &manifests);
    let before = world.tables.clone();
    note(&mut world, BAD, &["10.1.1.1"]);
    assert!(world.tables.services.chunks_changed_since(&before.services) <= 1);
    assert!(world.tables.backends.chunks_changed_since(&before.backends) <= 2);
    let before = world.tables.clone();
    note(&mut world, Health::Failing(Fault::TimedOut), &["10.1.1.1"]);
    assert_eq!(
        world.tables.services.chunks_changed_since(&before.services),
        0,
        "another reason is no change"
    );
}

#[test]
fn the_configuration_says_what_services_do_not() {
    let check = Check::default().read("auto interval=30s").unwrap();
    let settings = Settings { check, probes_reach: true, ..settings() };
    let ports =
        "[{name: a, port: 80}, {name: b, port: 53, protocol: UDP}, {name: c, port: 9, protocol: SCTP}]";
    let plain = service("web", 1, "").replace("[{port: 80, nodePort: 30001}]", ports);
    let many = slice("web", &["10.1.1.1"]).replace(
        "[{port: 8080}]",
        "[{name: a, port: 8080}, {name: b, port: 53, protocol: UDP}, {name: c, port: 9, protocol: SCTP}]",
    );
    let mut world = World::new(settings, &[plain, many]);
    assert_eq!(names(&mut world), ["+udp 10.1.1.1:53", "+tcp 10.1.1.1:8080"]);
}

#[test]
fn nodes_with_policy_local_are_asked_at_their_own_health_check() {
    let local = "  externalTrafficPolicy: Local\n  healthCheckNodePort: 32111";
    let annotated =
        "{name: web, annotations: {fairlead.dev/target: nodePorts, fairlead.dev/health-check: tcp}}";
    for (spec, want) in [
        (local, ["+http 10.0.0.11:32111/healthz", "+http 10.0.0.12:32111/healthz"]),
        ("", ["+tcp 10.0.0.11:30001", "+tcp 10.0.0.12:30001"]),
    ] {
        let service = balancer("web", 1, spec).replacen("{name: web}", annotated, 1);
        let mut world = world(service, &["10.1.1.1 @n1", "10.1.2.1 @n2"]);
        assert_eq!(names(&mut world), want);
    }
}

#[test]
fn what_cannot_be_done_is_told() {
    let mut unusable = world(checked("ping"), &["10.1.1.1"]);
    assert!(
        unusable
            .problems("web")
            .starts_with("annotation fairlead.dev/health-check: `ping` is not known; expected is none, auto")
    );
    assert_eq!(names(&mut unusable), [""; 0]);
    let mut tapless = World::new(settings(), &[checked("tcp"), slice("web", &["10.1.1.1"])]);
    assert!(tapless.problems("web").contains("no port has a kernel mirror"), "{}", tapless.problems("web"));
    assert_eq!(names(&mut tapless), [""; 0]);
}
