//! ARP, neighbour discovery, ping, and the appliance's own addresses.

use std::net::IpAddr;

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    Arp, ArpOperation, Body, Family, MacAddr, NdKind, Protocol, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{DropReason, FrontendKind, NatMode, PortId, PortSet, Tables, punt::Message};

use crate::world::*;

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
fn announcing_goes_on_to_its_end_while_tables_change_every_turn() {
    const VIPS: u8 = 250;
    let mut fixture = Fixture::data_centre();
    let mut rig = Rig::new(&RigConfig::default(), fixture.tables());
    rig.settle();
    let id = fixture.service("many", Protocol::Tcp, &["10.244.1.5:80"], NatMode::Snat);
    for last in 0..VIPS {
        fixture.vip(FrontendKind::LoadBalancer, &format!("203.0.113.{last}:80"), id);
    }
    let mut heard = std::collections::HashMap::new();
    for _ in 0..30 {
        rig.publisher.publish(fixture.tables());
        rig.turn();
        for frame in rig.sent(OUTSIDE) {
            let Body::Arp(arp) = parse(&frame, frame.len()).unwrap().body else { panic!("ARP alone") };
            *heard.entry(arp.sender_ip).or_insert(0) += 1;
        }
    }
    assert_eq!(heard.len(), usize::from(VIPS), "every VIP was announced");
    assert!(heard.values().all(|&times| times <= 2), "no VIP more than twice: {heard:?}");
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
fn without_a_kernel_news_of_neighbours_is_for_control_while_it_asks() {
    let config = RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() };
    let target = "192.0.2.60".parse().unwrap();
    let news = PacketBuilder::arp_request(CLIENT_MAC, target, target).build();
    for asking in [false, true] {
        let mut tables = served(&WORLDS[0]).tables();
        tables.asking = asking;
        let mut alone = rig_of(&config, tables);
        let consumed = alone.counts().packets.consumed;
        assert!(alone.exchange(OUTSIDE, &news).is_empty());
        let punted: Vec<_> = alone.punted().into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(punted, vec![news.clone(); usize::from(asking)]);
        assert_eq!(alone.counts().packets.consumed, consumed + u64::from(!asking));
    }
}

#[test]
fn a_full_ring_to_the_kernel_is_counted() {
    let world = &WORLDS[0];
    let config = RigConfig { ring_bytes: 1, ..RigConfig::default() };
    let mut rig = rig_of(&config, served(world).tables());
    let ssh = first(key(Protocol::Tcp, at(world.client, 700), at(world.own[0], 22))).payload(&[0; 1_400]);
    for _ in 0..20 {
        rig.exchange(OUTSIDE, &arriving(OUTSIDE, ssh.clone()));
    }
    assert!(rig.dropped(DropReason::PuntRingFull) > 0 && rig.counts().packets.punted > 0);
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
