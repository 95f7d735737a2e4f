//! What a change of the cluster costs: from its arrival at the applier until every worker has taken the tables that hold
//! it, at 10,000 Services of 25 endpoints; and the first load of them all. The same at five times as many shows how it
//! grows.

mod engine;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use control::{
    apply::SourceEvent,
    model::{Change, Endpoint, EndpointSlice, ObjectKey, Service, ServicePort, ServiceType, SlicePort},
};
use packet::{Family, Protocol};
use perf::{Random, Sampler, Unit};
use tables::Memory;
use tokio::sync::mpsc;

use engine::{Engine, WORKERS, resident_bytes};

/// So many, and then [`GROWTH`] times as many.
const SERVICES: u32 = 10_000;
const GROWTH: u32 = 5;
const ENDPOINTS: u32 = 25;
/// Between two changes, so that none is gathered with the one before.
const PAUSE: Duration = Duration::from_millis(3);

const CONFIG: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{name: outside, device: net_null0, addresses: [192.0.2.1/24], tap: false}]
workers: {count: 2}
kubernetes: {manifests: /nowhere}
routes: [{to: 11.0.0.0/8, via: 192.0.2.9}]
pools: [{name: public, cidrs: [203.0.0.0/16]}]
";

/// What the first load took.
struct Load {
    time: Duration,
    bytes: f64,
}

fn main() -> io::Result<()> {
    let mut sampler = Sampler::new("change");
    let services = sampler.options().pick(SERVICES, SERVICES / 10);
    let before = resident_bytes();
    let few = cluster(&mut sampler, services, before)?;
    let many = cluster(&mut sampler, GROWTH * services, before)?;
    let growth = f64::from(GROWTH);
    let time = many.time.as_secs_f64() / few.time.as_secs_f64() / growth;
    sampler.value("growth of the time to load, against that of the Services", Unit::Ratio, time);
    sampler.value(
        "growth of the memory, against that of the Services",
        Unit::Ratio,
        many.bytes / few.bytes / growth,
    );
    sampler.finish()
}

/// A cluster with so many Services, more than any before it: its first load, then one change after another. The process had
/// so many bytes before all.
fn cluster(sampler: &mut Sampler, services: u32, before: f64) -> io::Result<Load> {
    let (changes, source) = mpsc::channel(64);
    let (engine, control, _) = Engine::start(CONFIG, |_| source)?;
    assert!(engine.taken(&[0; WORKERS as usize]), "a worker takes no tables");
    // Has the changes taken in, and waits until every worker has tables that hold them.
    let apply = |all: Vec<Change>| {
        let taken = engine.publications();
        changes.blocking_send(SourceEvent::Changes(all)).expect("the applier runs");
        assert!(engine.taken(&taken), "a worker takes no tables");
    };
    let all: Vec<Change> =
        (0..services).flat_map(|number| [service(number), slice(number, ENDPOINTS)]).collect();
    let begun = Instant::now();
    sampler.runs(&format!("first load of {services} Services x {ENDPOINTS} endpoints"), 1, || {
        apply(all.clone());
    });
    let time = begun.elapsed();
    drop(all);
    let bytes = resident_bytes() - before;
    sampler.value(
        &format!("memory of {services} Services, with the cluster's objects and all tables"),
        Unit::Bytes,
        bytes,
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let tables = runtime.block_on(control.look(|look| Memory::of(look.tables))).map_err(io::Error::other)?;
    let rest = tables.total() - tables.maglev;
    for (part, bytes) in [("arrays that balance", tables.maglev), ("all else", rest)] {
        sampler.value(&format!("the tables alone of {services} Services: {part}"), Unit::Bytes, bytes as f64);
    }
    let mut random = Random::new(7);
    let runs = sampler.options().pick(3_000, 100);
    let next = || {
        thread::sleep(PAUSE);
        let number =
            u32::try_from(random.next() % u64::from(services)).expect("below the number of Services");
        slice(number, ENDPOINTS - 1 - u32::try_from(random.next() % 3).expect("small"))
    };
    sampler.prepared_runs(&format!("one EndpointSlice of {services} changes"), runs, next, |change| {
        apply(vec![change]);
    });
    engine.stop();
    Ok(Load { time, bytes })
}

fn key(number: u32) -> ObjectKey {
    ObjectKey::new("default", format!("service-{number}"))
}

/// Every tenth is a load balancer with an address of the pool.
fn service(number: u32) -> Change {
    let kind = if number.is_multiple_of(10) { ServiceType::LoadBalancer } else { ServiceType::ClusterIp };
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None };
    let service = Service {
        key: key(number),
        kind,
        cluster_ips: vec![address([10, 96, 0, 0], number + 1)],
        families: vec![Family::V4],
        ports: vec![port],
        ..Service::default()
    };
    Change::Service(key(number), Some(Arc::new(service)))
}

fn slice(number: u32, endpoints: u32) -> Change {
    let endpoint = |index: u32| Endpoint {
        node: Some(format!("node-{}", index % 100).into()),
        ..Endpoint::new(address([11, 0, 0, 0], number * 32 + index))
    };
    let slice = EndpointSlice {
        key: key(number),
        service: key(number),
        family: Family::V4,
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    Change::EndpointSlice(key(number), Some(Arc::new(slice)))
}

fn address(network: [u8; 4], host: u32) -> IpAddr {
    Ipv4Addr::from_bits(u32::from_be_bytes(network) + host).into()
}
