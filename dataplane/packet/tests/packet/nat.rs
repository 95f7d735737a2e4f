//! A rewritten frame equals the frame that was built with the new addresses from the start.

use packet::{
    Address, FlowKey, nat,
    nat::Rewrite,
    parse,
    testkit::{PacketBuilder, assert_valid_checksums},
};
use proptest::prelude::*;

use crate::strategy::{Dress, dress, key_v4, key_v6};

/// The frame of `from`, and the one that the rewrite to `to` has to make of it (one hop later).
fn frames<A: Address>(from: FlowKey<A>, to: FlowKey<A>, dress: &Dress) -> (Vec<u8>, Vec<u8>) {
    let build = |key, ttl| dress.on(PacketBuilder::flow(A::any(key))).ttl(ttl).build();
    (build(from, dress.ttl), build(FlowKey { protocol: from.protocol, ..to }, dress.ttl - 1))
}

proptest! {
    #[test]
    fn ipv4_incremental_equals_full_recompute(from in key_v4(), to in key_v4(), dress in dress()) {
        let (mut frame, want) = frames(from, to, &dress);
        let parsed = parse(&frame, frame.len()).expect("valid");
        Rewrite::new(&from, &to).forward(&mut frame, &parsed);
        assert_valid_checksums(&frame);
        prop_assert_eq!(frame, want);
    }

    #[test]
    fn ipv6_incremental_equals_full_recompute(from in key_v6(), to in key_v6(), dress in dress()) {
        let (mut frame, want) = frames(from, to, &dress);
        let parsed = parse(&frame, frame.len()).expect("valid");
        Rewrite::new(&from, &to).forward(&mut frame, &parsed);
        assert_valid_checksums(&frame);
        prop_assert_eq!(frame, want);
    }

    #[test]
    fn the_way_back_restores_the_frame(from in key_v4(), to in key_v4(), dress in dress()) {
        let (mut frame, _) = frames(from, to, &dress);
        let (before, parsed) = (frame.clone(), parse(&frame, frame.len()).expect("valid"));
        Rewrite::new(&from, &to).apply(&mut frame, &parsed);
        Rewrite::new(&to, &from).apply(&mut frame, &parsed);
        prop_assert_eq!(frame, before);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(from in key_v4(), to in key_v4(), dress in dress()) {
        let (mut frame, _) = frames(from, to, &dress);
        let parsed = parse(&frame, frame.len()).expect("valid");
        let last = parsed.frame_end() - 1;
        frame[last] ^= 0x10;
        if let Ok(parsed) = parse(&frame, frame.len()) {
            Rewrite::new(&from, &to).forward(&mut frame, &parsed);
            prop_assert!(!packet::checksum::is_right(&parse(&frame, frame.len()).expect("valid"), [&frame[..]]));
        }
    }

    #[test]
    fn another_frame_is_never_written_out_of_bounds(from in key_v4(), to in key_v4(), dress in dress(), len in 0usize..100) {
        let (frame, _) = frames(from, to, &dress);
        let parsed = parse(&frame, frame.len()).expect("valid");
        let mut short = vec![0; len];
        Rewrite::new(&from, &to).forward(&mut short, &parsed);
        nat::decrement_ttl(&mut short, &parsed);
    }
}

#[test]
fn a_udp_datagram_without_checksum_stays_without() {
    let frame = PacketBuilder::udp("10.0.0.1:1", "10.0.0.2:2").without_checksum().build();
    let parsed = parse(&frame, frame.len()).expect("valid");
    let packet::AnyKey::V4(from) = parsed.key().expect("a flow") else { panic!("IPv4") };
    let to = FlowKey { dst: [10, 9, 9, 9].into(), dport: 99, ..from };
    let mut after = frame.clone();
    Rewrite::new(&from, &to).forward(&mut after, &parsed);
    assert_eq!(after[40..42], [0, 0]);
    assert_valid_checksums(&after);
    nat::decrement_ttl(&mut after, &parsed);
    assert_valid_checksums(&after);
}
