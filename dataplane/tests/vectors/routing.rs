//! Routes, hops, MTU, neighbours.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig};
use packet::{
    Body, Family, Protocol, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{AdjacencyState, DropReason, FrontendKind, NatMode, NodeId, Source, punt::Message};

use crate::world::*;

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
                "a first fragment",
                OUTSIDE,
                plain(Protocol::Udp, world.client, world.pods[0]).payload(&[0; 64]).fragment(7, 0, true),
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
        let mut ports = fixture.tables.ports().to_vec();
        ports[1].mtu = 1_400;
        fixture.tables.set_ports(ports);
        let mut rig = rig(&mut fixture);
        let to_service = key(Protocol::Udp, at(world.client, 700), at(world.lb, 80));
        let long = PacketBuilder::flow(to_service).payload(&[7; 1_400]).dont_fragment();
        let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, long)), "told");
        let parsed = parse(&frame, frame.len()).unwrap();
        let Body::Icmp(icmp) = parsed.body else { panic!("{parsed:?}") };
        assert!(icmp.is_too_big());
        assert_eq!(icmp.inner.map(|inner| inner.key), Some(to_service), "the packet as the client sent it");
        assert_eq!(frame[usize::from(parsed.l4) + 6..][..2], 1_400u16.to_be_bytes());
        assert_eq!((rig.dropped(DropReason::TooBig), rig.counts().fragments.cut), (1, 0));
    }
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
fn a_held_packet_meets_the_mtu_of_the_tables_that_release_it() {
    for world in &WORLDS {
        let mut fixture = served(world);
        fixture.set_neighbor(INSIDE, world.node, AdjacencyState::Incomplete);
        let mut rig = rig(&mut fixture);
        let headers = if world.family == Family::V4 { 28 } else { 48 };
        for (sport, ip_len) in [(900, 1_400), (901, 1_401)] {
            let to_service = key(Protocol::Udp, at(world.client, sport), at(world.lb, 80));
            let packet = PacketBuilder::flow(to_service).payload(&vec![7; ip_len - headers]);
            assert!(rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet)).is_empty());
        }
        let mut ports = fixture.tables.ports().to_vec();
        ports[1].mtu = 1_400;
        fixture.tables.set_ports(ports);
        fixture.neighbor(INSIDE, world.node, 11);
        rig.publish(fixture.tables());
        let (port, frame) = one(rig.all_sent(), "the one that fits");
        assert_eq!((port, frame.len()), (INSIDE, 14 + 1_400));
        assert_eq!((rig.counts().packets.held, rig.dropped(DropReason::TooBig)), (0, 1));
    }
}

#[test]
fn a_scan_of_silent_addresses_keeps_no_neighbour_from_being_asked_for() {
    let mut rig = rig(&mut Fixture::data_centre());
    let mut knock = |last: u8| {
        let to = at(&format!("10.0.0.{last}"), 80);
        assert!(
            rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(key(Protocol::Tcp, at("192.0.2.2", 9), to))))
                .is_empty()
        );
    };
    (100..200).for_each(&mut knock);
    (0..20).for_each(|_| knock(200));
    assert_eq!(rig.counts().packets.held, 64);
    let asked: Vec<_> = rig.punted().into_iter().map(|(message, _)| message).collect();
    let ask = Message::Resolve { port: INSIDE, address: ip("10.0.0.200") };
    assert!(asked.contains(&ask), "although nothing more is held");
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
    let mut ports = fixture.tables.ports().to_vec();
    ports[1].addresses = Box::new([]);
    fixture.tables.set_ports(ports);
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
fn sources_are_told_apart() {
    let mut fixture = Fixture::data_centre();
    let tables = fixture.tables();
    assert_eq!(tables.source_of(ip("10.244.2.9")), Source::Pod(NodeId(2)));
    assert_eq!(tables.source_of(ip("fd00::11")), Source::Node(NodeId(1)));
    assert_eq!(tables.source_of(ip("192.0.2.2")), Source::Outside);
}

