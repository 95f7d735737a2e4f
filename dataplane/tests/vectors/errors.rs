//! ICMP errors about flows: from routers and ends, in both directions, whole or cut quotations.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig};
use packet::{
    AnyKey, Family, Protocol, parse,
    testkit::{PacketBuilder, assert_valid_checksums},
};
use tables::{DropReason, PortId};

use crate::world::*;

/// Type, code and the word behind the checksum.
type Kind = (u8, u8, u32);

/// Errors by family.
const ERRORS: [(&str, [Kind; 2]); 4] = [
    ("port unreachable", [(3, 3, 0), (1, 4, 0)]),
    ("too big", [(3, 4, 1400), (2, 0, 1400)]),
    ("TTL exceeded", [(11, 0, 0), (3, 0, 0)]),
    ("parameter problem", [(12, 0, 4 << 24), (4, 1, 40)]),
];

/// An error of `from` to `to` that quotes the packet of a frame, up to `limit` bytes behind its IP header.
fn error(kind: Kind, (from, to): (&str, &str), quoted: &[u8], limit: usize) -> PacketBuilder {
    let l4 = usize::from(parse(quoted, quoted.len()).unwrap().l4);
    let quoted = &quoted[14..quoted.len().min(l4 + limit)];
    let (kind, code, word) = kind;
    PacketBuilder::icmp(ip(from), ip(to), kind, code, &[&word.to_be_bytes()[..], quoted].concat())
}

/// One flow as the wire saw it: each direction's packet as it was sent and as it arrived.
struct Flow {
    sent: [PacketBuilder; 2],
    arrived: [Vec<u8>; 2],
}

/// A packet each way.
fn open(rig: &mut Rig, to_service: AnyKey, name: &str) -> Flow {
    let client = first(to_service).payload(b"a question that is quoted");
    let (_, to_backend) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, client.clone())), name);
    let key = parse(&to_backend, to_backend.len()).unwrap().key().unwrap();
    let backend = answer(key.reversed());
    let (_, to_client) = one(rig.exchange(INSIDE, &arriving(INSIDE, backend.clone())), name);
    Flow { sent: [client, backend], arrived: [to_backend, to_client] }
}

/// Who says that the packet of a direction (0: the client's) came to grief, where the error arrives, and what its
/// receiver must take for the sender.
struct Case {
    name: &'static str,
    direction: usize,
    from: &'static str,
    arrives: PortId,
    seen_from: &'static str,
}

fn cases(world: &World, snat: bool) -> [Case; 4] {
    let (router, client) =
        (if world.family == Family::V4 { "192.0.2.254" } else { "2001:db8:1::fe" }, world.client);
    let case = |name, direction, from, seen_from| {
        let arrives = if direction == 0 { INSIDE } else { OUTSIDE };
        Case { name, direction, from, arrives, seen_from }
    };
    [
        case("a router inside", 0, world.node, world.lb),
        case("the backend", 0, world.pods[0], world.lb),
        case("a router outside", 1, router, if snat { world.own[1] } else { router }),
        case("the client", 1, client, if snat { world.own[1] } else { client }),
    ]
}

/// Sends the error and expects it as it would be had the flow's sender's own packet been quoted.
fn check(rig: &mut Rig, flow: &Flow, case: &Case, kind: Kind, limit: usize) {
    let quoted = &flow.arrived[case.direction];
    let parsed = parse(quoted, quoted.len()).unwrap();
    let to = parsed.addrs().unwrap().src().to_string();
    let sent = arriving(case.arrives, error(kind, (case.from, &to), quoted, limit));
    let (port, frame) = one(rig.exchange(case.arrives, &sent), case.name);

    let original = flow.sent[case.direction].clone().ttl(parsed.ttl).build();
    let receiver = parse(&original, original.len()).unwrap().addrs().unwrap().src().to_string();
    let (out, last) = if case.direction == 0 { (OUTSIDE, 2) } else { (INSIDE, 11) };
    let want = error(kind, (case.seen_from, &receiver), &original, limit).ttl(63);
    let want = want.macs(Fixture::neighbor_mac(out, last), Fixture::port_mac(out)).build();
    assert_valid_checksums(&frame);
    assert_eq!((port, frame), (out, want), "{}: {kind:?}, {limit} bytes quoted", case.name);
}

