//! Objects that the API server takes and that mean harm: each costs its own Service, in bounded time and memory, and nobody
//! else. The bounds on time are far above what a run takes, and far below what a cost that grows with the square would.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use packet::Family;

use super::*;
use crate::compile::endpoints::{OF_A_PORT_MAX, OF_A_SERVICE_MAX};
use crate::model::{Change, Endpoint, EndpointSlice, ObjectKey, Service, ServicePort, SlicePort};

const LIMIT: Duration = Duration::from_secs(30);
/// As many as an EndpointSlice can have.
const OF_A_SLICE: u32 = 1_000;

fn hostile(ports: u16, external_ips: u32) -> Change {
    let port = |number: u16| ServicePort {
        name: format!("p{number}"),
        protocol: Protocol::Tcp,
        port: number,
        node_port: None,
    };
    let key = ObjectKey::new("default", "hostile");
    let service = Service {
        key: key.clone(),
        cluster_ips: vec![IpAddr::from([10, 96, 0, 66])],
        families: vec![Family::V4],
        ports: (1..=ports).map(port).collect(),
        external_ips: (0..external_ips).map(|at| Ipv4Addr::from_bits(0xc633_6400 + at).into()).collect(),
        ..Service::default()
    };
    Change::Service(key, Some(Arc::new(service)))
}

/// Slices of the hostile Service with so many endpoints in all, at so many of its ports, from an address on.
fn slices(ports: u16, endpoints: u32, first: u32) -> Vec<Change> {
    let port = |number| SlicePort { name: format!("p{number}"), protocol: Protocol::Tcp, port: number };
    let ports: Vec<_> = (1..=ports).map(port).collect();
    let endpoint = |at: u32| Endpoint::new(Ipv4Addr::from_bits(first + at).into());
    let slice = |number: u32| {
        let key = ObjectKey::new("default", format!("hostile-{number:04}"));
        let of = number * OF_A_SLICE..((number + 1) * OF_A_SLICE).min(endpoints);
        let slice = EndpointSlice {
            key: key.clone(),
            service: ObjectKey::new("default", "hostile"),
            family: Family::V4,
            ports: ports.clone(),
            endpoints: of.map(endpoint).collect(),
        };
        Change::EndpointSlice(key, Some(Arc::new(slice)))
    };
    (0..endpoints.div_ceil(OF_A_SLICE)).map(slice).collect()
}

/// A second slice of the neighbour, with this endpoint; none: it goes.
fn another(endpoint: Option<Ipv4Addr>) -> Change {
    let key = ObjectKey::new("default", "web-2");
    let slice = |address: Ipv4Addr| EndpointSlice {
        key: key.clone(),
        service: ObjectKey::new("default", "web"),
        family: Family::V4,
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![Endpoint::new(address.into())],
    };
    Change::EndpointSlice(key.clone(), endpoint.map(|address| Arc::new(slice(address))))
}

/// A neighbour that must not notice, and what it has in the tables.
fn world() -> World {
    World::off_node(&[service("web", 1, ""), slice("web", &["10.1.1.1", "10.1.1.2"])])
}

/// Applies changes and compiles: within the limit, with the neighbour served as before.
fn survives(world: &mut World, name: &str, changes: Vec<Change>) {
    changes.into_iter().for_each(|change| world.compiler.apply(change));
    let begun = Instant::now();
    world.tables = world.compiler.compile();
    let took = begun.elapsed();
    assert!(took < LIMIT, "{name}: compiled in {took:?}");
    assert_eq!(world.tcp(CLIENT, "10.96.0.1:80"), "ClusterIP snat 10.1.1.1 10.1.1.2", "{name}");
    let told: usize = world.compiler.services().iter().map(|row| row.problems.len()).max().unwrap_or(0);
    assert!(told <= 40, "{name}: {told} problems in one row");
    eprintln!("{name}: {took:?}");
}

