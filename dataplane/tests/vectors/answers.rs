//! What senders are told of packets that go no further, as the configuration says; `trace` says the same.

use dataplane::{
    testkit::{OUTSIDE, Rig},
    trace::{Explanation, Moment, Told, Verdict, explain, explain_echo},
};
use packet::{
    AnyKey, Body, Family, Protocol, TcpFlags, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{Answers, DropReason, FrontendKind, NatMode, RejectForm};

use crate::world::*;

const FORMS: [RejectForm; 3] = [RejectForm::Auto, RejectForm::Icmp, RejectForm::Silent];

/// The world's Services, and one without endpoints at port 9000 of the load-balancer address, under these rules.
fn under(world: &World, answers: Answers) -> Rig {
    let mut fixture = served(world);
    for protocol in Protocol::ALL {
        let empty = fixture.service("empty", protocol, &[], NatMode::Snat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 9_000).to_string(), empty);
        // The address is as usable as its other Services are.
        let web = fixture.tables.index.vip(ip(world.lb), protocol, 80).unwrap().service;
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 80).to_string(), web);
    }
    fixture.tables.answers = answers;
    rig(&mut fixture)
}

/// What the form of refusals makes of a packet.
fn expected(form: RejectForm, protocol: Option<Protocol>) -> Option<Told> {
    match (form, protocol) {
        (RejectForm::Silent, _) => None,
        (RejectForm::Auto, Some(Protocol::Tcp)) => Some(Told::Reset),
        _ => Some(Told::PortUnreachable),
    }
}

fn told_by(frame: &[u8]) -> Told {
    assert_valid_checksums(frame);
    match parse(frame, frame.len()).unwrap().body {
        Body::Flow { tcp_flags, .. } if tcp_flags.rst() => Told::Reset,
        // Destination unreachable, port: RFC 792, RFC 4443.
        Body::Icmp(icmp) if matches!((icmp.kind, icmp.code), (3, 3) | (1, 4)) => Told::PortUnreachable,
        other => panic!("{other:?}"),
    }
}

/// The packet is dropped for the reason, its sender hears this, and trace says both.
fn expect_refusal(
    rig: &mut Rig,
    packet: PacketBuilder,
    (reason, told): (DropReason, Option<Told>),
    traced: Explanation,
) {
    let frame = arriving(OUTSIDE, packet);
    let before = rig.counts().clone();
    let out = rig.exchange(OUTSIDE, &frame);
    assert_eq!(rig.dropped(reason), before.dropped_for(reason) + 1, "{reason}: {:?}", rig.counts());
    assert_eq!(out.iter().map(|(_, frame)| told_by(frame)).collect::<Vec<_>>(), Vec::from_iter(told));
    for (port, answer) in out {
        assert_eq!(port, OUTSIDE);
        if let Body::Flow { key, .. } = parse(&frame, frame.len()).unwrap().body {
            assert_refusal(&answer, key, reason.symbol());
        }
    }
    let originated = rig.counts().packets.originated - before.packets.originated;
    assert_eq!((originated, rig.counts().flows.created), (u64::from(told.is_some()), before.flows.created));
    let verdict = if told.is_some() { Verdict::Reject } else { Verdict::Drop };
    assert_eq!((traced.verdict, traced.reason, traced.told), (verdict, reason.symbol(), told));
}

#[test]
fn refusals_have_the_form_that_the_configuration_says() {
    for (world, form) in WORLDS.iter().flat_map(|world| FORMS.map(|form| (world, form))) {
        let mut rig = under(world, Answers { reject: form, ..Answers::default() });
        let tables = rig.publisher.newest().clone();
        for (dst, reason) in [
            (at(world.lb, 9_000), DropReason::NoEndpoints),
            (at(world.cluster_ip, 9), DropReason::VipPortUnknown),
        ] {
            for protocol in Protocol::ALL {
                let key = key(protocol, at(world.client, 700), dst);
                let told = expected(form, Some(protocol));
                let traced = explain(&tables, &key, Moment::First);
                expect_refusal(&mut rig, first(key), (reason, told), traced);
            }
        }
        let ping = PacketBuilder::ping(ip(world.client), ip(world.cluster_ip), 1, 1, b"ping");
        let traced = explain_echo(&tables, ip(world.cluster_ip));
        expect_refusal(&mut rig, ping, (DropReason::VipPortUnknown, expected(form, None)), traced);
        // What is dropped by a rule is told in no form.
        let unallocated = key(Protocol::Tcp, at(world.client, 700), at(world.unallocated, 80));
        let traced = explain(&tables, &unallocated, Moment::First);
        expect_refusal(&mut rig, first(unallocated), (DropReason::ServiceCidrUnallocated, None), traced);
    }
}

