//! One packet in, what comes out: rows for every rule of the packet path, in both families.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::net::{IpAddr, SocketAddr};

use dataplane::{
    buf::{ChecksumKind, ChecksumStatus},
    io::{Capabilities, mem::MemBuf},
    testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig},
};
use packet::{
    AnyKey, Arp, ArpOperation, Body, Family, MacAddr, NdKind, Protocol, TcpFlags, VlanTag, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{
    Action, AdjacencyState, Choice, DropReason, FrontendKind, Lpm, Millis, NatMode, NodeId, NodeRule, PortId,
    PortSet, Route, Rule, Source, Tables, punt::Message,
};

const CLIENT_MAC: MacAddr = Fixture::neighbor_mac(OUTSIDE, 2);

/// The addresses of one family.
struct World {
    family: Family,
    client: &'static str,
    pods: [&'static str; 2],
    node: &'static str,
    own: [&'static str; 2],
    cluster_ip: &'static str,
    external_ip: &'static str,
    lb: &'static str,
    /// Beyond the router outside.
    far: &'static str,
    unallocated: &'static str,
}

const WORLDS: [World; 2] = [
    World {
        family: Family::V4,
        client: "192.0.2.2",
        pods: ["10.244.1.5", "10.244.2.5"],
        node: "10.0.0.11",
        own: ["192.0.2.1", "10.0.0.1"],
        cluster_ip: "10.96.0.10",
        external_ip: "198.51.100.7",
        lb: "203.0.113.10",
        far: "8.8.8.8",
        unallocated: "10.96.0.99",
    },
    World {
        family: Family::V6,
        client: "2001:db8:1::2",
        pods: ["fd00:244:1::5", "fd00:244:2::5"],
        node: "fd00::11",
        own: ["2001:db8:1::1", "fd00::1"],
        cluster_ip: "fd00:96::10",
        external_ip: "2001:db8:e::7",
        lb: "2001:db8:f::10",
        far: "2001:db8:8::8",
        unallocated: "fd00:96::99",
    },
];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn key(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> AnyKey {
    AnyKey::new(src, dst, protocol).unwrap()
}

/// A packet that arrives outside (from the client's router) or inside (from Node 1).
fn arriving(port: PortId, packet: PacketBuilder) -> Vec<u8> {
    let last = if port == OUTSIDE { 2 } else { 11 };
    packet.macs(Fixture::port_mac(port), Fixture::neighbor_mac(port, last)).build()
}

/// The first packet of a flow, small enough to need padding.
fn first(key: AnyKey) -> PacketBuilder {
    PacketBuilder::flow(key).flags(TcpFlags::SYN)
}

fn answer(key: AnyKey) -> PacketBuilder {
    PacketBuilder::flow(key).flags(TcpFlags::SYN | TcpFlags::ACK).payload(b"answer")
}

/// Both Services' frontends of every kind, TCP and UDP, at port 80 (snat) and 81 (dnat); nodePorts 30080 and 30081.
fn services(fixture: &mut Fixture, world: &World) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (mode, port) in [(NatMode::Snat, 80), (NatMode::Dnat, 81)] {
            let backend = at(world.pods[0], 8080).to_string();
            let id = fixture.service("web", protocol, &[&backend], mode);
            fixture.vip(FrontendKind::ClusterIp, &at(world.cluster_ip, port).to_string(), id);
            fixture.vip(FrontendKind::ExternalIp, &at(world.external_ip, port).to_string(), id);
            fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, port).to_string(), id);
            fixture.node_port(world.family, 30_000 + port, id);
        }
    }
}

fn served(world: &World) -> Fixture {
    let mut fixture = Fixture::data_centre();
    services(&mut fixture, world);
    fixture
}

fn rig(fixture: &mut Fixture) -> Rig {
    let tables = fixture.tables();
    rig_of(&RigConfig::default(), tables)
}

fn rig_of(config: &RigConfig, tables: Tables) -> Rig {
    let mut rig = Rig::new(config, tables);
    rig.settle();
    rig.all_sent();
    rig
}

/// The only frame that came of a packet.
fn one(out: Vec<(PortId, Vec<u8>)>, name: &str) -> (PortId, Vec<u8>) {
    let [only] = <[_; 1]>::try_from(out).unwrap_or_else(|out| panic!("{name}: {} frames", out.len()));
    only
}

fn expect_drop(rig: &mut Rig, port: PortId, frame: &[u8], reason: DropReason, name: &str) {
    let before = rig.dropped(reason);
    let out = rig.exchange(port, frame);
    assert_eq!(rig.dropped(reason), before + 1, "{name}: {reason}; {:?}", rig.counts());
    assert!(out.is_empty(), "{name}: {out:?}");
}

/// Client to frontend, backend's answer back to the client; checks every header on the way.
fn round_trip(
    rig: &mut Rig,
    client: (PortId, SocketAddr),
    frontend: SocketAddr,
    protocol: Protocol,
    name: &str,
) -> AnyKey {
    let to_service = key(protocol, client.1, frontend);
    let (port, frame) =
        one(rig.exchange(client.0, &arriving(client.0, first(to_service).ttl(9).pad_to(60))), name);
    assert_eq!(port, INSIDE, "{name}");
    assert_valid_checksums(&frame);
    let parsed = parse(&frame, frame.len()).unwrap();
    assert_eq!((parsed.ttl, parsed.frame_end()), (8, frame.len()), "{name}: one hop, no padding");
    let to_backend = flow_of(&frame);
    let node =
        if to_backend.dst().to_string().contains("244.2") || to_backend.dst().to_string().contains("244:2") {
            12
        } else {
            11
        };
    assert_eq!(parsed.src_mac, Fixture::port_mac(INSIDE), "{name}");
    assert_eq!(parsed.dst_mac, Fixture::neighbor_mac(INSIDE, node), "{name}");
    let (port, frame) = one(rig.exchange(INSIDE, &arriving(INSIDE, answer(to_backend.reversed()))), name);
    assert_eq!((port, flow_of(&frame)), (client.0, to_service.reversed()), "{name}");
    assert_valid_checksums(&frame);
    to_backend
}

