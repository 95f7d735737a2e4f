//! Many Services: what a change copies is counted in the ordinary run; ten thousand are timed by name only, because the machine
//! is shared: `cargo test --release -p control scale -- --ignored --nocapture`

use std::sync::Arc;
use std::time::{Duration, Instant};

use packet::Family;

use super::*;
use crate::model::{Change, Endpoint, EndpointSlice, ObjectKey, Service, ServicePort, SlicePort};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 25;

fn service_of(number: u32) -> Change {
    let key = ObjectKey::new("default", format!("svc-{number}"));
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None };
    let service = Service {
        key: key.clone(),
        cluster_ips: vec![IpAddr::V4((0x0a60_0000 + number + 1).into())],
        families: vec![Family::V4],
        ports: vec![port],
        ..Service::default()
    };
    Change::Service(key, Some(Arc::new(service)))
}

fn slice_of(number: u32, endpoints: u32) -> Change {
    let key = ObjectKey::new("default", format!("svc-{number}-1"));
    let endpoint = |index: u32| Endpoint {
        node: Some(format!("node-{}", index % 100).into()),
        ..Endpoint::new(IpAddr::V4((0x0b00_0000 + number * 32 + index).into()))
    };
    let slice = EndpointSlice {
        key: key.clone(),
        service: ObjectKey::new("default", format!("svc-{number}")),
        family: Family::V4,
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    Change::EndpointSlice(key, Some(Arc::new(slice)))
}

/// The Service, and its backends in two arrays, which lie in one chunk of each or at the border of two.
#[test]
fn a_change_copies_as_much_among_five_thousand_services_as_among_fifty() {
    for services in [50, 5_000] {
        let mut compiler = Compiler::new(settings(), Assignments::default());
        compiler.set_network(network());
        for number in 0..services {
            compiler.apply(service_of(number));
            compiler.apply(slice_of(number, 3));
        }
        let mut before = compiler.compile();
        for (turn, endpoints) in [2, 3, 1, 3].into_iter().enumerate() {
            compiler.apply(slice_of(services / 2, endpoints));
            let after = compiler.compile();
            let copied = (
                after.services.chunks_changed_since(&before.services),
                after.backends.chunks_changed_since(&before.backends),
            );
            assert!(
                copied.0 == 1 && (1..=4).contains(&copied.1),
                "{services} Services, turn {turn}: {copied:?}"
            );
            compiler.swept(after.generation);
            before = after;
        }
    }
}

#[test]
#[ignore = "a measurement: needs --release and a quiet machine"]
fn full_load_and_single_changes() {
    let mut compiler = Compiler::new(settings(), Assignments::default());
    compiler.set_network(network());
    for number in 0..SERVICES {
        compiler.apply(service_of(number));
        compiler.apply(slice_of(number, ENDPOINTS));
    }
    let start = Instant::now();
    let tables = compiler.compile();
    println!("full load of {SERVICES} x {ENDPOINTS}: {:?}", start.elapsed());
    assert_eq!(tables.backends.len(), 250_000);
    let change = |round: u32| slice_of(round * 7 % SERVICES, ENDPOINTS - 1 - round % 2);
    let (times, kept) = one_by_one(&mut compiler, tables, (0..1000).map(change));
    println!("one change: median {:?}, p99 {:?}, worst {:?}", times[500], times[990], times[999]);
    assert_eq!(kept.services.len(), 10_000);
}

/// Compiles after each change; the times, the shortest first, and the last tables.
fn one_by_one(
    compiler: &mut Compiler,
    mut kept: Tables,
    changes: impl Iterator<Item = Change>,
) -> (Vec<Duration>, Tables) {
    let mut times = Vec::new();
    for change in changes {
        compiler.apply(change);
        let start = Instant::now();
        let tables = compiler.compile();
        times.push(start.elapsed());
        compiler.swept(tables.generation);
        kept = tables;
    }
    times.sort_unstable();
    (times, kept)
}

#[test]
#[ignore = "a measurement: needs --release and a quiet machine"]
fn one_change_of_a_large_service() {
    for endpoints in [100, 1_000, 2_000, 5_000] {
        let mut compiler = Compiler::new(settings(), Assignments::default());
        compiler.set_network(network());
        compiler.apply(service_of(0));
        compiler.apply(slice_of(0, endpoints));
        let tables = compiler.compile();
        let change = |round: u32| slice_of(0, endpoints - 1 - round % 2);
        let (times, kept) = one_by_one(&mut compiler, tables, (0..100).map(change));
        println!(
            "one change of {endpoints} endpoints: best {:?}, median {:?}, p90 {:?}",
            times[0], times[50], times[90]
        );
        assert_eq!(kept.services.len(), 1);
    }
}