#[test]
fn refusals_of_every_form_are_bounded_and_all_counted() {
    for (world, form) in WORLDS.iter().flat_map(|world| FORMS.map(|form| (world, form))) {
        let mut rig = under(world, Answers { reject: form, takes_midstream: false, ..Answers::default() });
        let syn = first(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 9_000)));
        let middle = PacketBuilder::flow(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80)));
        for (packet, reason) in [(syn, DropReason::NoEndpoints), (middle, DropReason::MidstreamRefused)] {
            rig.now = rig.now.plus(60_000);
            let frame = arriving(OUTSIDE, packet);
            let told = (0..1_500).map(|_| rig.exchange(OUTSIDE, &frame).len()).sum::<usize>();
            assert_eq!(told, if form == RejectForm::Silent { 0 } else { 1_000 }, "{form:?} {reason}");
            assert_eq!(rig.dropped(reason), 1_500);
        }
    }
}

#[test]
fn packets_too_long_or_too_old_are_told_of_though_refusals_are_silent() {
    for world in &WORLDS {
        let mut rig = under(world, Answers { reject: RejectForm::Silent, ..Answers::default() });
        let old = first(key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80))).ttl(1);
        let (_, error) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, old)), "the last hop");
        let Body::Icmp(icmp) = parse(&error, error.len()).unwrap().body else { panic!("no ICMP") };
        assert_eq!(icmp.kind, if world.family == Family::V4 { 11 } else { 3 }, "time exceeded");
    }
}

#[test]
fn vips_answer_pings_unless_the_configuration_says_not_to() {
    for world in &WORLDS {
        let ping = |dst| PacketBuilder::ping(ip(world.client), ip(dst), 3, 4, b"data");
        let mut talks = under(world, Answers::default());
        let mut quiet = under(world, Answers { echo: false, ..Answers::default() });
        for vip in [world.lb, world.external_ip] {
            let (_, pong) = one(talks.exchange(OUTSIDE, &arriving(OUTSIDE, ping(vip))), vip);
            let Body::Icmp(icmp) = parse(&pong, pong.len()).unwrap().body else { panic!("no ICMP") };
            assert!(icmp.is_echo_reply(), "{vip}");
            let traced = explain_echo(talks.publisher.newest(), ip(vip));
            assert_eq!((traced.verdict, traced.reason), (Verdict::Answer, "Echo"), "{vip}");
            let traced = explain_echo(quiet.publisher.newest(), ip(vip));
            expect_refusal(&mut quiet, ping(vip), (DropReason::EchoUnanswered, None), traced);
        }
        for rig in [&mut talks, &mut quiet] {
            assert!(rig.exchange(OUTSIDE, &arriving(OUTSIDE, ping(world.own[0]))).is_empty());
            assert_eq!(rig.punted().len(), 1, "the kernel answers for itself");
            let tables = rig.publisher.newest();
            for (dst, verdict, reason) in [
                (world.own[0], Verdict::Deliver, "Own"),
                (world.unallocated, Verdict::Drop, "ServiceCidrUnallocated"),
                (world.pods[0], Verdict::Pass, "Routed"),
            ] {
                let traced = explain_echo(tables, ip(dst));
                assert_eq!((traced.verdict, traced.reason), (verdict, reason), "{dst}");
            }
        }
        // Other tables change it while the worker runs.
        let mut tables = quiet.publisher.newest().as_ref().clone();
        (tables.answers, tables.generation) = (Answers::default(), tables.generation.next());
        quiet.publish(tables);
        assert_eq!(quiet.exchange(OUTSIDE, &arriving(OUTSIDE, ping(world.lb))).len(), 1);
    }
}

