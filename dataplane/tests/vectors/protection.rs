//! What senders cannot bring about: flows where they are not served, from sources that cannot be, or too many in a second;
//! and a slow path that is busy with them alone.

use dataplane::testkit::{INSIDE, OUTSIDE, Rig};
use packet::{
    Family, MacAddr, Protocol, TcpFlags,
    testkit::{PacketBuilder, flow_of},
};
use tables::{
    DropReason, KernelRates, Limits, PortId, PortInfo, Serves, SnatConfig, SnatRange, punt::Message,
};

use crate::world::*;

/// Limits that are in force, and BFD's port left to the kernel.
fn limited(world: &World, limits: Limits) -> Rig {
    let mut fixture = served(world);
    fixture.tables.limits = limits;
    let ports = SnatRange::new(1_024, 60_999, [3_784]);
    fixture.tables.snat = SnatConfig { addresses: Box::new([]), ports }.into();
    rig(&mut fixture)
}

/// Opens a flow, or says why not.
fn open(rig: &mut Rig, key: packet::AnyKey) -> Option<Vec<u8>> {
    let mut out = rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(key)));
    out.pop().map(|(_, frame)| frame)
}

#[test]
fn a_port_serves_the_frontends_that_it_is_told_to_and_flows_that_are_there() {
    const NONE: Serves = Serves { vip: false, node_port: false, cluster_ip: false };
    for world in &WORLDS {
        let frontends = [
            (world.lb, 80, Serves { vip: true, ..NONE }),
            (world.external_ip, 80, Serves { vip: true, ..NONE }),
            (world.cluster_ip, 80, Serves { cluster_ip: true, ..NONE }),
            (world.own[0], 30_080, Serves { node_port: true, ..NONE }),
        ];
        for (dst, port, only) in frontends {
            let mut fixture = served(world);
            let mut with = |serves| {
                let serve = |port: &PortInfo| PortInfo { serves, ..port.clone() };
                let ports = fixture.tables.ports().iter();
                let ports = ports.map(|port| if port.id == OUTSIDE { serve(port) } else { port.clone() });
                let ports: Vec<_> = ports.collect();
                fixture.tables.set_ports(ports);
                fixture.tables()
            };
            let mut rig = rig_of(&Default::default(), with(only));
            let key = |sport, dst, port| key(Protocol::Tcp, at(world.client, sport), at(dst, port));
            for (other, port, serves) in frontends {
                let served = serves == only;
                let reply = open(&mut rig, key(700, other, port));
                assert_eq!(reply.is_some(), served, "{other}");
            }
            let refused = frontends.iter().filter(|(.., serves)| *serves != only).count();
            assert_eq!(rig.dropped(DropReason::NotServedHere), refused as u64);
            // A flow outlives the rule it began under; pings and unknown ports have no flow.
            rig.publish(with(NONE));
            let syn = arriving(OUTSIDE, first(key(700, dst, port)));
            assert_eq!(rig.exchange(OUTSIDE, &syn).len(), 1, "{dst}");
            for vip in [world.lb, world.cluster_ip] {
                let unknown = arriving(OUTSIDE, first(key(700, vip, 4_444)));
                expect_drop(&mut rig, OUTSIDE, &unknown, DropReason::NotServedHere, vip);
                let ping = arriving(OUTSIDE, PacketBuilder::ping(ip(world.client), ip(vip), 1, 1, b"ping"));
                expect_drop(&mut rig, OUTSIDE, &ping, DropReason::NotServedHere, vip);
            }
            // From inside nothing is closed.
            let inside = key_from_inside(world, dst, port);
            assert_eq!(rig.exchange(INSIDE, &arriving(INSIDE, first(inside))).len(), 1, "{dst}");
        }
    }
}

fn key_from_inside(world: &World, dst: &str, port: u16) -> packet::AnyKey {
    key(Protocol::Tcp, at(world.pods[1], 700), at(dst, port))
}

