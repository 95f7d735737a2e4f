//! What an edit of large tables copies, and what it costs with 10,000 Services of 25 endpoints (a print-out):
//! `cargo test --release -p tables --test scale -- --ignored --nocapture --test-threads 1`

#![expect(clippy::disallowed_methods, reason = "measuring is the one thing that needs a clock")]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use packet::Protocol;
use tables::{
    Action, AddressInfo, AddressKind, Backend, BackendId, BackendState, Choice, Frontend, FrontendKey,
    FrontendKind, Generation, Lpm, Memory, NatMode, Pool, PortSet, Prefix, Rule, ServiceId, ServiceInfo,
    ServicePort, Tables,
    maglev::{Maglev, Member, name_of},
};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 25;

fn vip(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a60_0000 + n).into()
}

fn backend(n: u32, state: BackendState) -> Backend {
    let id = BackendId::new(n, 0).expect("a small slot");
    Backend {
        id,
        address: Ipv4Addr::from_bits(0x0af0_0000 + n).into(),
        port: 8080,
        weight: 1,
        state,
        node: None,
    }
}

/// The `n`-th Service, balanced over those of its endpoints that `serves` keeps.
fn service(n: u32, serves: impl Fn(u32) -> bool) -> ServicePort {
    let ids = (n * ENDPOINTS..(n + 1) * ENDPOINTS).filter(|&n| serves(n));
    let backends: Vec<_> = ids.map(|n| backend(n, BackendState::Active)).collect();
    let members: Vec<_> =
        backends.iter().map(|at| Member { name: name_of(at.address, at.port), weight: at.weight }).collect();
    let choice = |mode| Choice { action: Action::Balance(0), mode };
    let pool = Pool {
        maglev: Some(Arc::new(Maglev::build(&members).expect("distinct names"))),
        backends: backends.iter().map(|at| at.id).collect(),
    };
    let info = ServiceInfo {
        namespace: "default".into(),
        name: format!("service-{n}"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
        mode: NatMode::Snat,
    };
    ServicePort {
        id: ServiceId::new(n, 0).expect("a small slot"),
        protocol: Protocol::Tcp,
        internal: Rule::same(choice(NatMode::Dnat)),
        external: Rule::same(choice(NatMode::Snat)),
        pools: Box::new([pool]),
        affinity_timeout_s: None,
        udp_idle: tables::IdleTimeout::NONE,
        flows_per_second: None,
        source_ranges: None,
        access: None,
        info: Arc::new(info),
    }
}

fn full(services: u32) -> Tables {
    let mut tables = Tables::empty(Generation(1));
    for n in 0..services {
        let key = FrontendKey { address: vip(n), protocol: Protocol::Tcp, port: 80 };
        let service = service(n, |_| true);
        tables.index.insert_vip(key, Frontend { service: service.id, kind: FrontendKind::ClusterIp });
        tables.services.insert(Arc::new(service));
        let info = AddressInfo {
            kind: AddressKind::ClusterIp,
            answer_arp: PortSet::NONE,
            usable: true,
            node_ports: false,
        };
        tables.addresses.insert(key.address, info);
    }
    (0..services * ENDPOINTS)
        .for_each(|n| assert_eq!(tables.backends.insert(backend(n, BackendState::Active)), None));
    tables
}

#[test]
fn what_is_told_of_the_memory_is_what_was_allocated() {
    let mut built = None;
    let allocated = allocation_counter::measure(|| built = Some(full(2_000))).bytes_current;
    let mut tables = built.expect("built");
    let told = Memory::of(&tables);
    // Without counts of references, and what vectors hold in reserve.
    let share = told.total() as f64 / allocated as f64;
    assert!((0.95..=1.0).contains(&share), "{told:?} of {allocated} bytes: {share}");
    assert!(told.parts().iter().all(|(part, bytes)| *bytes > 0 || *part == "routes"), "{told:?}");

    // One more that balances as another does, and takes no array of its own.
    let like = ServicePort {
        id: ServiceId::new(2_000, 0).unwrap(),
        ..tables.service(ServiceId::new(7, 0).unwrap()).unwrap().clone()
    };
    tables.services.insert(Arc::new(like));
    let more = Memory::of(&tables);
    assert_eq!(more.maglev, told.maglev);
    assert!(more.services > told.services);
}

/// One endpoint of a Service stops serving: the backend, and the Service's pool without it.
fn edit(working: &mut Tables, endpoint: u32) -> Tables {
    working.generation = working.generation.next();
    working.backends.insert(backend(endpoint, BackendState::Down));
    working.services.insert(Arc::new(service(endpoint / ENDPOINTS, |n| n != endpoint)));
    working.clone()
}

#[test]
fn one_endpoint_copies_one_chunk_of_each_table() {
    let mut working = full(1000);
    let before = working.clone();
    let after = edit(&mut working, 4321);
    assert_eq!(after.services.chunks_changed_since(&before.services), 1);
    assert_eq!(after.backends.chunks_changed_since(&before.backends), 2, "its record, and that it lives");
    assert_eq!(after.index.shards_changed_since(&before.index), 0);
    assert_eq!(after.addresses.shards_changed_since(&before.addresses), 0);

    let id = ServiceId::new(4321 / ENDPOINTS, 0).unwrap();
    let endpoints = |tables: &Tables| tables.service(id).unwrap().pools[0].backends.len();
    assert_eq!((endpoints(&before), endpoints(&after)), (25, 24), "the old version is as it was");
    let gone = BackendId::new(4321, 0).unwrap();
    assert!(before.backends.is_live(gone) && !after.backends.is_live(gone));
}

#[test]
fn one_new_service_copies_one_shard() {
    let mut working = full(1000);
    let before = working.clone();
    let key = FrontendKey { address: vip(70_000), protocol: Protocol::Udp, port: 53 };
    let service = ServiceId::new(1000, 0).unwrap();
    working.index.insert_vip(key, Frontend { service, kind: FrontendKind::LoadBalancer });
    assert_eq!(working.index.shards_changed_since(&before.index), 1);
    assert_eq!(before.frontend(key.address, key.protocol, key.port), None);
    assert_eq!(working.frontend(key.address, key.protocol, key.port).map(|at| at.service), Some(service));
}

/// Resident memory of this process in MiB (Linux).
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a count of pages") * 4096 / (1 << 20)
}

