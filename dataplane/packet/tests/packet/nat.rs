//! A rewritten frame equals the frame that was built with the new addresses from the start.

use std::fmt::Debug;

use packet::{
    Address, AnyKey, Family, FlowKey, Parsed, Protocol, facts_of_plain, nat,
    nat::{PlainRewrite, Rewrite},
    parse,
    plain::{Ends, Plain, Shape},
    testkit::{PacketBuilder, assert_valid_checksums},
};
use proptest::prelude::*;

use crate::strategy::{Dress, dress, key_v4, key_v6};

/// An ICMP error of `from` about a packet of `key`, which it quotes up to `limit` bytes.
fn error<A: Address>(from: A, key: FlowKey<A>, dress: &Dress, limit: usize) -> Vec<u8> {
    let bare = Dress { vlan: None, padded: false, ..dress.clone() };
    let packet = bare.on(PacketBuilder::flow(A::any(key))).build();
    let headers = usize::from(parse(&packet, packet.len()).expect("valid").l4) - 14 + 8;
    let quoted = &packet[14..packet.len().min(14 + headers + limit)];
    let (kind, code) = if A::BYTES == 4 { (3, 4) } else { (2, 0) };
    PacketBuilder::icmp(from.into(), key.src.into(), kind, code, &[&[0, 0, 5, 0xdc], quoted].concat()).build()
}

/// Rewrites the error about `from` to one about `to`, and says what it should have become.
fn translated<A: Address>(
    from: FlowKey<A>,
    to: FlowKey<A>,
    router: Option<A>,
    dress: &Dress,
    limit: usize,
) -> (Vec<u8>, Vec<u8>) {
    let protocol = if dress.padded { Protocol::Tcp } else { Protocol::Udp };
    let (from, to) = (FlowKey { protocol, ..from }, FlowKey { protocol, ..to });
    let mut frame = error(router.unwrap_or(from.dst), from, dress, limit);
    let parsed = parse(&frame, frame.len()).expect("valid");
    assert!(nat::rewrite_error(&mut frame, &parsed, A::any(to)));
    // Only where the receiver keeps its name does a router.
    let sender = if from.dst == to.dst { router.unwrap_or(to.dst) } else { to.dst };
    (frame, error(sender, to, dress, limit))
}

/// The frame of `from`, and the one that the rewrite to `to` has to make of it (one hop later).
fn frames<A: Address>(from: FlowKey<A>, to: FlowKey<A>, dress: &Dress) -> (Vec<u8>, Vec<u8>) {
    let build = |key, ttl| dress.on(PacketBuilder::flow(A::any(key))).ttl(ttl).build();
    (build(from, dress.ttl), build(FlowKey { protocol: from.protocol, ..to }, dress.ttl - 1))
}

/// Wherever the transport header begins, and where there is none, the words agree too.
fn assert_any<E: Ends>(
    rewrite: &PlainRewrite<E>,
    (before, want): (&[u8], &[u8]),
    (protocol, l4): (Protocol, u16),
    macs: [u8; 12],
) {
    let behind = usize::from(l4);
    for gap in [0, 8_u16] {
        // What lies between the headers is nobody's business here.
        let apart = |frame: &[u8]| [&frame[..behind], &vec![0xaa; gap.into()], &frame[behind..]].concat();
        let mut frame = apart(before);
        assert!(rewrite.forward_any(&mut frame, Some((protocol, l4 + gap)), macs));
        assert_eq!(frame, apart(want), "a gap of {gap}");
    }
    let mut later = before.to_vec();
    assert!(rewrite.forward_any(&mut later, None, macs));
    assert_eq!(later[..behind], want[..behind]);
    assert_eq!(later[behind..], before[behind..], "a later part has no ports");
    let mut short = before[..behind + 7].to_vec();
    assert!(!rewrite.forward_any(&mut short, Some((protocol, l4)), macs));
    assert!(!rewrite.forward_any(&mut short, Some((Protocol::Sctp, l4)), macs));
    assert!(!rewrite.forward_any(&mut short[..behind - 1], None, macs));
    assert_eq!(short, before[..behind + 7], "nothing was written");
}

