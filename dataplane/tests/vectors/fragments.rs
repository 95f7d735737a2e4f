//! Datagrams in parts: every order, both ways, every end they can take.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    AnyKey, Body, Fragment, Protocol, TcpFlags, VlanTag, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{DropReason, FrontendKind, NatMode, PortId, PortSet};

use crate::world::*;

/// The packet in parts of `size` bytes of payload.
pub(crate) fn cut(whole: &PacketBuilder, id: u32, size: usize) -> Vec<PacketBuilder> {
    let frame = whole.build();
    let parsed = parse(&frame, frame.len()).unwrap();
    let (addrs, protocol) = (parsed.addrs().unwrap(), parsed.key().unwrap().protocol());
    let payload = &frame[parsed.l4.into()..];
    let part = |(n, bytes): (usize, &[u8])| {
        let (offset, more) = (u16::try_from(n * size).unwrap(), (n + 1) * size < payload.len());
        let packet = PacketBuilder::ip(addrs.src(), addrs.dst(), protocol.number()).ttl(9);
        packet.payload(bytes).fragment(id, offset, more)
    };
    payload.chunks(size).enumerate().map(part).collect()
}

/// The datagram that these parts are of, in whatever order; each has lost one hop.
pub(crate) fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<_> = frames
        .iter()
        .map(|frame| {
            let parsed = parse(frame, frame.len()).unwrap();
            assert_eq!((parsed.ttl, parsed.frame_end()), (8, frame.len()));
            let (offset, more) = match parsed.fragment {
                Fragment::First { .. } => (0, true),
                Fragment::Later { offset, more, .. } => (usize::from(offset), more),
                Fragment::Whole => panic!("not in parts"),
            };
            (offset, more, parsed, &frame[parsed.l4.into()..])
        })
        .collect();
    parts.sort_by_key(|(offset, ..)| *offset);
    let mut payload = Vec::new();
    for (n, (offset, more, parsed, bytes)) in parts.iter().enumerate() {
        assert_eq!((*offset, *more), (payload.len(), n + 1 < parts.len()), "no gap and one end");
        assert_eq!(parsed.addrs(), parts[0].2.addrs());
        payload.extend_from_slice(bytes);
    }
    let Body::OtherIp { addrs, protocol } = parts[0].2.body else { panic!("no fragment") };
    PacketBuilder::ip(addrs.src(), addrs.dst(), protocol).payload(&payload).build()
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// Lets the parts arrive in this order, and gives what was sent.
fn send(rig: &mut Rig, port: PortId, parts: &[PacketBuilder], order: &[usize]) -> Vec<(PortId, Vec<u8>)> {
    for &n in order {
        rig.push(port, &arriving(port, parts[n].clone()));
        rig.settle();
    }
    rig.all_sent()
}

fn long(key: AnyKey) -> PacketBuilder {
    let flags = if key.sport() >= 8_000 { TcpFlags::ACK } else { TcpFlags::SYN };
    PacketBuilder::flow(key)
        .flags(flags)
        .payload(&(0..2_500u32).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>())
}

/// All parts of one datagram as they leave by `port`, put together.
fn datagram(out: Vec<(PortId, Vec<u8>)>, port: PortId) -> Vec<u8> {
    assert!(out.iter().all(|(by, _)| *by == port), "{out:02x?}");
    let frames: Vec<_> = out.into_iter().map(|(_, frame)| frame).collect();
    let whole = join(&frames);
    assert_valid_checksums(&whole);
    whole
}

#[test]
fn the_parts_of_a_datagram_follow_its_flow_in_any_order_both_ways() {
    for world in &WORLDS {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for port in [80, 81] {
                let mut rig = rig(&mut served(world));
                for (sport, order) in (700..).zip(ORDERS) {
                    let to_service = key(protocol, at(world.client, sport), at(world.lb, port));
                    let question = long(to_service);
                    let out = send(&mut rig, OUTSIDE, &cut(&question, 7, 1_000), &order);
                    let whole = datagram(out, INSIDE);
                    let to_backend = flow_of(&whole);
                    assert_eq!(to_backend.dst(), ip(world.pods[0]));
                    assert!(whole.ends_with(&question.build()[100..]), "as it was sent");

                    let out = send(&mut rig, INSIDE, &cut(&long(to_backend.reversed()), 9, 1_000), &order);
                    assert_eq!(flow_of(&datagram(out, OUTSIDE)), to_service.reversed());
                    let small = arriving(OUTSIDE, PacketBuilder::flow(to_service));
                    assert_eq!(
                        flow_of(&one(rig.exchange(OUTSIDE, &small), "whole").1),
                        to_backend,
                        "one flow"
                    );
                }
                let counts = rig.counts();
                assert_eq!((counts.flows.created, counts.dropped(), counts.packets.held), (6, 0, 0));
            }
        }
    }
}