#[test]
fn every_frontend_serves_both_modes_protocols_and_families() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let mut sport = 40_000;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (address, ports) in [
                (world.cluster_ip, [80, 81]),
                (world.external_ip, [80, 81]),
                (world.lb, [80, 81]),
                (world.own[0], [30_080, 30_081]),
            ] {
                for (port, snat) in ports.into_iter().zip([true, false]) {
                    sport += 1;
                    let (client, name) = (at(world.client, sport), format!("{protocol} {address} {port}"));
                    let to = round_trip(&mut rig, (OUTSIDE, client), at(address, port), protocol, &name);
                    assert_eq!((to.dst(), to.dport()), (ip(world.pods[0]), 8080), "{name}");
                    if snat {
                        assert_eq!(to.src(), ip(world.own[1]), "{name}");
                        assert!((1024..61_000).contains(&to.sport()), "{name}");
                    } else {
                        assert_eq!((to.src(), to.sport()), (client.ip(), client.port()), "{name}");
                    }
                }
            }
        }
        assert_eq!((rig.counts().dropped(), rig.counts().packets.punted), (0, 0));
        assert_eq!(rig.counts().flows.created, 16);
    }
}

#[test]
fn dnat_falls_back_where_the_reply_would_bypass() {
    for world in &WORLDS {
        let mut fixture = served(world);
        // A backend on the connected network inside, and a client beside it.
        let (beside, neighbor) =
            if world.family == Family::V4 { ("10.0.0.11", "10.0.0.77") } else { ("fd00::11", "fd00::77") };
        fixture.neighbor(INSIDE, neighbor, 77);
        let near = fixture.service("near", Protocol::Tcp, &[&at(beside, 9090).to_string()], NatMode::Dnat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 90).to_string(), near);
        let mut rig = rig(&mut fixture);
        for (name, client, port) in [
            ("the backend itself", world.pods[0], 81),
            ("another pod", world.pods[1], 81),
            ("a Node", world.node, 81),
            ("a neighbour of the next hop", neighbor, 81),
            ("a neighbour of the backend", neighbor, 90),
        ] {
            let to_service = key(Protocol::Tcp, at(client, 5_000), at(world.lb, port));
            let (_, frame) = one(rig.exchange(INSIDE, &arriving(INSIDE, first(to_service))), name);
            assert_eq!(flow_of(&frame).src(), ip(world.own[1]), "{name}");
            let reply = answer(flow_of(&frame).reversed());
            let (port, frame) = one(rig.exchange(INSIDE, &arriving(INSIDE, reply)), name);
            assert_eq!((port, flow_of(&frame)), (INSIDE, to_service.reversed()), "{name}");
        }
    }
}

#[test]
fn two_packets_of_a_new_flow_in_one_burst_are_one_flow() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let to_service = key(Protocol::Udp, at(world.client, 5353), at(world.lb, 80));
    for payload in [b"1", b"2", b"3"] {
        rig.push(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(to_service).payload(payload)));
    }
    rig.settle();
    let frames = rig.sent(INSIDE);
    assert_eq!(frames.len(), 3);
    assert!(frames.iter().all(|frame| flow_of(frame) == flow_of(&frames[0])));
    assert!(frames.iter().zip(b"123").all(|(frame, payload)| frame.last() == Some(payload)), "in order");
    assert_eq!(rig.counts().flows.created, 1);
}

#[test]
fn refusals_are_told_or_not() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let empty = fixture.service("empty", Protocol::Tcp, &[], NatMode::Snat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 9000).to_string(), empty);
        let none = Choice { action: Action::Drop(DropReason::NoLocalEndpoints), mode: NatMode::Dnat };
        let local =
            fixture.custom_service("local", Protocol::Tcp, (Rule::same(none), Rule::same(none)), vec![]);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 9001).to_string(), local);
        let guarded = fixture.service("guarded", Protocol::Tcp, &[], NatMode::Snat);
        let range = if world.family == Family::V4 { "198.18.0.0/15" } else { "2001:2::/48" };
        let ranges = Lpm::build([(range.parse().unwrap(), ())]).into();
        fixture
            .put_service(tables::ServicePort { source_ranges: Some(ranges), ..fixture.get_service(guarded) });
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 9002).to_string(), guarded);
        fixture.special_route(&format!("{}/{}", world.pods[1], world.family.bits()), Route::Blackhole);
        let mut rig = rig(&mut fixture);
        let tcp = Protocol::Tcp;
        for (name, protocol, dst, reason, told) in [
            ("no endpoints", tcp, at(world.lb, 9000), DropReason::NoEndpoints, true),
            ("no local endpoints", tcp, at(world.lb, 9001), DropReason::NoLocalEndpoints, false),
            ("source range before endpoints", tcp, at(world.lb, 9002), DropReason::SourceRange, false),
            ("unknown port of a clusterIP", tcp, at(world.cluster_ip, 9), DropReason::VipPortUnknown, true),
            ("the same by UDP", Protocol::Udp, at(world.cluster_ip, 9), DropReason::VipPortUnknown, true),
            ("unknown port of a VIP", tcp, at(world.lb, 9), DropReason::VipPortUnknown, false),
            (
                "unknown port of an externalIP",
                tcp,
                at(world.external_ip, 9),
                DropReason::VipPortUnknown,
                false,
            ),
            ("unallocated", tcp, at(world.unallocated, 80), DropReason::ServiceCidrUnallocated, false),
            (
                "a translated port without a flow",
                tcp,
                at(world.own[0], 40_000),
                DropReason::SnatPortUnowned,
                false,
            ),
            ("a blackhole", tcp, at(world.pods[1], 80), DropReason::Blackhole, false),
        ] {
            let to_service = key(protocol, at(world.client, 4_000), dst);
            let before = rig.counts().clone();
            let out = rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service).payload(b"hello")));
            assert_eq!(rig.dropped(reason), before.dropped_for(reason) + 1, "{name}: {:?}", rig.counts());
            assert_eq!(out.len(), usize::from(told), "{name}");
            assert_eq!(
                rig.counts().packets.originated - before.packets.originated,
                u64::from(told),
                "{name}"
            );
            for (port, frame) in out {
                assert_eq!(port, OUTSIDE, "{name}");
                assert_refusal(&frame, to_service, name);
            }
        }
        assert_eq!(rig.counts().flows.created, 0);
    }
}

