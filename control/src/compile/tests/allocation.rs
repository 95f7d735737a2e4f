//! Addresses from pools, as the tables and those who tell the cluster see them.

use super::*;
use crate::ipam::Allocation;
use crate::outcome::Outcome;
use crate::pool::Pool;

fn pooled(ranges: &[(&str, &str)]) -> Settings {
    let ends = |(first, last): &(&str, &str)| (first.parse().expect("v4"), last.parse().expect("v4"));
    let pool = Pool { name: "public".into(), ranges: ranges.iter().map(ends).collect(), ..Pool::default() };
    Settings { pools: vec![pool], ..settings() }
}

fn plain(name: &str, ip: u8, spec: &str) -> String {
    service(name, ip, &format!("  type: LoadBalancer\n{spec}"))
}

fn object(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn outcome(world: &mut World, name: &str) -> Outcome {
    let mut batch = world.compiler.take_outcomes();
    batch.services.remove(&crate::model::ObjectKey::new("default", name)).expect("touched")
}

fn addresses(world: &World, name: &str) -> String {
    let report = world.report(name);
    let all: Vec<_> = report.load_balancer_ips.iter().map(ToString::to_string).collect();
    all.join(" ")
}

#[test]
fn an_address_that_is_given_back_goes_to_the_oldest_that_waits() {
    let aged = |name: &str, ip, year| {
        plain(name, ip, "").replace("{name", &format!("{{creationTimestamp: {year}-01-01T00:00:00Z, name"))
    };
    let mut world = World::new(pooled(&[("203.0.113.1", "203.0.113.1")]), &[]);
    world.set("first", &aged("first", 1, 2020));
    world.set("others", &format!("{}---\n{}", aged("young", 2, 2026), aged("old", 3, 2021)));
    assert_eq!((addresses(&world, "first"), addresses(&world, "old")), ("203.0.113.1".into(), String::new()));
    assert!(world.problems("old").contains("no free IPv4 address in public"));
    world.set("first", "");
    assert_eq!((addresses(&world, "old"), world.problems("old")), ("203.0.113.1".into(), String::new()));
    assert!(world.problems("young").contains("no free"));
    world.set("pool", &object("more", "cidrs: [198.51.100.64/32]"));
    assert_eq!(addresses(&world, "young"), "198.51.100.64", "a new pool serves those who wait");
}

#[test]
fn a_pool_object_serves_gives_up_and_is_refused() {
    let mut world =
        World::new(settings(), &[plain("web", 1, ""), object("b", "ranges: [203.0.113.8-203.0.113.9]")]);
    assert_eq!(addresses(&world, "web"), "203.0.113.8");
    let pool = world.compiler.take_outcomes().pools.remove("b").expect("touched");
    assert_eq!(pool.count.expect("in force").used, [1, 0]);
    world.set("overlap", &object("c", "cidrs: [203.0.113.8/31]"));
    let refused = world.compiler.take_outcomes().pools.remove("c").expect("touched");
    assert!(
        refused.count.is_none() && refused.refused.contains("overlaps 203.0.113.8-203.0.113.9 of pool b")
    );
    assert!(world.compiler.pools().iter().any(|one| one.pool.name == "c" && one.refused == refused.refused));
    world.set("all", &plain("web", 1, ""));
    assert_eq!(addresses(&world, "web"), "203.0.113.8", "c has the address now");
    world.set("overlap", "");
    assert_eq!(addresses(&world, "web"), "203.0.113.8", "kept");
    assert!(world.problems("web").contains("is in no pool any more"));
}

#[test]
fn what_belongs_to_machines_pods_and_service_networks_is_never_given() {
    // Of 10.0.0.8 to .13 two are nodes; the subnet's own, the port's and the broadcast address are out too.
    for (first, last, want) in [
        ("10.0.0.11", "10.0.0.13", "10.0.0.13"),
        ("10.0.0.0", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.255", "10.0.0.255", ""),
        ("10.1.1.7", "10.1.1.7", ""),
        ("10.96.9.9", "10.96.9.9", ""),
    ] {
        let world = World::new(pooled(&[(first, last)]), &[plain("web", 1, ""), nodes()]);
        assert_eq!(addresses(&world, "web"), want, "{first}-{last}: {}", world.problems("web"));
    }
    let asks = plain("web", 1, "  loadBalancerIP: 10.0.0.12");
    let mut world = World::new(pooled(&[("10.0.0.11", "10.0.0.13")]), &[asks]);
    assert_eq!(addresses(&world, "web"), "10.0.0.12");
    world.set("nodes", &nodes());
    assert_eq!(addresses(&world, "web"), "", "a node has it now");
    assert!(world.problems("web").contains("node"), "{}", world.problems("web"));
}

#[test]
fn namespaces_decide_by_their_labels_and_by_name() {
    let pool = object("team", "cidrs: [203.0.113.8/32], namespaceSelector: {matchLabels: {team: a}}");
    let mut world = World::new(settings(), &[plain("web", 1, ""), pool]);
    assert!(world.problems("web").contains("no pool gives IPv4"), "{}", world.problems("web"));
    world.set("ns", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {team: a}}\n");
    assert_eq!(addresses(&world, "web"), "203.0.113.8");
    let by_name = object(
        "n",
        "cidrs: [203.0.113.9/32], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}",
    );
    assert_eq!(addresses(&World::new(settings(), &[plain("web", 1, ""), by_name]), "web"), "203.0.113.9");
}

#[test]
fn a_shared_address_serves_both_and_a_lost_port_is_told() {
    let share = |name: &str, ip, port| {
        plain(name, ip, "")
            .replace("port: 80,", &format!("port: {port},"))
            .replace("metadata: {name", "metadata: {annotations: {fairlead.dev/sharing-key: k}, name")
    };
    let mut world =
        World::new(pooled(&[("203.0.113.1", "203.0.113.9")]), &[share("a", 1, 80), share("b", 2, 81)]);
    assert_eq!(
        (addresses(&world, "a"), addresses(&world, "b")),
        ("203.0.113.1".into(), "203.0.113.1".into())
    );
    assert_eq!(world.tcp(CLIENT, "203.0.113.1:80"), "LoadBalancer reject NoEndpoints");
    assert_eq!(outcome(&mut world, "b").lost_ports, []);
    // An externalIP of an older Service takes the port: the address stays, the port is told of.
    let older = service("old", 3, "  externalIPs: [203.0.113.1]").replace("port: 80,", "port: 81,");
    let mut world = World::new(
        Settings {
            external_ip_allow: vec!["203.0.113.0/24".parse().expect("CIDR")],
            ..pooled(&[("203.0.113.1", "203.0.113.9")])
        },
        &[share("b", 2, 81), older.replace("{name", "{creationTimestamp: 2020-01-01T00:00:00Z, name")],
    );
    let told = outcome(&mut world, "b");
    assert_eq!((told.addresses.len(), told.lost_ports), (1, vec![(Protocol::Tcp, 81)]));
    assert!(told.problems[0].contains("belongs to default/old"), "{:?}", told.problems);
}

#[test]
fn of_a_port_that_two_come_to_want_at_a_shared_address_the_older_has_it() {
    let share = |name: &str, ip: u8, year: u32, ports: &[u16]| {
        let single = format!("[{{port: 80, nodePort: {}}}]", 30_000 + u16::from(ip));
        let ports: Vec<_> = ports.iter().map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
        plain(name, ip, "")
            .replace(&single, &format!("[{}]", ports.join(", ")))
            .replace(
                "metadata: {name",
                &format!("metadata: {{creationTimestamp: {year}-01-01T00:00:00Z, annotations: {{fairlead.dev/sharing-key: k}}, name"),
            )
    };
    let mut world = World::new(pooled(&[("203.0.113.1", "203.0.113.9")]), &[]);
    world.set("old", &share("old", 1, 2020, &[80]));
    world.set("young", &share("young", 2, 2021, &[81]));
    let at = |world: &World, port: u16| {
        let address = "203.0.113.1".parse().expect("v4");
        let frontend = world.tables.index.vip(address, Protocol::Tcp, port)?;
        Some(world.tables.service(frontend.service)?.info.name.clone())
    };
    let owners = |world: &World| [80, 81].map(|port| at(world, port).unwrap_or_default());
    assert_eq!(owners(&world), ["old", "young"]);
    world.set("young", &share("young", 2, 2021, &[81, 80]));
    assert_eq!(owners(&world), ["old", "young"], "neither loses what it had");
    let told = outcome(&mut world, "young");
    assert_eq!((told.addresses.len(), told.lost_ports), (1, vec![(Protocol::Tcp, 80)]));
    assert!(told.problems[0].contains("203.0.113.1:80/TCP belongs to default/old"), "{:?}", told.problems);
    assert!(world.problems("old").is_empty());
    world.set("old", "");
    assert_eq!(owners(&world), ["young", "young"]);
    assert_eq!(outcome(&mut world, "young").lost_ports, []);
}

#[test]
fn outcomes_tell_what_was_touched_and_nothing_twice() {
    let mut world =
        World::new(pooled(&[("203.0.113.1", "203.0.113.9")]), &[plain("web", 1, ""), plain("two", 2, "")]);
    let told = outcome(&mut world, "web");
    assert!(told.ours && told.lacks.is_empty() && told.pools == ["public"]);
    assert_eq!(told.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["203.0.113.2"]);
    assert!(world.compiler.take_outcomes().is_empty());
    world.set("all", &plain("two", 2, ""));
    let batch = world.compiler.take_outcomes();
    let told: Vec<_> =
        batch.services.iter().map(|(key, told)| (key.name.as_str(), told.service.is_some())).collect();
    assert_eq!(told, [("web", false)], "gone, and nobody else");
    assert_eq!(batch.pools["public"].count.expect("in force").used, [1, 0]);
    world.compiler.set_allocation(Allocation::Lead);
    world.tables = world.compiler.compile();
    assert!(outcome(&mut world, "two").ours, "who begins to write is told of everything");
}

#[test]
fn a_service_on_its_way_out_gives_its_address_back_before_it_goes() {
    let mut world = World::new(settings(), &[]);
    world.compiler.set_allocation(Allocation::Lead);
    world.set("all", &balancer("web", 1, ""));
    let mut service = (**world.compiler.model().services().values().next().expect("one")).clone();
    assert_eq!(addresses(&world, "web"), "203.0.113.1");
    service.upkeep.deleting = true;
    let key = service.key.clone();
    world.compiler.apply(crate::model::Change::Service(key, Some(service.into())));
    world.tables = world.compiler.compile();
    assert_eq!(addresses(&world, "web"), "");
    assert_eq!(world.tcp(CLIENT, "203.0.113.1:80"), "pass");
    assert_eq!(
        world.tcp(CLIENT, "10.96.0.1:80"),
        "ClusterIP reject NoEndpoints",
        "the rest is served to the end"
    );
    let told = outcome(&mut world, "web");
    assert!(!told.ours && told.addresses.is_empty());
}
