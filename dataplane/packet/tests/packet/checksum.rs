//! Transport checksums of whole packets: ours, the builder's and a second opinion.

use packet::{
    AnyKey, Protocol, checksum, parse,
    testkit::{PacketBuilder, assert_valid_checksums},
};
use proptest::prelude::*;

use crate::strategy::{dress, key};

proptest! {
    #[test]
    fn built_frames_are_right_and_one_flipped_bit_is_not(key in key(), dress in dress(), bit in any::<prop::sample::Index>()) {
        let mut frame = dress.on(PacketBuilder::flow(key)).build();
        assert_valid_checksums(&frame);
        let parsed = parse(&frame, frame.len()).expect("valid");
        let bits = usize::from(parsed.l4_len()) * 8;
        let bit = usize::from(parsed.l4) * 8 + bit.index(bits);
        frame[bit / 8] ^= 1 << (bit % 8);
        // A flip in a length or offset is refused; a UDP checksum that became 0 says that there is none.
        if let Ok(parsed) = parse(&frame, frame.len()) {
            let at = usize::from(parsed.l4);
            let absent = key.protocol() == Protocol::Udp && frame[at + 6..at + 8] == [0, 0] && matches!(key, AnyKey::V4(_));
            prop_assert_eq!(checksum::is_right(&parsed, [&frame[..]]), absent);
        }
    }

    #[test]
    fn an_unfinished_checksum_is_seen_and_finished_over_segments(key in key(), dress in dress(), cuts: [prop::sample::Index; 2]) {
        let packet = dress.on(PacketBuilder::flow(key));
        let (whole, mut frame) = (packet.build(), packet.unfinished_checksum().build());
        let parsed = parse(&frame, frame.len()).expect("valid");
        prop_assert!(checksum::is_unfinished(&parsed, &frame));
        let headers = usize::from(parsed.l4) + 60.min(usize::from(parsed.l4_len()));
        let mut cuts = cuts.map(|cut| headers + cut.index(frame.len() - headers + 1));
        cuts.sort_unstable();
        let segments = [&frame[..cuts[0]], &frame[cuts[0]..cuts[1]], &frame[cuts[1]..]];
        let field = checksum::of_packet(&parsed, segments).expect("a transport checksum");
        prop_assert!(field.store(&mut frame));
        prop_assert_eq!(frame, whole);
    }

    #[test]
    fn a_second_opinion_agrees(key in key(), dress in dress()) {
        let frame = dress.on(PacketBuilder::flow(key)).build();
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).expect("valid to etherparse");
        let sum = match (sliced.transport, key) {
            (Some(etherparse::TransportSlice::Tcp(tcp)), AnyKey::V4(key)) =>
                (tcp.to_header().calc_checksum_ipv4_raw(key.src.octets(), key.dst.octets(), tcp.payload()), tcp.checksum()),
            (Some(etherparse::TransportSlice::Tcp(tcp)), AnyKey::V6(key)) =>
                (tcp.to_header().calc_checksum_ipv6_raw(key.src.octets(), key.dst.octets(), tcp.payload()), tcp.checksum()),
            (Some(etherparse::TransportSlice::Udp(udp)), AnyKey::V4(key)) =>
                (udp.to_header().calc_checksum_ipv4_raw(key.src.octets(), key.dst.octets(), udp.payload()), udp.checksum()),
            (Some(etherparse::TransportSlice::Udp(udp)), AnyKey::V6(key)) =>
                (udp.to_header().calc_checksum_ipv6_raw(key.src.octets(), key.dst.octets(), udp.payload()), udp.checksum()),
            _ => return Ok(()),
        };
        prop_assert_eq!(sum.0.expect("short"), sum.1);
    }
}

#[test]
fn udp_may_go_without_a_checksum_over_ipv4_only() {
    for (src, dst, right) in [("10.0.0.1:1", "10.0.0.2:2", true), ("[fe80::1]:1", "[fe80::2]:2", false)] {
        let frame = PacketBuilder::udp(src, dst).without_checksum().build();
        let parsed = parse(&frame, frame.len()).expect("valid");
        assert_eq!(checksum::is_right(&parsed, [&frame[..]]), right);
        assert!(!checksum::is_unfinished(&parsed, &frame));
    }
}

#[test]
fn segments_that_end_early_give_no_checksum() {
    let frame = PacketBuilder::udp("10.0.0.1:1", "10.0.0.2:2").payload(&[1; 50]).build();
    let parsed = parse(&frame, frame.len()).expect("valid");
    assert_eq!(checksum::of_packet(&parsed, [&frame[..60]]), None);
    assert_eq!(checksum::of_packet(&parsed, []), None);
}