/// A reset of a TCP flow, or a port unreachable about another, from the address that was asked.
fn assert_refusal(frame: &[u8], refused: AnyKey, name: &str) {
    assert_valid_checksums(frame);
    let parsed = parse(frame, frame.len()).unwrap();
    assert_eq!(parsed.dst_mac, CLIENT_MAC, "{name}");
    match parsed.body {
        Body::Flow { key, tcp_flags } => {
            assert!(tcp_flags.rst(), "{name}");
            assert_eq!(key, refused.reversed(), "{name}");
        }
        Body::Icmp(icmp) => {
            assert_eq!((icmp.addrs.src(), icmp.addrs.dst()), (refused.dst(), refused.src()), "{name}");
            assert_eq!(icmp.inner.map(|inner| inner.key), Some(refused), "{name}");
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn clients_get_what_their_place_gets() {
    let world = &WORLDS[0];
    let mut fixture = served(world);
    let pools = vec![fixture.pool(&["10.244.1.5:80"]), fixture.pool(&["10.244.2.5:80"])];
    let to = |pool| Choice { action: Action::Balance(pool), mode: NatMode::Snat };
    let none = Choice { action: Action::Drop(DropReason::NoLocalEndpoints), mode: NatMode::Snat };
    let rule = Rule {
        outside: none,
        pod: none,
        node: none,
        by_node: Box::new([
            NodeRule { node: NodeId(1), pod: to(0), own: to(1) },
            NodeRule { node: NodeId(2), pod: to(1), own: none },
        ]),
    };
    let id = fixture.custom_service("local", Protocol::Tcp, (rule.clone(), rule), pools);
    fixture.vip(FrontendKind::ClusterIp, "10.96.0.20:80", id);
    let mut rig = rig(&mut fixture);
    for (client, port, pod) in [
        ("10.244.1.9", INSIDE, Some("10.244.1.5")),
        ("10.244.2.9", INSIDE, Some("10.244.2.5")),
        ("10.0.0.11", INSIDE, Some("10.244.2.5")),
        ("10.0.0.12", INSIDE, None),
        ("192.0.2.2", OUTSIDE, None),
    ] {
        let syn = arriving(port, first(key(Protocol::Tcp, at(client, 1_000), at("10.96.0.20", 80))));
        let out = rig.exchange(port, &syn);
        assert_eq!(out.first().map(|(_, frame)| flow_of(frame).dst()), pod.map(ip), "{client}");
    }
    assert_eq!(rig.dropped(DropReason::NoLocalEndpoints), 2);
}

#[test]
fn affinity_keeps_a_client_at_its_backend() {
    let mut fixture = Fixture::data_centre();
    let backends: Vec<String> = (1..=20).map(|n| format!("10.244.1.{n}:80")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let id = fixture.service("sticky", Protocol::Tcp, &backends, NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", id);
    let spread = |rig: &mut Rig| {
        let mut seen: Vec<_> = (0..50)
            .map(|n| {
                let syn = first(key(Protocol::Tcp, at("192.0.2.2", 2_000 + n), at("203.0.113.10", 80)));
                flow_of(&one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, syn)), "a SYN").1).dst()
            })
            .collect();
        seen.sort();
        seen.dedup();
        seen.len()
    };
    let mut rig_ = rig(&mut fixture);
    assert!(spread(&mut rig_) > 10);
    fixture.put_service(tables::ServicePort { affinity_timeout_s: Some(10_800), ..fixture.get_service(id) });
    assert_eq!(spread(&mut rig(&mut fixture)), 1);
}

#[test]
fn what_no_service_wants_is_routed() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let plain = |protocol, src: &str, dst: &str| first(key(protocol, at(src, 700), at(dst, 80))).ttl(5);
        let ping = |src: &str, dst: &str| PacketBuilder::ping(ip(src), ip(dst), 1, 1, b"ping").ttl(5);
        for (name, from, packet, to, last) in [
            ("to a pod", OUTSIDE, plain(Protocol::Tcp, world.client, world.pods[1]), INSIDE, 12),
            ("SCTP to a pod", OUTSIDE, plain(Protocol::Sctp, world.client, world.pods[1]), INSIDE, 12),
            ("from a pod to the world", INSIDE, plain(Protocol::Udp, world.pods[1], world.far), OUTSIDE, 254),
            ("a ping to a pod", OUTSIDE, ping(world.client, world.pods[0]), INSIDE, 11),
            (
                "GRE",
                OUTSIDE,
                PacketBuilder::ip(ip(world.client), ip(world.pods[0]), 47).payload(&[0; 30]).ttl(5),
                INSIDE,
                11,
            ),
            (
                "a fragment",
                OUTSIDE,
                plain(Protocol::Udp, world.client, world.pods[0]).payload(&[0; 64]).fragment(7, 64, true),
                INSIDE,
                11,
            ),
        ] {
            let sent = arriving(from, packet);
            let (port, frame) = one(rig.exchange(from, &sent), name);
            let parsed = parse(&frame, frame.len()).unwrap();
            assert_eq!(
                (port, parsed.ttl, parsed.dst_mac),
                (to, 4, Fixture::neighbor_mac(to, last)),
                "{name}"
            );
            let payload = 14 + if world.family == Family::V4 { 20 } else { 40 };
            assert_eq!(frame[payload..], sent[payload..], "{name}: the rest as it was");
        }
        assert_eq!((rig.counts().dropped(), rig.counts().flows.created), (0, 0));
    }
}