/// The words of a plain frame, which say the same as its facts; checked with the rewrite by words that makes it `to`.
fn assert_plain<E: Ends + Debug, A: Address>(from: FlowKey<A>, to: FlowKey<A>, dress: &Dress) {
    let dress = Dress {
        vlan: None,
        options: Vec::new(),
        extensions: Vec::new(),
        ttl: dress.ttl.max(2),
        // The packet path knows by its words what is as long as TCP's headers.
        payload: [&dress.payload[..], &[0; 12]].concat(),
        ..dress.clone()
    };
    let protocol = if from.protocol == Protocol::Sctp { Protocol::Udp } else { from.protocol };
    let (mut frame, want) = frames(FlowKey { protocol, ..from }, to, &dress);
    let plain = Plain::<E>::of_frame(&frame, frame.len(), true).expect("a plain frame");
    let target = Plain::<E>::of_frame(&want, want.len(), true).expect("a plain frame");
    let parsed = parse(&frame, frame.len()).expect("valid");
    let said = (plain.ip_len, plain.ttl, plain.ip_checksum_right, plain.unfinished, plain.ports);
    assert_eq!(said, (parsed.ip_len, parsed.ttl, true, parsed.unfinished, from.ports()));
    assert_eq!(Plain::again(&frame, protocol), Some(Plain { unfinished: false, ..plain }));
    let shape = match (A::FAMILY, protocol) {
        (Family::V4, Protocol::Tcp) => Shape::V4Tcp,
        (Family::V4, _) => Shape::V4Udp,
        (Family::V6, Protocol::Tcp) => Shape::V6Tcp,
        (Family::V6, _) => Shape::V6Udp,
    };
    assert_eq!((plain.shape(), shape.protocol()), (shape, protocol));
    assert_eq!(plain.ends.key(protocol, plain.ports), A::any(FlowKey { protocol, ..from }));
    let mut facts = Parsed::NOTHING;
    facts_of_plain(shape, &frame, &mut facts).expect("its own frame");
    assert_eq!(facts, Parsed { unfinished: false, ..parsed });
    assert_eq!(facts_of_plain(shape, &frame[..53], &mut facts), None);
    assert!(matches!(parsed.body, packet::Body::Flow { tcp_flags, .. } if tcp_flags == plain.flags));
    let Rewrite { ip, l4, .. } = Rewrite::new(&from, &to);
    let ends = target.ends;
    assert!(ends.reversed().reversed() == ends);
    let macs = *want.first_chunk().expect("a frame");
    frame[..12].fill(0xee);
    let (rewrite, before) = (PlainRewrite { ends, ports: target.ports, ip, l4 }, frame.clone());
    assert!(rewrite.forward(&mut frame, protocol, macs));
    assert_eq!(frame, want);
    assert!(!rewrite.forward(&mut frame[..41], protocol, macs));
    assert_any(&rewrite, (&before, &want), (protocol, parsed.l4), macs);
}

proptest! {
    #[test]
    fn plain_ipv4_is_rewritten_by_words(from in key_v4(), to in key_v4(), dress in dress()) {
        assert_plain::<u64, _>(from, to, &dress);
    }

    #[test]
    fn plain_ipv6_is_rewritten_by_words(from in key_v6(), to in key_v6(), dress in dress()) {
        assert_plain::<[u64; 4], _>(from, to, &dress);
    }

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

proptest! {
    #[test]
    fn an_ipv4_error_is_translated_with_what_it_quotes(
        from in key_v4(), to in key_v4(), router: Option<u32>, named: bool, dress in dress(), words in 0usize..20,
    ) {
        let to = if named { FlowKey { dst: from.dst, ..to } } else { to };
        let (frame, want) = translated(from, to, router.map(Into::into), &dress, words * 2);
        assert_valid_checksums(&frame);
        prop_assert_eq!(frame, want);
    }

    #[test]
    fn an_ipv6_error_is_translated_with_what_it_quotes(
        from in key_v6(), to in key_v6(), router: Option<u128>, named: bool, dress in dress(), words in 0usize..20,
    ) {
        let to = if named { FlowKey { dst: from.dst, ..to } } else { to };
        let (frame, want) = translated(from, to, router.map(Into::into), &dress, words * 2);
        assert_valid_checksums(&frame);
        prop_assert_eq!(frame, want);
    }
}

#[test]
fn only_an_error_about_a_flow_of_that_family_is_translated() {
    let v6 = AnyKey::new("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap(), Protocol::Udp)
        .expect("one family");
    let quoted = PacketBuilder::udp("10.0.0.1:1", "10.0.0.2:2").build();
    let rest = [&[0; 4][..], &quoted[14..]].concat();
    let error = PacketBuilder::icmp([10, 0, 0, 2].into(), [10, 0, 0, 1].into(), 3, 3, &rest).build();
    for frame in [quoted, error] {
        let (mut after, parsed) = (frame.clone(), parse(&frame, frame.len()).expect("valid"));
        assert!(!nat::rewrite_error(&mut after, &parsed, v6));
        assert_eq!(after, frame);
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