#[test]
#[ignore = "prints costs; run it in release"]
fn edit_and_lookup() {
    let (base, start) = (resident_mib(), Instant::now());
    let mut working = full(SERVICES);
    println!("load: {:?}, {} MiB", start.elapsed(), resident_mib() - base);

    const EDITS: u32 = 1000;
    let mut held = working.clone();
    let start = Instant::now();
    for n in 0..EDITS {
        held = edit(&mut working, n * 241);
    }
    println!("edit of one endpoint, Maglev and publication clone included: {:?}", start.elapsed() / EDITS);
    let start = Instant::now();
    for _ in 0..EDITS {
        held = black_box(held.clone());
    }
    println!("clone and drop of a version: {:?}", start.elapsed() / EDITS);

    const LOOKUPS: u32 = 10_000_000;
    let (mut n, mut found) = (0u32, 0u32);
    let start = Instant::now();
    for _ in 0..LOOKUPS {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        found += u32::from(held.frontend(vip((n >> 8) % SERVICES), Protocol::Tcp, 80).is_some());
    }
    println!("frontend lookup: {:?}, {found} found", start.elapsed() / LOOKUPS);
}

#[test]
#[ignore = "prints costs; run it in release"]
fn longest_prefix_match() {
    let mut n = 1u64;
    let mut random = || {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(n >> 32).unwrap()
    };
    for count in [1, 100, 10_000, 1_000_000u32] {
        let prefixes: Vec<_> = (0..count)
            .map(|route| {
                // Lengths as in the Internet's table: mostly /24, some down to /16.
                let length = if random() % 10 < 6 { 24 } else { 16 + u8::try_from(random() % 9).unwrap() };
                (Prefix::new(Ipv4Addr::from_bits(random()).into(), length).unwrap(), route)
            })
            .collect();
        let start = Instant::now();
        let table = Lpm::build(prefixes);
        let built = start.elapsed();
        let start = Instant::now();
        let mut found = 0u32;
        for _ in 0..5_000_000 {
            found += u32::from(table.contains(Ipv4Addr::from_bits(random()).into()));
        }
        let looked_up = start.elapsed() / 5_000_000;
        println!(
            "{count} routes: build {built:?}, {} bytes, lookup {looked_up:?}, {found} found",
            table.heap_bytes()
        );
    }
}