#[test]
fn a_hop_too_many_is_told_from_the_port_that_received_the_packet() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        for (name, dst) in [("transit", at(world.pods[1], 80)), ("a new flow", at(world.lb, 80))] {
            let packet = first(key(Protocol::Tcp, at(world.client, 700), dst)).ttl(1);
            let (port, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet)), name);
            let parsed = parse(&frame, frame.len()).unwrap();
            let Body::Icmp(icmp) = parsed.body else { panic!("{name}: {parsed:?}") };
            assert_eq!(
                (port, icmp.addrs.src(), icmp.kind),
                (OUTSIDE, ip(world.own[0]), if world.family == Family::V4 { 11 } else { 3 })
            );
            assert_valid_checksums(&frame);
        }
        assert_eq!((rig.dropped(DropReason::TtlExceeded), rig.counts().flows.created), (2, 0));
    }
}

#[test]
fn a_packet_too_long_for_its_way_is_told_the_mtu() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let mut ports = fixture.tables.ports.to_vec();
        ports[1].mtu = 1_400;
        fixture.tables.ports = ports.into();
        let mut rig = rig(&mut fixture);
        let to_service = key(Protocol::Udp, at(world.client, 700), at(world.lb, 80));
        let long = arriving(OUTSIDE, PacketBuilder::flow(to_service).payload(&[7; 1_400]));
        let (_, frame) = one(rig.exchange(OUTSIDE, &long), "told");
        let parsed = parse(&frame, frame.len()).unwrap();
        let Body::Icmp(icmp) = parsed.body else { panic!("{parsed:?}") };
        assert!(icmp.is_too_big());
        assert_eq!(icmp.inner.map(|inner| inner.key), Some(to_service), "the packet as the client sent it");
        assert_eq!(frame[usize::from(parsed.l4) + 6..][..2], 1_400u16.to_be_bytes());
        assert_eq!(rig.dropped(DropReason::TooBig), 1);
    }
}

#[test]
fn fragments_and_icmp_errors_of_services_have_their_own_reasons() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let to_service = key(Protocol::Udp, at(world.client, 700), at(world.lb, 80));
        for (offset, more) in [(0, true), (512, false)] {
            let part = PacketBuilder::flow(to_service).payload(&[0; 512]).fragment(9, offset, more);
            expect_drop(
                &mut rig,
                OUTSIDE,
                &arriving(OUTSIDE, part),
                DropReason::FragmentUnsupported,
                "a fragment",
            );
        }
        let to_backend =
            round_trip(&mut rig, (OUTSIDE, at(world.client, 701)), at(world.lb, 80), Protocol::Udp, "a flow");
        let error = |about: AnyKey, to: &str| {
            let quoted = PacketBuilder::flow(about).build()[14..].to_vec();
            let rest = [&[0; 4][..], &quoted].concat();
            let (kind, code) = if world.family == Family::V4 { (3, 3) } else { (1, 4) };
            PacketBuilder::icmp(ip(world.pods[0]), ip(to), kind, code, &rest)
        };
        let about_flow = arriving(INSIDE, error(to_backend, world.own[1]));
        expect_drop(&mut rig, INSIDE, &about_flow, DropReason::IcmpErrorUnsupported, "about a flow");
        let unknown = key(Protocol::Udp, at(world.lb, 80), at(world.client, 999));
        let about_nothing = arriving(OUTSIDE, error(unknown, world.lb));
        expect_drop(&mut rig, OUTSIDE, &about_nothing, DropReason::IcmpErrorWithoutFlow, "about nothing");
        let elsewhere = key(Protocol::Udp, at(world.far, 80), at(world.pods[0], 999));
        let (port, _) = one(rig.exchange(INSIDE, &arriving(INSIDE, error(elsewhere, world.far))), "routed");
        assert_eq!(port, OUTSIDE);
    }
}

#[test]
fn frames_that_are_not_ours_or_not_sound_are_dropped() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let syn = || first(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80)));
    let own = |packet: PacketBuilder| arriving(OUTSIDE, packet);
    let from = |src: &str| own(first(key(Protocol::Tcp, at(src, 700), at(world.lb, 80))));
    let mut cut = own(syn());
    cut.truncate(40);
    let mut unlearned = syn().macs(MacAddr([2, 9, 9, 9, 9, 9]), CLIENT_MAC).build();
    unlearned.resize(60, 0);
    for (frame, reason) in [
        (unlearned, DropReason::NotForUs),
        (own(syn().vlan(VlanTag(7))), DropReason::BadVlan),
        (cut, DropReason::Truncated),
        (own(PacketBuilder::ether(0x88b5).payload(&[0; 46])), DropReason::UnsupportedEtherType),
        (from("127.0.0.1"), DropReason::MartianSource),
        (from("224.0.0.1"), DropReason::MartianSource),
        (from(world.own[0]), DropReason::MartianSource),
    ] {
        expect_drop(&mut rig, OUTSIDE, &frame, reason, "a row");
    }
}

#[test]
fn a_priority_tag_is_read_through_and_taken_off() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        for dst in [at(world.lb, 80), at(world.pods[0], 80)] {
            let tagged =
                first(key(Protocol::Tcp, at(world.client, 700), dst)).vlan(VlanTag(5 << 13)).pad_to(64);
            let (port, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, tagged)), "tagged");
            let parsed = parse(&frame, frame.len()).unwrap();
            assert_eq!(
                (port, parsed.vlan, parsed.dst_mac),
                (INSIDE, None, Fixture::neighbor_mac(INSIDE, 11))
            );
            assert_valid_checksums(&frame);
        }
    }
}

