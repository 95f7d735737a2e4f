//! SCTP associations: the CRC, and the chunks that decide how long a flow is kept.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig};
use packet::{
    AnyKey, Protocol, checksum, parse,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{FrontendKind, NatMode};

use crate::world::*;

const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
const INIT_ACK: [u8; 4] = [2, 0, 0, 20];
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
fn an_init_leaves_a_backend_that_is_gone_and_an_open_association_stays() {
    for (name, open, moves) in [("half open", false, true), ("open", true, false)] {
        let mut fixture = Fixture::data_centre();
        let ids = [fixture.backend("10.244.1.5:80"), fixture.backend("10.244.2.5:80")];
        let pools = [fixture.pool_of(&ids[..1]), fixture.pool_of(&ids[1..])];
        let choice = tables::Choice { action: tables::Action::Balance(0), mode: NatMode::Snat };
        let rule = tables::Rule::same(choice);
        let id = fixture.custom_service("s", Protocol::Sctp, (rule.clone(), rule), vec![pools[0].clone()]);
        fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", id);
        let mut rig = rig(&mut fixture);
        let to_service = key(Protocol::Sctp, at("192.0.2.2", 3_868), at("203.0.113.10", 80));
        let to_backend = flow_of(&pass(&mut rig, to_service, &INIT));
        if open {
            pass(&mut rig, to_backend.reversed(), &INIT_ACK);
            pass(&mut rig, to_service, &COOKIE_ECHO);
        }
        let pools = Box::new([pools[1].clone()]);
        fixture.put_service(tables::ServicePort { pools, ..fixture.get_service(id) });
        fixture.remove_backend(ids[0]);
        rig.publish(fixture.tables());
        let want = if moves { "10.244.2.5" } else { "10.244.1.5" };
        assert_eq!(flow_of(&pass(&mut rig, to_service, &INIT)).dst(), ip(want), "{name}");
    }
}