#[test]
fn no_part_goes_to_a_backend_that_is_gone() {
    for world in &WORLDS {
        let mut fixture = Fixture::data_centre();
        let moving = Moving::new(&mut fixture, world, Protocol::Udp, NatMode::Snat);
        let mut rig = rig(&mut fixture);
        let to_service = key(Protocol::Udp, at(world.client, 700), at(world.lb, 80));
        let parts = cut(&long(to_service), 7, 1_000);
        let begun = send(&mut rig, OUTSIDE, &parts, &[0, 1]);
        assert_eq!(begun.len(), 2);
        moving.replace(&mut fixture, false);
        // In the turn that takes them: only after it are flows of what is gone swept away.
        rig.publisher.publish(fixture.tables());
        let last = arriving(OUTSIDE, parts[2].clone());
        assert_eq!(
            rig.exchange(OUTSIDE, &last),
            [],
            "to its datagram's backend, which another pod may be by now"
        );
        assert_eq!(rig.dropped(DropReason::FragmentExpired), 1);
        // Asked again, it goes to who serves now.
        let whole = datagram(send(&mut rig, OUTSIDE, &cut(&long(to_service), 8, 1_000), &[0, 1, 2]), INSIDE);
        assert_eq!(flow_of(&whole).dst(), ip(world.pods[1]));
    }
}

#[test]
fn the_last_part_of_a_datagram_renews_its_flow_too_whatever_way_it_takes() {
    // On the short way, behind a priority tag, and what is not UDP; flows that time out 30 and 120 s after their last packet.
    let priority = Some(VlanTag(0x6000));
    let cases =
        [(Protocol::Udp, None, 28_000), (Protocol::Udp, priority, 28_000), (Protocol::Tcp, None, 118_000)];
    for (world, (protocol, tag, silence_ms)) in
        WORLDS.iter().flat_map(|world| cases.map(|case| (world, case)))
    {
        let mut rig = rig(&mut served(world));
        let to_service = key(protocol, at(world.client, 700), at(world.lb, 80));
        let parts = cut(&long(to_service), 7, 1_000).into_iter();
        let parts: Vec<_> = parts.map(|part| tag.map_or(part.clone(), |tag| part.vlan(tag))).collect();
        assert_eq!(send(&mut rig, OUTSIDE, &parts, &[0, 1]).len(), 2);
        rig.now = rig.now.plus(4_000);
        assert_eq!(send(&mut rig, OUTSIDE, &parts, &[2]).len(), 1);
        rig.now = rig.now.plus(silence_ms);
        rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(to_service)));
        let flows = rig.counts().flows;
        assert_eq!((flows.created, flows.expired), (1, 0), "{protocol} {tag:?}");
    }
}

#[test]
fn parts_that_no_service_wants_are_routed_or_delivered_in_any_order() {
    for world in &WORLDS {
        for order in ORDERS {
            let mut rig = rig(&mut served(world));
            let to_pod = key(Protocol::Udp, at(world.client, 700), at(world.pods[1], 53));
            let whole = datagram(send(&mut rig, OUTSIDE, &cut(&long(to_pod), 7, 1_000), &order), INSIDE);
            assert_eq!(flow_of(&whole), to_pod);
            let to_us = key(Protocol::Udp, at(world.client, 700), at(world.own[0], 53));
            let parts = cut(&long(to_us), 8, 1_000);
            assert!(send(&mut rig, OUTSIDE, &parts, &order).is_empty());
            let mut punted: Vec<_> = rig.punted().into_iter().map(|(_, frame)| frame).collect();
            let mut want: Vec<_> = parts.into_iter().map(|part| arriving(OUTSIDE, part)).collect();
            punted.sort();
            want.sort();
            assert_eq!(punted, want, "as they came: the kernel puts them together");
            assert_eq!((rig.counts().dropped(), rig.counts().packets.held), (0, 0));
        }
    }
}