#[test]
fn unfinished_checksums_are_finished_here_or_by_the_port() {
    let offload = Capabilities { rx_checksum: true, tx_tcp_checksum: true, tx_udp_checksum: true };
    for world in &WORLDS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (dst, payload) in
                [(at(world.lb, 80), 1), (at(world.lb, 81), 600), (at(world.pods[0], 80), 77)]
            {
                let packet = first(key(protocol, at(world.client, 700), dst)).payload(&vec![5; payload]);
                let frame = arriving(OUTSIDE, packet.unfinished_checksum());
                let mut software = rig(&mut served(world));
                let (_, sent) = one(software.exchange(OUTSIDE, &frame), "detected");
                assert_valid_checksums(&sent);

                let config = RigConfig { capabilities: offload, ..RigConfig::default() };
                let mut hardware = rig_of(&config, served(world).tables());
                let mut buf = MemBuf::from_frame(&frame).unwrap();
                buf.set_rx_checksum(ChecksumStatus::Partial);
                hardware.port(OUTSIDE).push_buf(buf);
                hardware.settle();
                let buf = hardware.port(INSIDE).pop().expect("sent");
                let request = buf.tx_request().expect("left to the port");
                let ip_len = if world.family == Family::V4 { 20 } else { 40 };
                assert_eq!((request.l2_len, request.l3_len), (14, ip_len));
                let kind = match (protocol, world.family) {
                    (Protocol::Tcp, Family::V4) => ChecksumKind::Tcp4,
                    (Protocol::Tcp, Family::V6) => ChecksumKind::Tcp6,
                    (_, Family::V4) => ChecksumKind::Udp4,
                    (_, Family::V6) => ChecksumKind::Udp6,
                };
                assert_eq!(request.kind, kind);
                let left = buf.to_vec();
                let parsed = parse(&left, left.len()).unwrap();
                assert!(packet::checksum::is_unfinished(&parsed, &left), "the pseudo header as it leaves");
            }
        }
    }
}

#[test]
fn a_scattered_frame_is_summed_over_its_segments() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let packet = first(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80))).payload(&[9; 301]);
    let frame = arriving(OUTSIDE, packet.unfinished_checksum());
    let mut buf = MemBuf::from_frame(&frame[..75]).unwrap();
    buf.push_segment(&frame[75..200]);
    buf.push_segment(&frame[200..]);
    let (_, sent) = one(rig.exchange_buf(OUTSIDE, buf), "scattered");
    assert_eq!(sent.len(), frame.len());
    assert_valid_checksums(&sent);
}

#[test]
fn vips_answer_arp_and_solicitations_while_they_are_programmed() {
    let mut fixture = served(&WORLDS[0]);
    services(&mut fixture, &WORLDS[1]);
    let mut rig = rig(&mut fixture);
    let v4 = |text: &str| text.parse().unwrap();
    for (name, sender, target, answered) in [
        ("a VIP", "192.0.2.2", "203.0.113.10", true),
        ("a probe", "0.0.0.0", "203.0.113.10", true),
        ("an externalIP", "192.0.2.2", "198.51.100.7", true),
        ("a clusterIP", "192.0.2.2", "10.96.0.10", false),
        ("the kernel's own", "192.0.2.2", "192.0.2.1", false),
        ("somebody's", "192.0.2.2", "192.0.2.9", false),
    ] {
        let out =
            rig.exchange(OUTSIDE, &PacketBuilder::arp_request(CLIENT_MAC, v4(sender), v4(target)).build());
        assert_eq!(out.len(), usize::from(answered), "{name}");
        assert_eq!(rig.punted().len(), usize::from(!answered), "{name}");
        for (port, frame) in out {
            let Body::Arp(arp) = parse(&frame, frame.len()).unwrap().body else { panic!("{name}") };
            let mac = Fixture::port_mac(OUTSIDE);
            assert_eq!(
                (port, arp.operation, arp.sender_mac, arp.sender_ip),
                (OUTSIDE, ArpOperation::Reply, mac, v4(target))
            );
            assert_eq!((arp.target_mac, arp.target_ip), (CLIENT_MAC, v4(sender)));
        }
    }
    let v6 = |text: &str| text.parse().unwrap();
    for (name, src, target, answered) in [
        ("a VIP", "2001:db8:1::2", "2001:db8:f::10", true),
        ("a probe", "::", "2001:db8:f::10", true),
        ("a clusterIP", "2001:db8:1::2", "fd00:96::10", false),
        ("the kernel's own", "2001:db8:1::2", "2001:db8:1::1", false),
    ] {
        let ask = PacketBuilder::neighbor_solicitation(CLIENT_MAC, v6(src), v6(target)).build();
        let out = rig.exchange(OUTSIDE, &ask);
        assert_eq!(out.len(), usize::from(answered), "{name}: {:?}", rig.counts());
        assert_eq!(rig.punted().len(), usize::from(!answered), "{name}");
        for (port, frame) in out {
            assert_valid_checksums(&frame);
            let Body::Nd(nd) = parse(&frame, frame.len()).unwrap().body else { panic!("{name}") };
            assert_eq!((port, nd.kind, nd.target), (OUTSIDE, NdKind::NeighborAdvertisement, v6(target)));
            assert_eq!(
                (nd.link_layer, nd.solicited),
                (Some(Fixture::port_mac(OUTSIDE)), src != "::"),
                "{name}"
            );
        }
    }
    assert_eq!(
        rig.counts().packets.consumed,
        rig.counts().packets.originated - 8,
        "8 announcements at the start"
    );
}