#[test]
fn sources_that_nobody_may_send_from_get_nowhere() {
    for world in &WORLDS {
        let mut rows = vec![
            (world.own[0], DropReason::MartianSource),
            (world.own[1], DropReason::MartianSource),
            (world.lb, DropReason::ServiceSource),
            (world.cluster_ip, DropReason::ServiceSource),
        ];
        let impossible: &[&str] = match world.family {
            Family::V4 => &[
                "127.0.0.1",
                "0.0.0.0",
                "0.1.2.3",
                "224.0.0.9",
                "255.255.255.255",
                "192.0.2.255",
                "10.0.0.255",
            ],
            Family::V6 => &["::1", "::", "ff02::1", "::ffff:192.0.2.9"],
        };
        rows.extend(impossible.iter().map(|source| (*source, DropReason::MartianSource)));
        let mut rig = rig(&mut served(world));
        for (source, reason) in rows {
            for (dst, port) in [(world.lb, 80), (world.pods[0], 9)] {
                let packet = first(key(Protocol::Tcp, at(source, 700), at(dst, port)));
                expect_drop(&mut rig, OUTSIDE, &arriving(OUTSIDE, packet), reason, source);
            }
            let ping = PacketBuilder::ping(ip(source), ip(world.pods[0]), 1, 1, b"ping");
            expect_drop(&mut rig, OUTSIDE, &arriving(OUTSIDE, ping), reason, source);
        }
        // An externalIP may be a host's own.
        assert!(open(&mut rig, key(Protocol::Tcp, at(world.external_ip, 700), at(world.lb, 80))).is_some());
    }
}

#[test]
fn a_source_begins_no_more_flows_in_a_second_than_it_may_and_others_do_not_notice() {
    for world in &WORLDS {
        let mut rig = limited(world, Limits { flows_per_source: 20, ..Limits::default() });
        let from = |client, sport| key(Protocol::Tcp, at(client, sport), at(world.lb, 80));
        let opened = |rig: &mut Rig, client, sports: std::ops::Range<u16>| {
            sports.filter(|sport| open(rig, from(client, *sport)).is_some()).count()
        };
        assert_eq!(opened(&mut rig, world.client, 700..800), 20);
        assert_eq!(rig.dropped(DropReason::SourceLimit), 80);
        // Its flows go on, and other clients have their own.
        assert!(open(&mut rig, from(world.client, 700)).is_some());
        assert_eq!(opened(&mut rig, world.far, 700..710), 10);
        rig.now = rig.now.plus(500);
        assert_eq!(opened(&mut rig, world.client, 800..900), 10);
        // An IPv6 neighbour of its /64 is the same source.
        if world.family == Family::V6 {
            assert_eq!(opened(&mut rig, "2001:db8:1::beef", 700..710), 0);
            assert_eq!(opened(&mut rig, "2001:db8:77::beef", 700..710), 10);
        }
        // What begins no flow does not count.
        let mut rig = limited(world, Limits { flows_per_source: 1, ..Limits::default() });
        let lone = arriving(OUTSIDE, PacketBuilder::flow(from(world.client, 1)).flags(TcpFlags::RST));
        expect_drop(&mut rig, OUTSIDE, &lone, DropReason::TcpWithoutFlow, "a lone RST");
        assert_eq!(opened(&mut rig, world.client, 700..710), 1);
    }
}

#[test]
fn a_service_has_no_more_new_flows_in_a_second_than_it_may_and_says_so_itself_where_it_wants() {
    for world in &WORLDS {
        for (of_service, passed) in [(None, 30), (Some(5), 5), (Some(0), 100)] {
            let mut fixture = served(world);
            fixture.tables.limits.flows_per_service = 30;
            let vip = |port| fixture.tables.index.vip(ip(world.lb), Protocol::Udp, port).unwrap().service;
            let (limited, other) = (vip(80), vip(81));
            let service = fixture.get_service(limited);
            fixture.put_service(tables::ServicePort { flows_per_second: of_service, ..service });
            assert_ne!(limited, other);
            let mut rig = rig(&mut fixture);
            let to = |port, sport| key(Protocol::Udp, at(world.client, sport), at(world.lb, port));
            let opened = (700..800).filter(|sport| open(&mut rig, to(80, *sport)).is_some()).count();
            assert_eq!((opened, rig.dropped(DropReason::ServiceLimit)), (passed, 100 - passed as u64));
            assert!(open(&mut rig, to(81, 700)).is_some(), "another Service");
        }
    }
}

