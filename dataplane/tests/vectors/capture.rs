//! What control is shown of the packets that pass, and of those that do not.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    Protocol,
    testkit::{PacketBuilder, flow_of},
};
use tables::{
    DropReason, PortId, Prefix,
    capture::{CAPTURED_LEN_MAX, CaptureCounts, CaptureSpec, Event, PacketFilter, PacketKind, ServiceName},
    command::Command,
};

use crate::world::*;

const ALL: CaptureSpec = CaptureSpec {
    passing: true,
    filter: PacketFilter { hosts: [None; 2], ports: [None; 2], kind: None, reason: None, service: None },
    snap_len: 9_216,
    one_in: 1,
    per_second: 1_000_000,
};

/// What was shown since the last call: event, port, bytes of the whole frame, captured bytes.
fn shown(rig: &mut Rig) -> Vec<(Event, PortId, u32, Vec<u8>)> {
    let mut buffer = [0; CAPTURED_LEN_MAX];
    let mut all = Vec::new();
    while let Some(one) = rig.captured.receive(&mut buffer) {
        all.push((one.event, one.port, one.wire_len, one.frame(&buffer).to_vec()));
    }
    all
}

fn events(rig: &mut Rig) -> Vec<(Event, PortId)> {
    shown(rig).into_iter().map(|(event, port, ..)| (event, port)).collect()
}

fn capture(rig: &mut Rig, spec: impl Into<Option<CaptureSpec>>) {
    assert!(rig.commands.send(Command::Capture(spec.into())));
    rig.settle();
    rig.commands.answer().expect("the command is done");
}

fn only(filter: PacketFilter) -> CaptureSpec {
    CaptureSpec { filter, ..ALL }
}

#[test]
fn nothing_is_shown_unless_it_is_wanted() {
    let mut rig = rig(&mut served(&WORLDS[0]));
    let client = (OUTSIDE, at(WORLDS[0].client, 40_000));
    round_trip(&mut rig, client, at(WORLDS[0].lb, 80), Protocol::Tcp, "not wanted yet");
    assert_eq!(shown(&mut rig), []);
    capture(&mut rig, ALL);
    capture(&mut rig, None);
    round_trip(&mut rig, client, at(WORLDS[0].lb, 80), Protocol::Tcp, "not wanted any more");
    assert_eq!((shown(&mut rig), rig.captured.counts()), (vec![], CaptureCounts::default()));
}

#[test]
fn a_packet_is_shown_as_it_came_and_as_it_left_on_the_usual_way_too() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let (client, vip) = ((OUTSIDE, at(world.client, 40_000)), at(world.lb, 80));
        let to_backend = round_trip(&mut rig, client, vip, Protocol::Tcp, "before");
        capture(&mut rig, ALL);
        let sent = PacketBuilder::flow(key(Protocol::Tcp, client.1, vip)).numbers(1, 1).payload(b"question");
        let sent = arriving(OUTSIDE, sent);
        let (_, left) = one(rig.exchange(OUTSIDE, &sent), "an established flow's");
        let len = u32::try_from(sent.len()).unwrap();
        let both =
            vec![(Event::Arrived, OUTSIDE, len, sent.clone()), (Event::Left, INSIDE, len, left.clone())];
        assert_eq!(shown(&mut rig), both);
        assert_eq!(flow_of(&left), to_backend);

        capture(&mut rig, CaptureSpec { snap_len: 40, ..ALL });
        rig.exchange(OUTSIDE, &sent);
        let cut = |frame: &[u8]| frame[..40].to_vec();
        let both = vec![(Event::Arrived, OUTSIDE, len, cut(&sent)), (Event::Left, INSIDE, len, cut(&left))];
        assert_eq!(shown(&mut rig), both, "the beginning, and how long it was");
    }
}

#[test]
fn a_dropped_packet_has_its_reason() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        capture(&mut rig, CaptureSpec { passing: false, ..ALL });
        let (client, vip) = (at(world.client, 40_000), at(world.cluster_ip, 80));
        round_trip(&mut rig, (OUTSIDE, client), vip, Protocol::Tcp, "passes");
        assert_eq!(shown(&mut rig), [], "only what is dropped is wanted");

        let refused = key(Protocol::Udp, client, at(world.cluster_ip, 99));
        let frame = arriving(OUTSIDE, first(refused));
        rig.exchange(OUTSIDE, &frame);
        let unread = [0_u8; 60];
        let unread = [&Fixture::port_mac(OUTSIDE).0[..], &unread[..6], &[0x08, 0x00], &unread[..40]].concat();
        rig.exchange(OUTSIDE, &unread);
        let seen: Vec<_> =
            shown(&mut rig).into_iter().map(|(event, port, _, bytes)| (event, port, bytes)).collect();
        let [closed, broken] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(*closed, (Event::Dropped(DropReason::VipPortUnknown), OUTSIDE, frame));
        assert_eq!(*broken, (Event::Dropped(DropReason::BadIpVersion), OUTSIDE, unread.clone()));

        let reason = Some(DropReason::NoRoute);
        capture(&mut rig, only(PacketFilter { reason, ..PacketFilter::default() }));
        rig.exchange(OUTSIDE, &unread);
        assert_eq!(shown(&mut rig), [], "for another reason");
    }
}