#[test]
fn new_vips_are_announced_once_on_every_port_that_answers() {
    let mut fixture = Fixture::data_centre();
    let mut rig = Rig::new(&RigConfig::default(), Tables::empty(tables::Generation(0)));
    assert_eq!(rig.counts().ports().len(), 0, "a worker without ports lives");
    rig = Rig::new(&RigConfig::default(), fixture.tables());
    rig.settle();
    assert!(rig.all_sent().is_empty(), "own addresses are the kernel's to announce");
    for world in &WORLDS {
        services(&mut fixture, world);
    }
    rig.publish(fixture.tables());
    let out = rig.all_sent();
    assert_eq!(out.len(), 8, "two families, VIP and externalIP, two ports");
    for (port, frame) in &out {
        let parsed = parse(frame, frame.len()).unwrap();
        assert_eq!(parsed.src_mac, Fixture::port_mac(*port));
        match parsed.body {
            Body::Arp(Arp { sender_ip, target_ip, .. }) => assert_eq!(sender_ip, target_ip),
            Body::Nd(nd) => assert_eq!((nd.kind, nd.solicited), (NdKind::NeighborAdvertisement, false)),
            other => panic!("{other:?}"),
        }
    }
    rig.publish(fixture.tables());
    assert!(rig.all_sent().is_empty(), "nothing new");
}

#[test]
fn pings_of_vips_and_own_addresses() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let empty = fixture.service("empty", Protocol::Tcp, &[], NatMode::Snat);
        let idle = if world.family == Family::V4 { "203.0.113.77" } else { "2001:db8:f::77" };
        fixture.vip(FrontendKind::LoadBalancer, &at(idle, 80).to_string(), empty);
        let ping = |dst| arriving(OUTSIDE, PacketBuilder::ping(ip(world.client), ip(dst), 3, 4, b"data"));
        let mut rig = rig(&mut fixture);
        let (_, pong) = one(rig.exchange(OUTSIDE, &ping(world.lb)), "a usable VIP");
        assert_valid_checksums(&pong);
        let Body::Icmp(icmp) = parse(&pong, pong.len()).unwrap().body else { panic!("no ICMP") };
        assert!(icmp.is_echo_reply() && icmp.addrs.src() == ip(world.lb));
        expect_drop(&mut rig, OUTSIDE, &ping(idle), DropReason::NoEndpoints, "an idle VIP");
        let (_, refusal) = one(rig.exchange(OUTSIDE, &ping(world.cluster_ip)), "a clusterIP");
        let Body::Icmp(icmp) = parse(&refusal, refusal.len()).unwrap().body else { panic!("no ICMP") };
        assert!(icmp.is_error());
        assert!(rig.exchange(OUTSIDE, &ping(world.own[0])).is_empty());
        assert_eq!(rig.punted().len(), 1, "the kernel answers for itself");

        let config = RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() };
        let mut alone = rig_of(&config, fixture.tables());
        let (_, pong) = one(alone.exchange(OUTSIDE, &ping(world.own[0])), "own address without a kernel");
        let Body::Icmp(icmp) = parse(&pong, pong.len()).unwrap().body else { panic!("no ICMP") };
        assert!(icmp.is_echo_reply());
    }
}

#[test]
fn own_addresses_belong_to_the_kernel_or_to_us() {
    for world in &WORLDS {
        let ssh = first(key(Protocol::Tcp, at(world.client, 700), at(world.own[0], 22)));
        let ssh = arriving(OUTSIDE, ssh);
        let mut rig = rig(&mut served(world));
        assert!(rig.exchange(OUTSIDE, &ssh).is_empty());
        let [(Message::Frame { port: OUTSIDE, .. }, frame)] = &rig.punted()[..] else { panic!("not punted") };
        assert_eq!(frame, &ssh);

        let config = RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() };
        let mut alone = rig_of(&config, served(world).tables());
        let (_, reset) = one(alone.exchange(OUTSIDE, &ssh), "nobody listens");
        assert_refusal(&reset, flow_of(&ssh), "nobody listens");
        let ask = match ip(world.own[0]) {
            IpAddr::V4(own) => PacketBuilder::arp_request(CLIENT_MAC, "192.0.2.2".parse().unwrap(), own),
            IpAddr::V6(own) => {
                PacketBuilder::neighbor_solicitation(CLIENT_MAC, "2001:db8:1::2".parse().unwrap(), own)
            }
        };
        assert_eq!(alone.exchange(OUTSIDE, &ask.build()).len(), 1, "answered here");
        let multicast = if world.family == Family::V4 { "224.0.0.251" } else { "ff02::fb" };
        let mdns = PacketBuilder::flow(key(Protocol::Udp, at(world.client, 5353), at(multicast, 5353)));
        let mdns = mdns.macs(MacAddr([1, 0, 0x5e, 0, 0, 0xfb]), CLIENT_MAC).build();
        expect_drop(&mut alone, OUTSIDE, &mdns, DropReason::MulticastUnsupported, "mDNS");
    }
}

#[test]
fn a_full_ring_to_the_kernel_is_counted() {
    let world = &WORLDS[0];
    let config = RigConfig { punt_bytes: 1, ..RigConfig::default() };
    let mut rig = rig_of(&config, served(world).tables());
    let ssh = first(key(Protocol::Tcp, at(world.client, 700), at(world.own[0], 22))).payload(&[0; 1_400]);
    for _ in 0..20 {
        rig.exchange(OUTSIDE, &arriving(OUTSIDE, ssh.clone()));
    }
    assert!(rig.dropped(DropReason::PuntRingFull) > 0 && rig.counts().packets.punted > 0);
}

