//! Both directions of every flow, errors about it and its fragments have one owner.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use packet::{Address, AnyAddrs, AnyKey, Body, FlowKey, Fragment, Icmp, Inner, Parsed, Protocol, TcpFlags};
use proptest::prelude::*;
use tables::flow::{FlowTable, FlowTableConfig};
use tables::owner::{of_key, owner};
use tables::snat::{SnatPorts, SnatRequest};
use tables::tcp_state::Timeouts;
use tables::{
    Action, AddressInfo, AddressKind, BackendId, Choice, Frontend, FrontendKey, FrontendKind, Generation,
    Millis, NatMode, Origin, PortId, PortSet, Rule, ServiceId, ServiceInfo, ServicePort, Tables, WorkerId,
};

const OWN: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
const VIP: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];
const BACKEND: [&str; 2] = ["10.244.0.7", "2001:db8:3::7"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(slot: u32, mode: NatMode, affinity_timeout_s: Option<u32>) -> ServicePort {
    let rule = Rule::same(Choice { action: Action::Balance(0), mode });
    let (namespace, name, port_name) = ("default".into(), "web".into(), String::new());
    ServicePort {
        id: ServiceId::new(slot, 0).expect("a small slot"),
        protocol: Protocol::Tcp,
        internal: rule.clone(),
        external: rule,
        pools: Box::new([]),
        affinity_timeout_s,
        udp_idle: tables::IdleTimeout::NONE,
        flows_per_second: None,
        source_ranges: None,
        access: None,
        info: Arc::new(ServiceInfo { namespace, name, port_name, port: 80, protocol: Protocol::Tcp, mode }),
    }
}

/// Port 80 + n of the VIP: n = 0 snat, 1 snat with affinity, 2 dnat, 3 dnat with affinity.
fn tables(workers: u16) -> Tables {
    let mut tables = Tables::empty(Generation(1));
    tables.workers = workers;
    let info = |kind| AddressInfo { kind, answer_arp: PortSet::ALL, usable: true, node_ports: false };
    for family in 0..2 {
        tables.addresses.insert(ip(OWN[family]), info(AddressKind::Own(PortId(0))));
        tables.addresses.insert(ip(VIP[family]), info(AddressKind::LoadBalancer));
    }
    let kinds =
        [(NatMode::Snat, None), (NatMode::Snat, Some(60)), (NatMode::Dnat, None), (NatMode::Dnat, Some(60))];
    for ((mode, affinity), slot) in kinds.into_iter().zip(0u16..) {
        let service = service(slot.into(), mode, affinity);
        for vip in VIP {
            let key = FrontendKey { address: ip(vip), protocol: Protocol::Tcp, port: 80 + slot };
            tables.index.insert_vip(key, Frontend { service: service.id, kind: FrontendKind::LoadBalancer });
        }
        tables.services.insert(Arc::new(service));
    }
    let origin = Origin { backend: BackendId::NONE, vip: None };
    for backend in BACKEND {
        tables.origins.insert(SocketAddr::new(ip(backend), 8080), Protocol::Tcp, origin);
    }
    tables
}

fn parsed(fragment: Fragment, body: Body) -> Parsed {
    Parsed { l3: 14, l4: 34, ip_len: 60, ttl: 64, fragment, body, ..Parsed::NOTHING }
}

fn packet(key: AnyKey) -> Parsed {
    parsed(Fragment::Whole, Body::Flow { key, tcp_flags: TcpFlags::ACK })
}

/// An ICMP error of some router about a packet with this key.
fn error_about(key: AnyKey) -> Parsed {
    let addrs = AnyAddrs::V4 { src: Ipv4Addr::new(198, 51, 100, 9), dst: Ipv4Addr::new(192, 0, 2, 1) };
    let inner = Some(Inner { key, l3: 42, l4: 62 });
    parsed(Fragment::Whole, Body::Icmp(Icmp { addrs, kind: 3, code: 1, inner }))
}

/// The reply key of a flow that this worker translates.
fn snat_reply<A: Address>(
    original: &FlowKey<A>,
    family: usize,
    worker: WorkerId,
    tables: &Tables,
) -> FlowKey<A> {
    let timeouts = Timeouts::default();
    let config = FlowTableConfig { flows: 8, ipv6: true, secret: u64::from(original.sport), timeouts };
    let mut table = FlowTable::new(&config).expect("a little memory");
    let address = |texts: [&str; 2]| A::from_ip(ip(texts[family])).expect("of this family");
    let request = SnatRequest { original: *original, backend: address(BACKEND), port: 8080 };
    let ports = SnatPorts::new(&tables.snat.ports, &tables.rss, worker, tables.workers);
    ports.choose(&mut table, &request, [address(OWN)], Millis(0)).expect("an empty table")
}

proptest! {
    #[test]
    fn both_directions_and_errors_about_either_have_one_owner(
        v6: bool,
        client: u32,
        sport in 1u16..,
        kind in 0u16..4,
        workers in 1u16..9,
    ) {
        let tables = tables(workers);
        let family = usize::from(v6);
        let client: IpAddr = match v6 {
            false => Ipv4Addr::from_bits(client | 1 << 30).into(),
            true => Ipv6Addr::from_bits(0x2001_0db8_00ff << 80 | u128::from(client)).into(),
        };
        prop_assume!(tables.addresses.get(client).is_none());
        let end = |address, port| SocketAddr::new(address, port);
        let (from, vip) = (end(client, sport), end(ip(VIP[family]), 80 + kind));
        let original = AnyKey::new(from, vip, Protocol::Tcp).expect("one family");
        let worker = of_key(original, &tables);
        prop_assert!(worker.0 < workers);
        let reply = match (kind < 2, original) {
            (true, AnyKey::V4(key)) => AnyKey::V4(snat_reply(&key, family, worker, &tables)),
            (true, AnyKey::V6(key)) => AnyKey::V6(snat_reply(&key, family, worker, &tables)),
            (false, _) => AnyKey::new(end(ip(BACKEND[family]), 8080), from, Protocol::Tcp).expect("one family"),
        };
        prop_assert_eq!(owner(&packet(original), &tables), Some(worker));
        prop_assert_eq!(owner(&packet(reply), &tables), Some(worker), "reply {}", reply);
        // What leaves is the other key, reversed: that is what routers quote.
        prop_assert_eq!(owner(&error_about(reply.reversed()), &tables), Some(worker));
        prop_assert_eq!(owner(&error_about(original.reversed()), &tables), Some(worker));
    }

    /// Those of a client that was given the endpoint's address, and those that the endpoint begins.
    #[test]
    fn what_is_said_to_an_endpoint_itself_has_the_owner_of_its_answers(
        v6: bool,
        client: u32,
        port in 1u16..,
        workers in 1u16..9,
    ) {
        let tables = tables(workers);
        let client: IpAddr = match v6 {
            false => Ipv4Addr::from_bits(client | 1 << 30).into(),
            true => Ipv6Addr::from_bits(0x2001_0db8_00ff << 80 | u128::from(client)).into(),
        };
        let endpoint = SocketAddr::new(ip(BACKEND[usize::from(v6)]), 8080);
        let question = AnyKey::new(SocketAddr::new(client, port), endpoint, Protocol::Tcp).expect("one family");
        prop_assert_eq!(of_key(question, &tables), of_key(question.reversed(), &tables));
        // A Service's client, whose answers come from there as well.
        let vip = SocketAddr::new(ip(VIP[usize::from(v6)]), 82);
        let served = AnyKey::new(SocketAddr::new(client, port), vip, Protocol::Tcp).expect("one family");
        prop_assert_eq!(of_key(served, &tables), of_key(question, &tables));
    }

    #[test]
    fn affinity_keeps_a_client_together(client: u32, ports in prop::collection::vec(1u16.., 2..10), dnat: bool) {
        let tables = tables(7);
        let from = |port| SocketAddr::new(Ipv4Addr::from_bits(client).into(), port);
        let vip = SocketAddr::new(ip(VIP[0]), if dnat { 83 } else { 81 });
        let owners = ports.iter().map(|&port| of_key(AnyKey::new(from(port), vip, Protocol::Tcp).expect("one family"), &tables));
        let owners: Vec<_> = owners.collect();
        prop_assert!(owners.iter().all(|owner| *owner == owners[0]));
    }

    #[test]
    fn fragments_of_a_packet_meet(src: u32, dst: u32, id: u32, offset: u16, workers in 1u16..9) {
        let tables = tables(workers);
        let addrs = AnyAddrs::V4 { src: src.into(), dst: dst.into() };
        let body = Body::OtherIp { addrs, protocol: 17 };
        let first = owner(&parsed(Fragment::First { id }, body), &tables);
        prop_assert!(first.is_some_and(|worker| worker.0 < workers));
        prop_assert_eq!(first, owner(&parsed(Fragment::Later { id, offset, more: true }, body), &tables));
    }
}

#[test]
fn what_belongs_to_no_flow_has_no_owner_and_one_worker_has_everything() {
    let addrs = AnyAddrs::V4 { src: Ipv4Addr::new(10, 0, 0, 1), dst: Ipv4Addr::new(10, 0, 0, 2) };
    let echo = parsed(Fragment::Whole, Body::Icmp(Icmp { addrs, kind: 8, code: 0, inner: None }));
    let other = parsed(Fragment::Whole, Body::OtherIp { addrs, protocol: 47 });
    let foreign = parsed(Fragment::Whole, Body::OtherEther(0x88cc));
    for packet in [echo, other, foreign] {
        assert_eq!(owner(&packet, &tables(4)), None);
    }
    let key = AnyKey::new(SocketAddr::new(ip(VIP[0]), 1), SocketAddr::new(ip(OWN[0]), 5001), Protocol::Tcp);
    assert_eq!(owner(&packet(key.expect("one family")), &tables(1)), Some(WorkerId(0)));
}

#[test]
fn flows_and_clients_spread_over_the_workers() {
    let tables = tables(4);
    for (kind, what) in [(0, "flows of one client"), (2, "clients")] {
        let mut counts = [0; 4];
        for n in 0..4000u16 {
            let (host, port) = if kind == 0 { (7, 1000 + n) } else { (u32::from(n), 40_000) };
            let client = SocketAddr::new(Ipv4Addr::from_bits(0x0a01_0000 + host).into(), port);
            let key = AnyKey::new(client, SocketAddr::new(ip(VIP[0]), 80 + kind), Protocol::Tcp)
                .expect("one family");
            counts[of_key(key, &tables).index()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{what}: {counts:?}");
    }
}