#[test]
fn a_refused_datagram_is_answered_once_and_dropped_in_all_its_parts() {
    for world in &WORLDS {
        for order in ORDERS {
            let mut rig = rig(&mut served(world));
            let refused = key(Protocol::Udp, at(world.client, 700), at(world.cluster_ip, 9));
            let (_, answer) = one(send(&mut rig, OUTSIDE, &cut(&long(refused), 7, 1_000), &order), "told");
            assert_refusal(&answer, refused, "refused");
            assert_eq!(rig.dropped(DropReason::VipPortUnknown), 3, "{:?}", rig.counts());
        }
    }
}

#[test]
fn parts_that_wait_in_vain_are_dropped_at_a_vip_and_routed_elsewhere() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        for (dst, id) in [(world.lb, 7), (world.pods[1], 8)] {
            let parts = cut(&long(key(Protocol::Udp, at(world.client, 700), at(dst, 80))), id, 1_000);
            assert!(send(&mut rig, OUTSIDE, &parts, &[1, 2]).is_empty());
        }
        assert_eq!(rig.counts().packets.held, 4);
        rig.now = rig.now.plus(1_001);
        rig.settle();
        assert_eq!((rig.dropped(DropReason::FragmentExpired), rig.counts().packets.held), (2, 0));
        let out = rig.all_sent();
        assert_eq!(out.len(), 2);
        for (port, frame) in out {
            let parsed = parse(&frame, frame.len()).unwrap();
            assert_eq!((port, parsed.addrs().unwrap().dst(), parsed.ttl), (INSIDE, ip(world.pods[1]), 8));
        }
    }
}

#[test]
fn what_the_standards_forbid_is_dropped_with_the_rest_of_its_datagram() {
    for world in &WORLDS {
        let to_service = key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80));
        let parts = cut(&long(to_service), 7, 1_000);
        let tiny = cut(&long(to_service), 8, 16);
        let reach_over = cut(&long(to_service), 7, 8)[1].clone();
        for (name, packets, reasons) in [
            ("a header in two parts", vec![&tiny[0], &tiny[1]], [DropReason::BadFragment; 2]),
            (
                "a second header over the first (RFC 1858)",
                vec![&parts[0], &reach_over, &parts[1]],
                [DropReason::FragmentOverlap; 2],
            ),
            (
                "the same from behind",
                vec![&reach_over, &parts[0], &parts[1]],
                [DropReason::FragmentOverlap; 2],
            ),
            ("one part twice", vec![&parts[0], &parts[0]], [DropReason::FragmentRepeated; 2]),
        ] {
            let mut rig = rig(&mut served(world));
            let count = packets.len() as u64;
            for packet in packets {
                rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet.clone()));
            }
            let dropped = rig.dropped(reasons[0]);
            assert!(dropped + 1 >= count, "{name}: {:?}", rig.counts());
            assert_eq!((rig.counts().dropped(), rig.counts().packets.held), (dropped, 0), "{name}");
        }
    }
}

#[test]
fn an_sctp_flow_takes_no_fragments_but_routes_do() {
    for world in &WORLDS {
        let mut fixture = Fixture::data_centre();
        let id =
            fixture.service("sctp", Protocol::Sctp, &[&at(world.pods[0], 80).to_string()], NatMode::Snat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 80).to_string(), id);
        let mut rig = rig(&mut fixture);
        for (dst, dropped) in [(world.lb, 3), (world.pods[0], 0)] {
            let parts = cut(&long(key(Protocol::Sctp, at(world.client, 700), at(dst, 80))), 7, 1_000);
            let out = send(&mut rig, OUTSIDE, &parts, &[2, 0, 1]);
            assert_eq!(out.len() + dropped, 3);
        }
        assert_eq!(rig.dropped(DropReason::FragmentUnsupported), 3);
    }
}

#[test]
fn a_flood_of_orphans_does_not_hurt_datagrams_that_are_whole() {
    for world in &WORLDS {
        let config = RigConfig { mirrored: PortSet::NONE, ..RigConfig::default() };
        let mut rig = rig_of(&config, served(world).tables());
        for round in 0..200u16 {
            let datagram_ = cut(
                &long(key(Protocol::Udp, at(world.client, 1_000 + round), at(world.lb, 80))),
                u32::from(round),
                1_000,
            );
            for (n, part) in (0u32..).zip([2, 1, 0]) {
                for orphan in 0..30 {
                    let name = u32::from(round) * 100 + n * 30 + orphan;
                    let attack = key(Protocol::Udp, at(world.far, 5), at(world.lb, 80));
                    rig.push(OUTSIDE, &arriving(OUTSIDE, cut(&long(attack), name, 1_000)[1].clone()));
                }
                rig.push(OUTSIDE, &arriving(OUTSIDE, datagram_[part].clone()));
                rig.settle();
            }
            let whole = datagram(rig.all_sent(), INSIDE);
            assert_eq!(flow_of(&whole).dst(), ip(world.pods[0]), "{round}");
        }
        assert!(rig.counts().packets.held <= 256);
        assert_eq!(rig.counts().imbalance(), 0);
    }
}