#[test]
fn packets_wait_for_their_neighbour_within_bounds() {
    for world in &WORLDS {
        let mut fixture = served(world);
        fixture.set_neighbor(INSIDE, world.node, AdjacencyState::Incomplete);
        let mut rig = rig(&mut fixture);
        let packet = |n: u16| {
            arriving(OUTSIDE, first(key(Protocol::Tcp, at(world.client, 100 + n), at(world.pods[0], 80))))
        };
        let silent = if world.family == Family::V4 { "10.0.0.200" } else { "fd00::200" };
        let to_silent = arriving(OUTSIDE, first(key(Protocol::Tcp, at(world.client, 1), at(silent, 80))));
        for n in 0..10 {
            assert!(rig.exchange(OUTSIDE, &packet(n)).is_empty());
        }
        assert!(rig.exchange(OUTSIDE, &to_silent).is_empty(), "a connected network, nobody known");
        assert_eq!((rig.counts().packets.held, rig.dropped(DropReason::HoldFull)), (9, 2));
        let asked: Vec<_> = rig.punted().into_iter().map(|(message, _)| message).collect();
        let ask = |address| Message::Resolve { port: INSIDE, address: ip(address) };
        assert_eq!(asked, [ask(world.node), ask(silent)]);

        fixture.neighbor(INSIDE, world.node, 11);
        rig.publish(fixture.tables());
        let out = rig.all_sent();
        assert_eq!((out.len(), rig.counts().packets.held), (8, 1));
        for (n, (port, frame)) in (0..).zip(&out) {
            let parsed = parse(frame, frame.len()).unwrap();
            assert_eq!((*port, parsed.dst_mac), (INSIDE, Fixture::neighbor_mac(INSIDE, 11)));
            assert_eq!(flow_of(frame).sport(), 100 + n, "in order");
        }
        rig.now = rig.now.plus(1_001);
        rig.settle();
        assert_eq!((rig.counts().packets.held, rig.dropped(DropReason::NeighborUnresolved)), (0, 1));
    }
}

#[test]
fn a_flow_follows_the_fib_but_keeps_its_backend() {
    let world = &WORLDS[0];
    let mut fixture = served(world);
    let mut rig = rig(&mut fixture);
    let to_service = key(Protocol::Tcp, at(world.client, 900), at(world.lb, 80));
    let to_backend =
        round_trip(&mut rig, (OUTSIDE, at(world.client, 900)), at(world.lb, 80), Protocol::Tcp, "before");
    fixture.route("10.244.1.0/24", "10.0.0.12");
    rig.publish(fixture.tables());
    let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(to_service))), "after");
    assert_eq!(flow_of(&frame), to_backend);
    assert_eq!(parse(&frame, frame.len()).unwrap().dst_mac, Fixture::neighbor_mac(INSIDE, 12));
}

#[test]
fn udp_leaves_a_backend_that_is_gone_and_tcp_stays() {
    for (protocol, moves) in [(Protocol::Udp, true), (Protocol::Tcp, false)] {
        let mut fixture = Fixture::data_centre();
        let ids = [fixture.backend("10.244.1.5:80"), fixture.backend("10.244.2.5:80")];
        let [first_pool, second_pool] = [fixture.pool_of(&ids[..1]), fixture.pool_of(&ids[1..])];
        let rule = Rule::same(Choice { action: Action::Balance(0), mode: NatMode::Snat });
        let id = fixture.custom_service("moving", protocol, (rule.clone(), rule), vec![first_pool]);
        fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", id);
        let mut rig = rig(&mut fixture);
        let (client, vip) = (at("192.0.2.2", 900), at("203.0.113.10", 80));
        round_trip(&mut rig, (OUTSIDE, client), vip, protocol, "before");
        fixture
            .put_service(tables::ServicePort { pools: Box::new([second_pool]), ..fixture.get_service(id) });
        fixture.remove_backend(ids[0]);
        rig.publish(fixture.tables());
        let packet = arriving(OUTSIDE, PacketBuilder::flow(key(protocol, client, vip)));
        let (_, frame) = one(rig.exchange(OUTSIDE, &packet), "after");
        let want = if moves { "10.244.2.5" } else { "10.244.1.5" };
        assert_eq!(flow_of(&frame).dst(), ip(want), "{protocol}");
    }
}

#[test]
fn a_new_connection_does_not_join_a_finished_one_at_a_dead_backend() {
    let mut fixture = Fixture::data_centre();
    let ids = [fixture.backend("10.244.1.5:80"), fixture.backend("10.244.2.5:80")];
    let pools = [fixture.pool_of(&ids[..1]), fixture.pool_of(&ids[1..])];
    let rule = Rule::same(Choice { action: Action::Balance(0), mode: NatMode::Dnat });
    let id = fixture.custom_service("moving", Protocol::Tcp, (rule.clone(), rule), vec![pools[0].clone()]);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", id);
    let mut rig = rig(&mut fixture);
    let to_service = key(Protocol::Tcp, at("192.0.2.2", 900), at("203.0.113.10", 80));
    let to_backend =
        round_trip(&mut rig, (OUTSIDE, at("192.0.2.2", 900)), at("203.0.113.10", 80), Protocol::Tcp, "one");
    let reset = PacketBuilder::flow(to_backend.reversed()).flags(TcpFlags::RST);
    one(rig.exchange(INSIDE, &arriving(INSIDE, reset)), "the reset");
    fixture
        .put_service(tables::ServicePort { pools: Box::new([pools[1].clone()]), ..fixture.get_service(id) });
    fixture.remove_backend(ids[0]);
    rig.publish(fixture.tables());
    let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service))), "two");
    assert_eq!(flow_of(&frame).dst(), ip("10.244.2.5"));
}

#[test]
fn replies_that_never_come_back_are_noticed_once_a_flow() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let to_service = key(Protocol::Tcp, at(world.client, 900), at(world.lb, 81));
    for _ in 0..3 {
        rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(to_service)));
    }
    assert_eq!(rig.counts().flows.bypassed, 1);
    rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(to_service)));
    assert_eq!(rig.counts().flows.bypassed, 1);
}