#[test]
fn handshakes_through_a_clamped_port_offer_no_more_than_fits_there() {
    const OFFER: [u8; 4] = [2, 4, 0x05, 0xb4];
    for world in &WORLDS {
        let mut fixture = served(world);
        let mut ports = fixture.tables.ports().to_vec();
        (ports[0].mss, ports[1].mss) = (Some(1_440), Some(1_360));
        fixture.tables.set_ports(ports);
        let mut rig = rig(&mut fixture);
        let want: u16 = if world.family == Family::V4 { 1_360 } else { 1_340 };
        let offered = |frame: &[u8], name: &str| {
            assert_valid_checksums(frame);
            let l4 = usize::from(parse(frame, frame.len()).unwrap().l4);
            assert_eq!(frame[l4 + 22..][..2], want.to_be_bytes(), "{name}");
        };
        let to_service = key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80));
        let syn = first(to_service).tcp_options(&OFFER);
        let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, syn.clone())), "a new flow");
        offered(&frame, "a new flow");
        let reply = answer(flow_of(&frame).reversed()).tcp_options(&OFFER);
        offered(&one(rig.exchange(INSIDE, &arriving(INSIDE, reply)), "its answer").1, "its answer");
        offered(&one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, syn.clone())), "again").1, "again");
        let unfinished = arriving(OUTSIDE, syn.unfinished_checksum());
        offered(&one(rig.exchange(OUTSIDE, &unfinished), "unfinished").1, "unfinished");
        let routed = first(key(Protocol::Tcp, at(world.client, 700), at(world.pods[1], 80)));
        let routed = arriving(OUTSIDE, routed.tcp_options(&OFFER));
        offered(&one(rig.exchange(OUTSIDE, &routed), "routed").1, "routed");
        let data = arriving(OUTSIDE, PacketBuilder::flow(to_service).tcp_options(&OFFER));
        let (_, frame) = one(rig.exchange(OUTSIDE, &data), "data");
        let l4 = usize::from(parse(&frame, frame.len()).unwrap().l4);
        assert_eq!(frame[l4 + 20..][..4], OFFER, "no handshake");
    }
}

/// The far clients of a world, by the number of their port.
fn far_flow(world: &World, sport: u16, (dst, dport): (&str, u16)) -> packet::AnyKey {
    key(Protocol::Udp, at(world.far, sport), at(dst, dport))
}

#[test]
fn flows_share_several_next_hops_and_only_those_of_one_that_goes_move() {
    for world in &WORLDS {
        let routers: [&str; 3] = match world.family {
            Family::V4 => ["10.0.0.61", "10.0.0.62", "10.0.0.63"],
            Family::V6 => ["fd00::61", "fd00::62", "fd00::63"],
        };
        let remote = if world.family == Family::V4 { "172.16.9.9" } else { "fd00:9::9" };
        let all = if world.family == Family::V4 { "172.16.0.0/12" } else { "fd00:9::/32" };
        let mut fixture = Fixture::data_centre();
        for (last, router) in (61..).zip(routers) {
            fixture.neighbor(INSIDE, router, last);
        }
        // A Service's backend and a plain destination, both beyond the routers.
        let service = fixture.service("far", Protocol::Udp, &[&at(remote, 53).to_string()], NatMode::Snat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 53).to_string(), service);
        fixture.spread_route(all, &routers);
        let mut rig = rig(&mut fixture);
        let taken = |rig: &mut Rig| -> Vec<_> {
            let flows = (0..90)
                .map(|n| far_flow(world, 7_000 + n, if n % 2 == 0 { (world.lb, 53) } else { (remote, 9) }));
            let hop = |key| {
                let (port, frame) =
                    one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(key))), "sent");
                assert_eq!(port, INSIDE);
                parse(&frame, frame.len()).unwrap().dst_mac
            };
            flows.map(hop).collect()
        };
        let before = taken(&mut rig);
        let mac = |last| Fixture::neighbor_mac(INSIDE, last);
        for last in [61, 62, 63] {
            let share = before.iter().filter(|taken| **taken == mac(last)).count();
            assert!((18..42).contains(&share), "{share} of 90 by one of three");
        }
        assert_eq!(taken(&mut rig), before, "flows keep their next hop");
        fixture.spread_route(all, &[routers[0], routers[2]]);
        rig.publish(fixture.tables());
        let after = taken(&mut rig);
        for (before, after) in before.iter().zip(&after) {
            assert!(*before == mac(62) || before == after);
            assert_ne!(*after, mac(62));
        }
        fixture.spread_route(all, &routers);
        rig.publish(fixture.tables());
        assert_eq!(taken(&mut rig), before, "back again");
    }
}

#[test]
fn a_packet_that_waited_for_one_of_several_next_hops_takes_the_one_of_its_flow() {
    let world = &WORLDS[0];
    let mut fixture = Fixture::data_centre();
    for router in ["10.0.0.61", "10.0.0.62"] {
        fixture.set_neighbor(INSIDE, router, AdjacencyState::Incomplete);
    }
    fixture.spread_route("172.16.0.0/12", &["10.0.0.61", "10.0.0.62"]);
    let mut rig = rig(&mut fixture);
    let keys: Vec<_> = (0..6).map(|n| far_flow(world, 7_000 + n, ("172.16.9.9", 9))).collect();
    for key in &keys {
        assert!(rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(*key))).is_empty());
    }
    (61..63).for_each(|last| _ = fixture.neighbor(INSIDE, &format!("10.0.0.{last}"), last));
    rig.publish(fixture.tables());
    let released = rig.all_sent();
    assert_eq!(released.len(), 6);
    for (_, held) in &released {
        let again = arriving(OUTSIDE, PacketBuilder::flow(flow_of(held)));
        let (_, now) = one(rig.exchange(OUTSIDE, &again), "again");
        assert_eq!(parse(&now, now.len()).unwrap().dst_mac, parse(held, held.len()).unwrap().dst_mac);
    }
}