/// The data centre with a narrow network inside.
fn narrow(world: &World, mtu: u16) -> Fixture {
    let mut fixture = served(world);
    let mut ports = fixture.tables.ports().to_vec();
    ports[1].mtu = mtu;
    fixture.tables.set_ports(ports);
    fixture
}

#[test]
fn a_packet_too_long_for_its_way_leaves_in_parts_that_fit_unless_its_sender_forbids() {
    for world in &WORLDS {
        let v4 = world.family == packet::Family::V4;
        for (protocol, port, dst) in [
            (Protocol::Udp, 80, world.lb),
            (Protocol::Udp, 81, world.lb),
            (Protocol::Tcp, 81, world.lb),
            (Protocol::Udp, 9_000, world.pods[0]),
        ] {
            let mut rig = rig(&mut narrow(world, 600));
            let question = key(protocol, at(world.client, 700), at(dst, port));
            for packet in [long(question), long(question).unfinished_checksum()] {
                // In two segments, so that parts begin and end in either.
                let frame = arriving(OUTSIDE, packet.clone().payload(&[5; 1_300]).ttl(9));
                let mut buf = dataplane::io::mem::MemBuf::from_frame(&frame[..700]).unwrap();
                buf.push_segment(&frame[700..]);
                let out = rig.exchange_buf(OUTSIDE, buf);
                if v4 {
                    assert_eq!(out.len(), 3);
                    assert!(out.iter().all(|(_, part)| part.len() <= 14 + 600));
                    let whole = datagram(out, INSIDE);
                    assert_eq!(flow_of(&whole).dst(), ip(world.pods[0]));
                    assert!(whole.ends_with(&frame[80..]));
                } else {
                    let (port, told) = one(out, "told");
                    assert_eq!((port, told[54]), (OUTSIDE, 2), "packet too big");
                }
                let told =
                    rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet.payload(&[5; 1_300]).dont_fragment()));
                assert_eq!(told.len(), 1, "told");
            }
            let counts = rig.counts();
            let (cut, told) = if v4 { (2, 2) } else { (0, 4) };
            assert_eq!((counts.fragments.cut, counts.fragments.made), (cut, 3 * cut), "{counts:?}");
            assert_eq!((rig.dropped(DropReason::TooBig), counts.imbalance()), (told, 0));
        }
    }
}

#[test]
fn a_part_too_long_for_its_way_is_cut_again_and_parts_wait_for_their_neighbour() {
    let world = &WORLDS[0];
    let mut fixture = narrow(world, 600);
    fixture.set_neighbor(INSIDE, world.node, tables::AdjacencyState::Incomplete);
    let mut rig = rig(&mut fixture);
    let question = long(key(Protocol::Udp, at(world.client, 700), at(world.lb, 80)));
    assert!(send(&mut rig, OUTSIDE, &cut(&question, 7, 1_000), &[1, 0, 2]).is_empty());
    assert_eq!(rig.counts().packets.held, 5);
    fixture.neighbor(INSIDE, world.node, 11);
    rig.publish(fixture.tables());
    let out = rig.all_sent();
    assert!(out.iter().all(|(_, part)| part.len() <= 14 + 600));
    let whole = datagram(out, INSIDE);
    assert!(whole.ends_with(&question.build()[100..]), "as it was sent");
    assert_eq!((rig.counts().fragments.cut, rig.counts().fragments.made), (2, 4));
}

#[test]
fn without_buffers_for_its_parts_a_packet_is_lost_for_that_reason() {
    let world = &WORLDS[0];
    let mut fixture = narrow(world, 600);
    let mut rig = rig(&mut fixture);
    rig.port(INSIDE).limit_alloc(1);
    let packet = long(key(Protocol::Udp, at(world.client, 700), at(world.lb, 80))).payload(&[5; 1_300]);
    let out = rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet));
    assert_eq!((out.len(), rig.dropped(DropReason::NoBuffer)), (1, 1));
    assert_eq!((rig.counts().fragments.cut, rig.counts().fragments.made), (0, 1));
}