#[test]
fn an_error_reaches_the_sender_of_what_it_quotes_in_the_terms_it_knows() {
    for world in &WORLDS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (port, snat) in [(80, true), (81, false)] {
                let mut rig = rig(&mut served(world));
                let to_service = key(protocol, at(world.client, 700), at(world.lb, port));
                let flow = open(&mut rig, to_service, "a flow");
                for (name, kinds) in ERRORS {
                    let kind = kinds[usize::from(world.family == Family::V6)];
                    for case in cases(world, snat) {
                        for limit in [8, 20, 1_500] {
                            check(&mut rig, &flow, &case, kind, limit);
                        }
                    }
                    assert_eq!((rig.counts().dropped(), rig.punted().len()), (0, 0), "{name}");
                }
            }
        }
    }
}

#[test]
fn an_error_does_not_touch_its_flow() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    let flow = open(&mut rig, key(Protocol::Udp, at(world.client, 700), at(world.lb, 80)), "a flow");
    let [case, ..] = cases(world, true);
    for _ in 0..10 {
        rig.now = rig.now.plus(20_000);
        let (kind, to) = (ERRORS[0].1[0], world.own[1]);
        rig.exchange(INSIDE, &arriving(INSIDE, error(kind, (case.from, to), &flow.arrived[0], 8)));
    }
    assert_eq!(rig.counts().flows.expired, 1, "silent for longer than its timeout");
}

#[test]
fn errors_that_may_not_pass_are_dropped_each_for_its_reason() {
    for world in &WORLDS {
        let v6 = usize::from(world.family == Family::V6);
        let mut fixture = served(world);
        let mut ports = fixture.tables.ports().to_vec();
        ports[0].mtu = 1_280;
        fixture.tables.set_ports(ports);
        let mut rig = rig(&mut fixture);
        let to_service = key(Protocol::Udp, at(world.client, 700), at(world.lb, 80));
        let flow = open(&mut rig, to_service, "a flow");
        let kind = ERRORS[0].1[v6];
        let about = |from: &str| error(kind, (from, world.own[1]), &flow.arrived[0], 8);
        let long =
            PacketBuilder::flow(parse(&flow.arrived[0], flow.arrived[0].len()).unwrap().key().unwrap());
        let long = error(kind, (world.node, world.own[1]), &long.payload(&[0; 1_300]).build(), 1_500);
        let mut rows = vec![
            ("from an address of ours", about(world.own[0]), DropReason::MartianSource),
            ("a hop too many", about(world.node).ttl(1), DropReason::TtlExceeded),
            ("longer than the way out", long, DropReason::TooBig),
        ];
        if v6 == 0 {
            let to = (world.node, world.own[1]);
            let redirect = error((5, 1, 0x0a00_000c), to, &flow.arrived[0], 8);
            let quench = error((4, 0, 0), to, &flow.arrived[0], 8);
            rows.push(("a redirect", redirect, DropReason::IcmpErrorUnsupported));
            rows.push(("a source quench", quench, DropReason::IcmpErrorUnsupported));
        }
        for (name, packet, reason) in rows {
            expect_drop(&mut rig, INSIDE, &arriving(INSIDE, packet), reason, name);
        }
    }
}

#[test]
fn errors_about_no_flow_are_dropped_at_vips_and_routed_elsewhere() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let kind = ERRORS[0].1[usize::from(world.family == Family::V6)];
        let about = |key: AnyKey, to| error(kind, (world.pods[0], to), &PacketBuilder::flow(key).build(), 8);
        let unknown = key(Protocol::Udp, at(world.lb, 80), at(world.client, 999));
        let about_nothing = arriving(OUTSIDE, about(unknown, world.lb));
        expect_drop(&mut rig, OUTSIDE, &about_nothing, DropReason::IcmpErrorWithoutFlow, "about nothing");
        let elsewhere = key(Protocol::Udp, at(world.far, 80), at(world.pods[0], 999));
        let (port, _) = one(rig.exchange(INSIDE, &arriving(INSIDE, about(elsewhere, world.far))), "routed");
        assert_eq!(port, OUTSIDE);
        let own = key(Protocol::Udp, at(world.own[1], 53), at(world.pods[0], 999));
        assert!(rig.exchange(INSIDE, &arriving(INSIDE, about(own, world.own[1]))).is_empty());
        assert_eq!(rig.punted().len(), 1, "about a packet of the kernel");
    }
}