#[test]
fn a_service_of_100_000_endpoints_has_as_many_as_a_port_can_and_says_so() {
    let mut world = world();
    let before = world.tables.backends.len();
    let changes = [vec![hostile(1, 0)], slices(1, 100_000, 0x0b00_0000)].concat();
    survives(&mut world, "100,000 endpoints", changes);
    assert_eq!(world.tables.backends.len() - before, OF_A_PORT_MAX);
    assert_eq!(world.tcp(CLIENT, "10.96.0.66:1").split(' ').count(), 2 + OF_A_PORT_MAX);
    assert!(
        world.problems("hostile").contains("over 65535 endpoints of a port"),
        "{}",
        world.problems("hostile")
    );
    // Another's change does not pay for it again: the quickest of three, as the machine may stand still during one.
    let times = (3..6).map(|last| {
        world.compiler.apply(another(Some(Ipv4Addr::new(10, 1, 1, last))));
        let begun = Instant::now();
        world.tables = world.compiler.compile();
        begun.elapsed()
    });
    let times: Vec<_> = times.collect();
    assert!(times.iter().any(|took| *took < Duration::from_millis(500)), "{times:?}");
    assert!(world.tcp(CLIENT, "10.96.0.1:80").ends_with("10.1.1.5"));
    world.compiler.apply(another(None));
    let gone = Change::Service(ObjectKey::new("default", "hostile"), None);
    survives(&mut world, "gone", vec![gone]);
    assert_eq!(world.tables.backends.len(), before);
}

#[test]
fn ports_times_endpoints_of_one_service_are_bounded() {
    let mut world = world();
    let before = world.tables.backends.len();
    let mut changes = slices(1_000, 1_000, 0x0b00_0000);
    for change in &mut changes {
        // Without ready ones no Maglev tables are filled, which is what takes time without optimisation.
        let Change::EndpointSlice(_, Some(slice)) = change else { panic!("slices alone") };
        Arc::make_mut(slice).endpoints.iter_mut().for_each(|at| (at.ready, at.serving) = (false, false));
    }
    changes.push(hostile(1_000, 0));
    survives(&mut world, "1,000 ports of 1,000 endpoints", changes);
    assert_eq!(world.tables.backends.len() - before, OF_A_SERVICE_MAX);
    assert!(world.problems("hostile").contains("split the Service"));
}

#[test]
fn ten_thousand_ports_come_and_go() {
    let mut world = world();
    let changes = [vec![hostile(10_000, 0)], slices(100, 20, 0x0b00_0000)].concat();
    survives(&mut world, "10,000 ports", changes);
    assert_eq!(world.tcp(CLIENT, "10.96.0.66:10000"), "ClusterIP reject NoEndpoints");
    assert_eq!(world.tcp(CLIENT, "10.96.0.66:100").split(' ').count(), 22);
    survives(&mut world, "one endpoint less", slices(100, 19, 0x0b00_0000));
    assert_eq!(world.tcp(CLIENT, "10.96.0.66:100").split(' ').count(), 21);
    survives(&mut world, "one port left", vec![hostile(1, 0)]);
    assert_eq!(world.compiler.services().iter().filter(|row| row.name == "hostile").count(), 1);
}

#[test]
fn endpoints_that_nobody_may_have_are_counted_not_listed() {
    let mut world = world();
    let changes = [vec![hostile(100, 0)], slices(100, 100_000, 0x7f00_0000)].concat();
    survives(&mut world, "100,000 loopback endpoints at 100 ports", changes);
    let told = world.problems("hostile");
    assert!(told.contains("endpoint 127.0.0.0 refused: loopback address"), "{told}");
    assert!(told.contains("more endpoints refused"), "{told}");
    assert!(world.tcp(CLIENT, "10.96.0.66:1").ends_with("NoEndpoints"));
}

#[test]
fn addresses_times_ports_of_one_service_are_bounded() {
    let mut world = world();
    survives(&mut world, "10,000 ports at 255 externalIPs", vec![hostile(10_000, 255)]);
    assert!(world.problems("hostile").contains("more than 65536 frontends"), "{}", world.problems("hostile"));
    // 10,000 ports at the clusterIP and five more.
    let at = |last: u8| world.tables.index.vip(IpAddr::from([198, 51, 100, last]), Protocol::Tcp, 10_000);
    assert!(at(4).is_some() && at(5).is_none());
    survives(&mut world, "100,000 externalIPs outside of what is allowed", vec![hostile(1, 100_000)]);
    // 256 of the 1,024 that are looked at are allowed; the others have a sentence each, and one is about those beyond.
    assert!(world.problems("hostile").ends_with("and 737 problems more"), "{}", world.problems("hostile"));
}