/// SCTP data.
const DATA: [u8; 20] = [0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'd', b'a', b't', b'a'];
const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];

/// The first packet of a connection, and one from its middle.
fn opening(key: AnyKey) -> PacketBuilder {
    match key.protocol() {
        Protocol::Sctp => PacketBuilder::flow(key).payload(&INIT).tag(0),
        Protocol::Tcp | Protocol::Udp => first(key),
    }
}

fn middle(key: AnyKey) -> PacketBuilder {
    match key.protocol() {
        Protocol::Sctp => PacketBuilder::flow(key).payload(&DATA),
        Protocol::Tcp | Protocol::Udp => PacketBuilder::flow(key).payload(b"more"),
    }
}

#[test]
fn what_no_flow_has_is_taken_up_from_its_middle_or_refused() {
    for (world, port) in WORLDS.iter().flat_map(|world| [80, 81].map(|port| (world, port))) {
        for protocol in [Protocol::Tcp, Protocol::Sctp] {
            let to_service = |sport| key(protocol, at(world.client, sport), at(world.lb, port));
            let mut takes = under(world, Answers::default());
            let (_, frame) =
                one(takes.exchange(OUTSIDE, &arriving(OUTSIDE, middle(to_service(700)))), "taken up");
            let traced = explain(takes.publisher.newest(), &to_service(700), Moment::Midstream);
            assert_eq!((traced.verdict, traced.reason), (Verdict::Forward, "Balanced"));
            assert_eq!(traced.backend.map(|backend| backend.ip()), Some(flow_of(&frame).dst()));

            for form in FORMS {
                let answers = Answers { reject: form, takes_midstream: false, ..Answers::default() };
                let mut rig = under(world, answers);
                let told = expected(form, Some(protocol));
                let traced = explain(rig.publisher.newest(), &to_service(700), Moment::Midstream);
                let refusal = (DropReason::MidstreamRefused, told);
                expect_refusal(&mut rig, middle(to_service(700)), refusal, traced);
                // A connection that begins is served, and its middle then has a flow.
                let traced = explain(rig.publisher.newest(), &to_service(701), Moment::First);
                assert_eq!((traced.verdict, traced.reason), (Verdict::Forward, "Balanced"));
                for packet in [opening(to_service(701)), middle(to_service(701))] {
                    one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, packet)), "served");
                }
                assert_eq!(rig.counts().flows.created, 1);
            }
        }
    }
}

#[test]
fn a_segment_from_the_middle_is_reset_where_its_sender_takes_it() {
    for world in &WORLDS {
        let mut rig = under(world, Answers { takes_midstream: false, ..Answers::default() });
        let to_service = key(Protocol::Tcp, at(world.client, 700), at(world.lb, 80));
        let segment = PacketBuilder::flow(to_service).numbers(1_000, 77_000).payload(b"more");
        let (_, reset) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, segment)), "reset");
        let parsed = parse(&reset, reset.len()).unwrap();
        let tcp = packet::tcp::Header::at(&reset, parsed.l4).unwrap();
        // RFC 9293 §3.10.7.1: the number that the sender awaits, which is the one it cannot doubt (RFC 5961).
        assert_eq!((tcp.seq(), tcp.flags()), (77_000, TcpFlags::RST));
    }
}

#[test]
fn a_refused_middle_costs_datagrams_and_routed_packets_nothing() {
    for world in &WORLDS {
        let mut rig = under(world, Answers { takes_midstream: false, ..Answers::default() });
        let datagram = key(Protocol::Udp, at(world.client, 700), at(world.lb, 80));
        let routed = key(Protocol::Tcp, at(world.client, 700), at(world.pods[0], 9));
        // An endpoint that a client has by its own address: a dnat Service's.
        let direct = key(Protocol::Tcp, at(world.far, 700), at(world.pods[0], 8_080));
        for key in [datagram, routed, direct] {
            one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, middle(key))), "passed");
        }
        assert_eq!(rig.dropped(DropReason::MidstreamRefused), 0);
    }
}
