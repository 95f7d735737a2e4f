//! SCTP associations: the CRC, and the chunks that decide how long a flow is kept.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig};
use packet::{
    AnyKey, Protocol, checksum, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{DropReason, FrontendKind, NatMode};

use crate::world::*;

/// Both sides ask for tag 7, which the builder's packets carry.
const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
const INIT_ACK: [u8; 20] = [2, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
const COOKIE_ECHO: [u8; 8] = [10, 0, 0, 8, 1, 2, 3, 4];
const SHUTDOWN: [u8; 8] = [7, 0, 0, 8, 0, 0, 0, 1];
const SHUTDOWN_ACK: [u8; 4] = [8, 0, 0, 4];
const ABORT: [u8; 4] = [6, 0, 0, 4];
const DATA: [u8; 20] = [0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'd', b'a', b't', b'a'];

fn chunk(key: AnyKey, chunk: &[u8]) -> PacketBuilder {
    PacketBuilder::flow(key).payload(chunk)
}

/// Sends a chunk and gives the frame that came of it.
fn pass(rig: &mut Rig, key: AnyKey, bytes: &[u8]) -> Vec<u8> {
    let port = if key.dport() == 8080 || key.dport() == 80 || key.dport() == 81 { OUTSIDE } else { INSIDE };
    let (_, frame) = one(rig.exchange(port, &arriving(port, chunk(key, bytes))), "passed");
    assert_valid_checksums(&frame);
    frame
}

#[test]
fn the_crc_follows_the_ports_and_a_wrong_one_stays_wrong() {
    for world in &WORLDS {
        let mut fixture = served(world);
        let same =
            fixture.service("same", Protocol::Sctp, &[&at(world.pods[0], 8080).to_string()], NatMode::Dnat);
        fixture.vip(FrontendKind::LoadBalancer, &at(world.lb, 8080).to_string(), same);
        let mut rig = rig(&mut fixture);
        for (name, port, ports_change) in
            [("snat", 80, true), ("dnat", 81, true), ("dnat, same port", 8080, false)]
        {
            let to_service = key(Protocol::Sctp, at(world.client, 3_000 + port), at(world.lb, port));
            for len in [0, 1, 100, 1_400] {
                let data = [&DATA[..], &vec![7; len]].concat();
                let sent = chunk(to_service, &data).build();
                let frame = pass(&mut rig, to_service, &data);
                let l4 = usize::from(parse(&frame, frame.len()).unwrap().l4);
                assert_eq!(sent[l4 + 8..][..4] != frame[l4 + 8..][..4], ports_change, "{name}: the CRC");
                assert_eq!(sent[l4 + 12..], frame[l4 + 12..], "{name}: the chunks");

                let mut wrong = arriving(OUTSIDE, chunk(to_service, &data));
                *wrong.last_mut().unwrap() ^= 1;
                let (_, frame) = one(rig.exchange(OUTSIDE, &wrong), name);
                assert!(!checksum::is_right(&parse(&frame, frame.len()).unwrap(), [&frame[..]]), "{name}");
            }
            let unfinished = arriving(OUTSIDE, chunk(to_service, &DATA).unfinished_checksum());
            assert_valid_checksums(&one(rig.exchange(OUTSIDE, &unfinished), name).1);
        }
    }
}

#[test]
fn chunks_decide_how_long_an_association_is_remembered() {
    let minutes = |n: u32| n * 60_000;
    for world in &WORLDS {
        // What the client sends, what the backend answers, and the silence that the flow outlives, and does not.
        let open = [(&INIT[..], &INIT_ACK[..]), (&COOKIE_ECHO, &DATA)];
        for (name, last, lives_ms, dies_ms) in [
            ("a lone INIT", None, minutes(2), minutes(3)),
            ("open", Some((&DATA[..], &DATA[..])), minutes(119), minutes(121)),
            ("shut down", Some((&SHUTDOWN[..], &SHUTDOWN_ACK[..])), minutes(2), minutes(3)),
            ("aborted", Some((&DATA[..], &ABORT[..])), 9_000, 11_000),
        ] {
            for (silence, alive) in [(lives_ms, 1), (dies_ms, 0)] {
                let mut rig = rig(&mut served(world));
                let to_service = key(Protocol::Sctp, at(world.client, 3_868), at(world.lb, 80));
                match last {
                    None => drop(pass(&mut rig, to_service, &INIT)),
                    Some(last) => {
                        for (question, answer) in open.into_iter().chain([last]) {
                            let to_backend = flow_of(&pass(&mut rig, to_service, question));
                            pass(&mut rig, to_backend.reversed(), answer);
                        }
                    }
                }
                rig.now = rig.now.plus(silence);
                rig.turn();
                assert_eq!(rig.counts().flows.used, alive, "{name} after {silence} ms");
            }
        }
    }
}

#[test]
fn an_abort_or_shutdown_with_a_wrong_tag_is_passed_on_and_ends_nothing() {
    const REFLECTED: [u8; 4] = [6, 1, 0, 4];
    for world in &WORLDS {
        // From the client or the backend, with this tag; whether the flow ends by it.
        for (name, from_client, bytes, tag, ends) in [
            ("ABORT", true, &ABORT[..], 8, true),
            ("ABORT", false, &ABORT, 9, true),
            ("ABORT with the T bit", false, &REFLECTED, 8, true),
            ("ABORT with the T bit", true, &REFLECTED, 9, true),
            ("ABORT with its sender's tag", true, &ABORT, 9, false),
            ("ABORT with the T bit and its receiver's tag", true, &REFLECTED, 8, false),
            ("ABORT with any tag", false, &ABORT, 1_000, false),
            ("ABORT without a tag", true, &ABORT, 0, false),
        ] {
            let mut rig = rig(&mut served(world));
            let to_service = key(Protocol::Sctp, at(world.client, 3_868), at(world.lb, 80));
            let mut say = |key: AnyKey, bytes: &[u8], tag: u32| {
                let port = if key.dport() == 8080 || key.dport() == 80 { OUTSIDE } else { INSIDE };
                let (_, frame) = one(rig.exchange(port, &arriving(port, chunk(key, bytes).tag(tag))), name);
                assert_valid_checksums(&frame);
                (flow_of(&frame), rig.counts().flows.resets_ignored)
            };
            let to_client = say(to_service, &[&INIT[..7], &[9], &INIT[8..]].concat(), 0).0.reversed();
            say(to_client, &[&INIT_ACK[..7], &[8], &INIT_ACK[8..]].concat(), 9);
            say(to_service, &COOKIE_ECHO, 8);
            say(to_client, &DATA, 9);
            let ignored = say(if from_client { to_service } else { to_client }, bytes, tag).1;
            assert_eq!(ignored, u64::from(!ends), "{name} {tag}");
            rig.now = rig.now.plus(60_000);
            rig.turn();
            assert_eq!(rig.counts().flows.used, u64::from(!ends), "{name} {tag}");
        }
    }
}

#[test]
fn an_association_begins_with_an_init_or_in_its_middle_and_with_nothing_else() {
    for world in &WORLDS {
        let mut rig = rig(&mut served(world));
        let to_service = |sport| key(Protocol::Sctp, at(world.client, sport), at(world.lb, 80));
        for (name, bytes, tag) in [
            ("INIT with a tag", &INIT[..], 7),
            ("INIT ACK", &INIT_ACK, 7),
            ("ABORT", &ABORT, 7),
            ("SHUTDOWN", &SHUTDOWN, 7),
            ("SHUTDOWN ACK", &SHUTDOWN_ACK, 7),
        ] {
            let packet = arriving(OUTSIDE, chunk(to_service(900), bytes).tag(tag));
            expect_drop(&mut rig, OUTSIDE, &packet, DropReason::TcpWithoutFlow, name);
        }
        for (sport, bytes) in [(901, &INIT[..]), (902, &COOKIE_ECHO), (903, &DATA)] {
            pass(&mut rig, to_service(sport), bytes);
        }
        assert_eq!(rig.counts().flows.created, 3);
    }
}

#[test]
fn an_init_leaves_a_backend_that_is_gone_and_an_open_association_stays() {
    for (name, open, moves) in [("half open", false, true), ("open", true, false)] {
        let mut fixture = Fixture::data_centre();
        let moving = Moving::new(&mut fixture, &WORLDS[0], Protocol::Sctp, NatMode::Snat);
        let mut rig = rig(&mut fixture);
        let to_service = key(Protocol::Sctp, at("192.0.2.2", 3_868), at("203.0.113.10", 80));
        let to_backend = flow_of(&pass(&mut rig, to_service, &INIT));
        if open {
            pass(&mut rig, to_backend.reversed(), &INIT_ACK);
            pass(&mut rig, to_service, &COOKIE_ECHO);
        }
        moving.replace(&mut fixture, false);
        rig.publish(fixture.tables());
        let want = if moves { "10.244.2.5" } else { "10.244.1.5" };
        assert_eq!(flow_of(&pass(&mut rig, to_service, &INIT)).dst(), ip(want), "{name}");
    }
}