#[test]
fn floods_for_the_appliance_itself_leave_the_others_their_share_of_the_kernel() {
    for world in &WORLDS {
        let rates =
            KernelRates { neighbors: 300, icmp: 200, opens: 100, routing: 400, sessions: 500, other: 100 };
        let limits = Limits { kernel: rates, ..Limits::default() };
        let own = |src: &str, port| key(Protocol::Tcp, at(src, 40_000), at(world.own[0], port));
        let neighbor = |_: &World| match world.family {
            Family::V4 => PacketBuilder::arp(packet::Arp {
                operation: packet::ArpOperation::Reply,
                sender_mac: CLIENT_MAC,
                sender_ip: "192.0.2.2".parse().unwrap(),
                target_mac: MacAddr([2, 0, 0, 0, 0, 1]),
                target_ip: "192.0.2.1".parse().unwrap(),
            }),
            Family::V6 => PacketBuilder::ping(ip(world.client), ip(world.own[0]), 1, 1, b"no ARP there"),
        };
        let kinds: [(&str, PacketBuilder, usize); 7] = [
            ("neighbours", neighbor(world), if world.family == Family::V4 { 30 } else { 20 }),
            ("SYNs", first(own(world.far, 22)), 10),
            ("BGP", PacketBuilder::flow(own(world.client, 179)), 40),
            ("BGP from far away", PacketBuilder::flow(own(world.far, 179)), 50),
            (
                "BFD",
                PacketBuilder::flow(key(Protocol::Udp, at(world.client, 49_152), at(world.own[0], 3_784))),
                40,
            ),
            ("ssh", PacketBuilder::flow(own(world.client, 22)), 50),
            ("UDP", PacketBuilder::flow(key(Protocol::Udp, at(world.far, 9), at(world.own[0], 9))), 10),
        ];
        for (flood, packet, share) in &kinds {
            let mut rig = limited(world, limits);
            let punted = |rig: &mut Rig, packet: &PacketBuilder, count: usize| {
                (0..count).for_each(|_| rig.push(OUTSIDE, &arriving(OUTSIDE, packet.clone())));
                rig.settle();
                let frames = |(message, _): &(Message, Vec<u8>)| matches!(message, Message::Frame { .. });
                rig.punted().iter().filter(|one| frames(one)).count()
            };
            assert_eq!(punted(&mut rig, packet, 1_000), *share, "{flood}");
            assert_eq!(rig.dropped(DropReason::PuntLimit), 1_000 - *share as u64, "{flood}");
            let same = |other: &str| {
                kinds.iter().find(|(name, ..)| *name == other).is_some_and(|(.., of)| of == share)
            };
            for (name, other, _) in kinds.iter().filter(|(name, ..)| !same(name)) {
                assert_eq!(punted(&mut rig, other, 1), 1, "{name} beside a flood of {flood}");
            }
            rig.now = rig.now.plus(100);
            assert!(punted(&mut rig, packet, 100) >= 10, "{flood}: time heals");
        }
    }
}

#[test]
fn a_flood_for_the_appliance_takes_nothing_from_forwarded_flows() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let (client, vip) = (at(world.client, 700), at(world.lb, 80));
    round_trip(&mut rig, (OUTSIDE, client), vip, Protocol::Tcp, "before");
    let ping = arriving(OUTSIDE, PacketBuilder::ping(ip(world.client), ip(world.own[0]), 1, 1, b"flood"));
    for _ in 0..2_000 {
        rig.push(OUTSIDE, &ping);
    }
    rig.push(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(key(Protocol::Tcp, client, vip))));
    rig.settle();
    assert_eq!(flow_of(&rig.sent(INSIDE)[0]).dst(), ip(world.pods[0]));
    assert_eq!((rig.counts().packets.punted, rig.dropped(DropReason::PuntLimit)), (100, 1_900));
    assert_eq!(rig.sent(PortId(0)).len(), 0);
}