#[test]
fn a_service_is_seen_on_both_sides_of_the_translation() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let other = fixture.service(
            "other",
            Protocol::Tcp,
            &[&at(world.pods[1], 9).to_string()],
            tables::NatMode::Snat,
        );
        fixture.vip(tables::FrontendKind::LoadBalancer, &at(world.lb, 90).to_string(), other);
        let mut rig = rig(&mut fixture);
        let (client, web, other) = ((OUTSIDE, at(world.client, 40_000)), at(world.lb, 80), at(world.lb, 90));
        let service = ServiceName::parse("default/web");
        capture(&mut rig, only(PacketFilter { service, ..PacketFilter::default() }));
        round_trip(&mut rig, client, other, Protocol::Tcp, "another Service's");
        assert_eq!(shown(&mut rig), []);
        round_trip(&mut rig, client, web, Protocol::Tcp, "its own");
        let way = [
            (Event::Arrived, OUTSIDE),
            (Event::Left, INSIDE),
            (Event::Arrived, INSIDE),
            (Event::Left, OUTSIDE),
        ];
        assert_eq!(events(&mut rig), way);
    }
}

#[test]
fn every_word_of_a_filter_must_hold() {
    let world = &WORLDS[0];
    let (client, vip) = (at(world.client, 40_000), at(world.lb, 80));
    let host = |address: &str| Some(Prefix::host(ip(address)));
    let none = PacketFilter::default();
    for (name, filter, arrives, leaves) in [
        ("nothing said", none, true, true),
        ("the client", PacketFilter { hosts: [host(world.client), None], ..none }, true, false),
        ("the backend", PacketFilter { hosts: [host(world.pods[0]), None], ..none }, false, true),
        ("both ends", PacketFilter { hosts: [host(world.client), host(world.lb)], ..none }, true, false),
        ("not both", PacketFilter { hosts: [host(world.client), host(world.far)], ..none }, false, false),
        ("a port", PacketFilter { ports: [Some(8080), None], ..none }, false, true),
        ("two ports", PacketFilter { ports: [Some(80), Some(40_000)], ..none }, true, false),
        ("TCP", PacketFilter { kind: Some(PacketKind::Transport(Protocol::Tcp)), ..none }, true, true),
        ("UDP", PacketFilter { kind: Some(PacketKind::Transport(Protocol::Udp)), ..none }, false, false),
        ("ARP", PacketFilter { kind: Some(PacketKind::Arp), ..none }, false, false),
        ("ICMP", PacketFilter { kind: Some(PacketKind::Icmp), ..none }, false, false),
        (
            "UDP at a port of it",
            PacketFilter {
                ports: [Some(80), None],
                kind: Some(PacketKind::Transport(Protocol::Udp)),
                ..none
            },
            false,
            false,
        ),
    ] {
        let mut rig = rig(&mut served(world));
        capture(&mut rig, only(filter));
        one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(key(Protocol::Tcp, client, vip)))), name);
        let wanted: Vec<_> = [(arrives, (Event::Arrived, OUTSIDE)), (leaves, (Event::Left, INSIDE))]
            .into_iter()
            .filter_map(|(wanted, event)| wanted.then_some(event))
            .collect();
        assert_eq!(events(&mut rig), wanted, "{name}");
    }
}

#[test]
fn what_is_made_here_is_shown_as_it_leaves() {
    let world = &WORLDS[0];
    let mut rig = rig(&mut served(world));
    capture(&mut rig, ALL);
    let refused = key(Protocol::Tcp, at(world.client, 40_000), at(world.cluster_ip, 99));
    rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(refused)));
    let dropped = (Event::Dropped(DropReason::VipPortUnknown), OUTSIDE);
    assert_eq!(events(&mut rig), [(Event::Arrived, OUTSIDE), (Event::Left, OUTSIDE), dropped], "a reset");
    rig.inject.frame(INSIDE, [&[7_u8; 60][..]].into_iter()).unwrap();
    rig.settle();
    assert_eq!(events(&mut rig), [(Event::Left, INSIDE)], "the kernel's");
}

#[test]
fn a_sample_a_rate_and_a_full_ring_bound_what_is_shown() {
    let world = &WORLDS[0];
    let mut rig = rig_of(&RigConfig { ring_bytes: 0, ..RigConfig::default() }, served(world).tables());
    let wanted =
        PacketFilter { hosts: [Some(Prefix::host(ip(world.client))), None], ..PacketFilter::default() };
    let frame =
        arriving(OUTSIDE, PacketBuilder::flow(key(Protocol::Udp, at(world.client, 9), at(world.lb, 80))));
    let send = |rig: &mut Rig, frames: u32| {
        for _ in 0..frames {
            rig.exchange(OUTSIDE, &frame);
        }
        events(rig).len()
    };
    capture(&mut rig, CaptureSpec { one_in: 10, ..only(wanted) });
    assert_eq!(send(&mut rig, 95), 10, "the first, and every tenth after it");

    capture(&mut rig, CaptureSpec { per_second: 50, ..only(wanted) });
    assert_eq!(send(&mut rig, 95), 5, "a tenth of a second's worth at once");
    rig.now = rig.now.plus(200);
    assert_eq!(send(&mut rig, 95), 5);
    assert_eq!(rig.captured.counts(), CaptureCounts { taken: 20, over_rate: 180, lost: 0 });

    capture(&mut rig, only(wanted));
    let room = send(&mut rig, 1_000);
    let lost = rig.captured.counts().lost;
    assert!(room > 10 && room < 1_000, "{room}");
    assert_eq!(room as u64 + lost, 1_000, "what has no room is counted");
}