#[test]
fn full_tables_refuse_and_exhausted_ports_are_told() {
    let world = &WORLDS[0];
    let config = RigConfig { flows: 8, ..RigConfig::default() };
    let mut rig = rig_of(&config, served(world).tables());
    for n in 0..20 {
        let (client, vip) = (at(world.client, 900 + n), at(world.lb, 80));
        let out = rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(key(Protocol::Tcp, client, vip))));
        if let [(_, frame)] = &out[..] {
            rig.exchange(INSIDE, &arriving(INSIDE, answer(flow_of(frame).reversed())));
        }
    }
    assert!(rig.dropped(DropReason::FlowTableFull) >= 12, "{:?}", rig.counts());

    let mut fixture = served(world);
    fixture.tables.snat =
        tables::SnatConfig { addresses: Box::new([]), ports: tables::SnatRange::new(5_000, 5_001, []) }
            .into();
    let mut rig = self::rig(&mut fixture);
    for n in 0..2 {
        round_trip(&mut rig, (OUTSIDE, at(world.client, 900 + n)), at(world.lb, 80), Protocol::Tcp, "fits");
    }
    let third = key(Protocol::Tcp, at(world.client, 902), at(world.lb, 80));
    let (_, reset) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(third))), "told");
    assert_refusal(&reset, third, "exhausted");
    assert_eq!(rig.dropped(DropReason::SnatExhausted), 1);
}

#[test]
fn a_backend_without_a_way_is_counted_by_its_reason() {
    let mut fixture = Fixture::new();
    fixture.neighbor(OUTSIDE, "192.0.2.2", 2);
    let cut_off = fixture.service("cut-off", Protocol::Tcp, &["172.16.0.1:80"], NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", cut_off);
    let mut rig = rig(&mut fixture);
    for (dst, reason) in [("203.0.113.10", DropReason::NoRoute), ("172.16.0.1", DropReason::NoRoute)] {
        let syn = arriving(OUTSIDE, first(key(Protocol::Tcp, at("192.0.2.2", 900), at(dst, 80))));
        expect_drop(&mut rig, OUTSIDE, &syn, reason, dst);
    }
    let mut fixture = Fixture::new();
    let mut ports = fixture.tables.ports.to_vec();
    ports[1].addresses = Box::new([]);
    fixture.tables.ports = ports.into();
    fixture.neighbor(INSIDE, "10.0.0.11", 11);
    let nameless = fixture.service("nameless", Protocol::Tcp, &["10.0.0.11:80"], NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", nameless);
    let mut rig = self::rig(&mut fixture);
    let syn = arriving(OUTSIDE, first(key(Protocol::Tcp, at("192.0.2.2", 900), at("203.0.113.10", 80))));
    expect_drop(&mut rig, OUTSIDE, &syn, DropReason::SnatNoAddress, "no address inside");
}

#[test]
fn a_stuck_port_drops_and_is_counted_while_the_rest_is_held() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    rig.port(INSIDE).limit_tx(3);
    for n in 0..50 {
        rig.push(
            OUTSIDE,
            &arriving(OUTSIDE, first(key(Protocol::Tcp, at(world.client, 900 + n), at(world.lb, 80)))),
        );
    }
    rig.settle();
    let counts = rig.counts();
    assert_eq!((counts.packets.held, rig.dropped(DropReason::TxFull)), (32, 15));
    assert_eq!(rig.sent(INSIDE).len(), 3);
}

#[test]
fn frames_of_the_kernel_leave_by_their_port() {
    let mut rig = rig(&mut Fixture::data_centre());
    rig.inject.frame(INSIDE, [&b"a frame of the kernel"[..]].into_iter()).unwrap();
    rig.inject.frame(PortId(9), [&b"nowhere"[..]].into_iter()).unwrap();
    rig.settle();
    assert_eq!(rig.sent(INSIDE), [b"a frame of the kernel".to_vec()]);
    assert_eq!((rig.counts().packets.injected, rig.dropped(DropReason::BadDevice)), (2, 1));
}

#[test]
fn control_sees_flows_and_counters() {
    use tables::command::{Answer, Command, FlowFilter};
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    for n in 0..3 {
        round_trip(&mut rig, (OUTSIDE, at(world.client, 900 + n)), at(world.lb, 80), Protocol::Tcp, "a flow");
    }
    assert!(rig.commands.send(Command::ListFlows { filter: FlowFilter::default(), limit: 10 }));
    rig.settle();
    let answers: Vec<_> = std::iter::from_fn(|| rig.commands.answer()).collect();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers.last(), Some(&Answer::Done { matched: 3, truncated: false }));
    assert_eq!(rig.counters.snapshot(), *rig.counts());
    assert_eq!((rig.counts().flows.used, rig.counts().imbalance()), (3, 0));
}

#[test]
fn silent_flows_are_swept_and_the_sweep_is_reported() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    round_trip(&mut rig, (OUTSIDE, at(world.client, 900)), at(world.lb, 80), Protocol::Udp, "a flow");
    rig.now = Millis(rig.now.0 + 3_600_000);
    rig.turn();
    assert_eq!((rig.counts().flows.used, rig.counts().flows.expired), (0, 1));
    assert_eq!(rig.publisher.swept(), rig.publisher.programmed());
}

#[test]
fn sources_are_told_apart() {
    let mut fixture = Fixture::data_centre();
    let tables = fixture.tables();
    assert_eq!(tables.source_of(ip("10.244.2.9")), Source::Pod(NodeId(2)));
    assert_eq!(tables.source_of(ip("fd00::11")), Source::Node(NodeId(1)));
    assert_eq!(tables.source_of(ip("192.0.2.2")), Source::Outside);
}
