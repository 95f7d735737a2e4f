//! Routes, next hops and neighbours.

use super::*;
use crate::config::{NeighborConfig, RouteConfig};
use crate::network::{Neighbor, NetworkRoute, RouteHop};
use packet::MacAddr;
use tables::{PortId, Route};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);

/// `local`, `port N`, `via ADDRESS on N [mac]`, `blackhole` or `none`.
fn way(tables: &Tables, destination: &str) -> String {
    match tables.fib.lookup(destination.parse().expect("address"), || 0) {
        None | Some(Route::Spread(_)) => "none".into(),
        Some(Route::Local) => "local".into(),
        Some(Route::Blackhole) => "blackhole".into(),
        Some(Route::Connected(port)) => format!("port {port}"),
        Some(Route::Via(hop)) => {
            let hop = tables.adjacencies().get(hop).expect("routes name live hops");
            format!("via {} on {}{}", hop.address, hop.port, if hop.mac().is_some() { " mac" } else { "" })
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

#[test]
fn own_addresses_networks_and_pod_networks_have_routes() {
    let world = World::off_node(&[]);
    for (destination, want) in [
        ("192.0.2.1", "local"),
        ("192.0.2.7", "port 0"),
        ("10.0.0.7", "port 1"),
        ("10.1.1.5", "via 10.0.0.11 on 1"),
        ("fd01:2::5", "via fd00::12 on 1"),
        ("10.9.9.9", "none"),
    ] {
        assert_eq!(way(&world.tables, destination), want, "{destination}");
    }
}

#[test]
fn our_own_nodes_pods_are_the_kernels() {
    assert_eq!(way(&World::on_n1(&[]).tables, "10.1.1.5"), "none");
    assert_eq!(way(&World::on_n1(&[]).tables, "10.1.2.5"), "via 10.0.0.12 on 1");
}

#[test]
fn configuration_goes_before_kernel_before_pod_networks() {
    let mut world = World::new(
        Settings {
            routes: vec![RouteConfig {
                to: "10.1.1.0/24".parse().expect("CIDR"),
                via: vec![ip("10.0.0.200")],
            }],
            ..settings()
        },
        &[nodes()],
    );
    let route = |to: &str, hop, metric| NetworkRoute { to: to.parse().expect("CIDR"), hop, metric };
    let via = |gateway: &str| RouteHop::Via { gateway: ip(gateway), port: 0 };
    world.compiler.set_network(Network {
        routes: vec![
            route("0.0.0.0/0", via("192.0.2.253"), 100),
            route("0.0.0.0/0", via("192.0.2.254"), 50),
            route("10.1.1.0/24", via("192.0.2.252"), 0),
            route("10.1.2.0/24", RouteHop::Blackhole, 0),
        ],
        ..network()
    });
    let tables = world.compiler.compile();
    assert_eq!(way(&tables, "10.1.1.5"), "via 10.0.0.200 on 1");
    assert_eq!(way(&tables, "10.1.2.5"), "blackhole");
    assert_eq!(way(&tables, "8.8.8.8"), "via 192.0.2.254 on 0", "the lowest metric");
}

#[test]
fn a_node_beyond_a_router_is_reached_through_it() {
    let far = "apiVersion: v1\nkind: Node\nmetadata: {name: far}\nspec: {podCIDRs: [10.5.0.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 172.16.0.5}]}\n";
    let mut world = World::off_node(&[far.to_owned()]);
    assert_eq!(way(&world.tables, "10.5.0.1"), "none");
    let hop = RouteHop::Via { gateway: ip("192.0.2.254"), port: 0 };
    let to = "0.0.0.0/0".parse().expect("CIDR");
    world.compiler.set_network(Network { routes: vec![NetworkRoute { to, hop, metric: 0 }], ..network() });
    assert_eq!(way(&world.compiler.compile(), "10.5.0.1"), "via 192.0.2.254 on 0");
}

#[test]
fn neighbours_resolve_and_the_epoch_counts_moves_only() {
    let mut world = World::off_node(&[]);
    let epoch = world.tables.fib_epoch;
    let mut learn = |neighbors: &[(&str, Option<MacAddr>)]| {
        let neighbor =
            |(address, mac): &(&str, Option<MacAddr>)| Neighbor { port: 1, address: ip(address), mac: *mac };
        world
            .compiler
            .set_network(Network { neighbors: neighbors.iter().map(neighbor).collect(), ..network() });
        world.compiler.compile()
    };
    let tables = learn(&[("10.0.0.11", None), ("10.0.0.77", Some(MAC))]);
    assert_eq!(way(&tables, "10.1.1.5"), "via 10.0.0.11 on 1");
    assert_eq!(way(&tables, "10.0.0.77"), "via 10.0.0.77 on 1 mac");
    let tables = learn(&[("10.0.0.11", Some(MAC)), ("10.0.0.77", Some(MacAddr([2, 0, 0, 0, 9, 9])))]);
    assert_eq!(way(&tables, "10.1.1.5"), "via 10.0.0.11 on 1 mac");
    assert_eq!(tables.fib_epoch, epoch, "neither a new neighbour nor a new MAC moves a flow");
    let tables = learn(&[("10.0.0.11", Some(MAC))]);
    assert_eq!(way(&tables, "10.0.0.77"), "port 1");
    assert_ne!(tables.fib_epoch, epoch);
}

#[test]
fn a_neighbour_does_not_hide_a_longer_route() {
    let to = "10.0.0.77/32".parse().expect("CIDR");
    let mut world = World::new(
        Settings { routes: vec![RouteConfig { to, via: vec![ip("10.0.0.200")] }], ..settings() },
        &[],
    );
    let neighbor = Neighbor { port: 1, address: ip("10.0.0.77"), mac: Some(MAC) };
    world.compiler.set_network(Network { neighbors: vec![neighbor], ..network() });
    assert_eq!(way(&world.compiler.compile(), "10.0.0.77"), "via 10.0.0.200 on 1");
}

#[test]
fn static_neighbours_need_no_kernel() {
    let fixed = NeighborConfig { address: ip("10.0.0.11"), mac: MAC, port: "inside".into() };
    let world = World::new(Settings { neighbors: vec![fixed], ..settings() }, &[nodes()]);
    assert_eq!(way(&world.tables, "10.1.1.5"), "via 10.0.0.11 on 1 mac");
    assert_eq!(world.tables.ports().len(), 2);
    assert_eq!(world.tables.addresses.own(ip("10.0.0.1")), Some(PortId(1)));
}

/// The next hops that flows to a destination take.
fn taken(tables: &Tables, destination: &str) -> Vec<IpAddr> {
    let mut hops: Vec<_> = (0..200u64)
        .filter_map(|n| {
            match tables.fib.lookup(ip(destination), || n.wrapping_mul(0x9e37_79b9_7f4a_7c15))? {
                Route::Via(hop) => tables.adjacencies().get(hop).map(|hop| hop.address),
                _ => None,
            }
        })
        .collect();
    hops.sort_unstable();
    hops.dedup();
    hops
}

#[test]
fn several_next_hops_share_a_prefix_and_those_that_do_not_answer_are_left_out() {
    let hops = [ip("10.0.0.201"), ip("10.0.0.202"), ip("10.0.0.203")];
    let to = "10.9.0.0/16".parse().expect("CIDR");
    let mut world =
        World::new(Settings { routes: vec![RouteConfig { to, via: hops.into() }], ..settings() }, &[]);
    assert_eq!(taken(&world.tables, "10.9.1.1"), hops, "none answers: each is asked");
    let mut epoch = world.tables.fib_epoch;
    for (answer, want, moves) in [
        (&[0, 1, 2][..], &hops[..], false),
        (&[0, 2], &[hops[0], hops[2]], true),
        (&[2], &[hops[2]], true),
        (&[1, 2], &[hops[1], hops[2]], true),
    ] {
        let neighbor = |n: &usize| Neighbor { port: 1, address: hops[*n], mac: Some(MAC) };
        let neighbors = answer.iter().map(neighbor).collect();
        world.compiler.set_network(Network { neighbors, ..network() });
        let tables = world.compiler.compile();
        assert_eq!(taken(&tables, "10.9.1.1"), want);
        assert_eq!(tables.fib_epoch != epoch, moves, "{answer:?}");
        epoch = tables.fib_epoch;
    }
    assert!(hops.iter().all(|hop| world.compiler.gateways().contains(&(1, *hop))), "all are kept alive");
}

#[test]
fn the_kernels_next_hops_of_one_metric_share_and_blackholes_come_from_the_configuration_too() {
    let to = "10.1.1.0/24".parse().expect("CIDR");
    let mut world =
        World::new(Settings { routes: vec![RouteConfig { to, via: Vec::new() }], ..settings() }, &[nodes()]);
    let route = |gateway: &str, metric| NetworkRoute {
        to: "0.0.0.0/0".parse().expect("CIDR"),
        hop: RouteHop::Via { gateway: ip(gateway), port: 0 },
        metric,
    };
    let routes = vec![route("192.0.2.251", 20), route("192.0.2.252", 10), route("192.0.2.253", 10)];
    world.compiler.set_network(Network { routes, ..network() });
    let tables = world.compiler.compile();
    assert_eq!(taken(&tables, "8.8.8.8"), [ip("192.0.2.252"), ip("192.0.2.253")]);
    assert_eq!(way(&tables, "10.1.1.5"), "blackhole");
}
