//! Whatever happened on the way, the tables mean what a fresh compilation of the same state means.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// One file a choice; 0 removes it.
fn service_text(index: usize, variant: u8) -> String {
    let (name, ip) = (NAMES[index], u8::try_from(index).expect("few") + 1);
    match variant {
        0 => String::new(),
        1 => service(name, ip, ""),
        2 => balancer(name, ip, "  externalTrafficPolicy: Local\n  externalIPs: [198.51.100.9]"),
        3 => balancer(name, 1, "  internalTrafficPolicy: Local\n  loadBalancerSourceRanges: [10.0.0.0/8]"),
        4 => service(
            name,
            ip,
            "  clusterIPs: [\"fd96::1\", 10.96.0.9]\n  externalIPs: [198.51.100.9, 10.0.0.13]",
        ),
        _ => service(name, ip, "  type: ExternalName"),
    }
}

fn slice_text(index: usize, variant: u8) -> String {
    let endpoints: &[&str] = match variant {
        0 => return String::new(),
        1 => &[],
        2 => &["10.1.1.1 @n1 zone=a", "10.1.2.1 @n2 zone=b"],
        3 => &["10.1.1.1 @n1 node=n1", "10.1.2.1 @n2 node=n2 zone=b", "10.1.2.2 @n3 node=n3"],
        4 => &["10.1.1.1 @n1 terminating", "10.1.3.1 @n3 unready"],
        _ => &["10.1.1.1 @n1 unready unserving", "10.1.2.1 @n2"],
    };
    slice(NAMES[index], endpoints)
}

fn nodes_text(variant: u8) -> String {
    match variant {
        0 => String::new(),
        1 => nodes(),
        2 => nodes().replace("zone: b", "zone: a"),
        _ => {
            nodes()
                + "---\napiVersion: v1\nkind: Node\nmetadata: {name: n3, labels: {topology.kubernetes.io/zone: b}}\nspec: {podCIDRs: [10.1.3.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 10.0.0.13}]}\n"
        }
    }
}

fn text(file: usize, variant: u8) -> String {
    match file {
        0..3 => service_text(file, variant),
        3..6 => slice_text(file - 3, variant),
        _ => nodes_text(variant % 4),
    }
}

/// Everything that packets can ask, in words without slot numbers.
fn meaning(world: &World) -> Vec<String> {
    let clients = [CLIENT, POD_1, POD_2, "10.1.3.9", NODE_1, NODE_2, "10.0.0.13", "2001:db8::9", "fd01:1::9"];
    let services = ["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80", "10.96.0.9:80", "[fd96::1]:80"];
    let others = [
        "203.0.113.1:80",
        "203.0.113.2:80",
        "203.0.113.3:80",
        "198.51.100.9:80",
        "10.0.0.13:80",
        "192.0.2.1:30001",
        "10.0.0.1:30002",
        "192.0.2.1:30003",
        "[fd00::1]:30001",
        "10.96.7.7:80",
    ];
    let mut said = Vec::new();
    for client in clients {
        for dst in services.iter().chain(&others) {
            said.push(format!("{client} > {dst}: {}", world.tcp(client, dst)));
        }
    }
    let mut addresses: Vec<_> =
        world.tables.addresses.iter().map(|(at, info)| format!("{at} {info:?}")).collect();
    addresses.sort();
    said.extend(addresses);
    said.extend(["10.1.1.1", "10.1.2.1", "10.1.3.1", "fd01:1::1"].map(|at| {
        let hop = world.tables.fib.lookup(at.parse().expect("address"), || 0);
        format!("{at}: {}", matches!(hop, Some(tables::Route::Via(_))))
    }));
    said.extend(
        ["10.1.1.1:8080", "10.1.2.1:8080", "10.1.2.2:8080", "10.1.3.1:8080"].map(|at| world.origin(at)),
    );
    let counts = (
        world.tables.services.len(),
        world.tables.backends.len(),
        world.tables.index.len(),
        world.tables.origins.len(),
    );
    said.push(format!("{counts:?} {:?}", world.tables.snat));
    for mut report in world.compiler.services() {
        report.ids.clear();
        said.push(format!("{report:?}"));
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn incremental_equals_fresh(
        steps in proptest::collection::vec((0usize..7, 0u8..6), 1..25),
        on_node in any::<bool>(),
    ) {
        let settings = Settings { node_name: on_node.then(|| "n1".to_owned()), ..settings() };
        let mut world = World::new(settings.clone(), &[]);
        let mut files = std::collections::BTreeMap::new();
        for (file, variant) in steps {
            world.set(&file.to_string(), &text(file, variant));
            files.insert(file, text(file, variant));
            // Workers sweep at once: slots come back and are used again.
            world.compiler.swept(world.tables.generation);
        }
        // Fresh, in the other order, all at once.
        let mut fresh = World::new(settings, &[]);
        for (file, text) in files.iter().rev() {
            let changes = fresh.source.set(&file.to_string(), Ok(text), SystemTime::UNIX_EPOCH);
            changes.into_iter().for_each(|change| fresh.compiler.apply(change));
        }
        fresh.tables = fresh.compiler.compile();
        prop_assert_eq!(meaning(&world), meaning(&fresh));
    }
}

#[test]
fn slots_stay_while_their_service_and_endpoints_do() {
    let before = [service("web", 1, ""), slice("web", &["10.1.1.1", "10.1.1.2"])];
    let mut world = World::off_node(&before);
    let ids = |world: &World| -> Vec<_> {
        let backends = world.tables.backends.iter().map(|at| (at.address.to_string(), at.id));
        backends.collect()
    };
    let (old, id) = (ids(&world), world.report("web").ids);
    let after = [
        service("web", 1, "  sessionAffinity: ClientIP"),
        slice("web", &["10.1.1.2 unready", "10.1.1.3"]),
        nodes(),
    ];
    world.set("all", &after.join("---\n"));
    let new = ids(&world);
    assert_eq!(world.report("web").ids, id);
    assert!(new.contains(&old[1]), "the one that stayed");
    assert!(new.iter().all(|(_, id)| *id != old[0].1), "a slot rests until workers have swept");
}

#[test]
fn equal_sets_share_a_maglev_table() {
    let ends = ["10.1.1.1", "10.1.1.2"];
    let manifests = [service("a", 1, ""), service("b", 2, ""), slice("a", &ends), slice("b", &ends)];
    let world = World::off_node(&manifests);
    let tables: Vec<_> =
        world.tables.services.iter().map(|at| at.pools[0].maglev.clone().expect("two backends")).collect();
    assert!(std::sync::Arc::ptr_eq(&tables[0], &tables[1]));
}
