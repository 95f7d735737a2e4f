//! Fuzz targets: what must hold for any bytes. The fuzzer and the replay of the stored corpus call the same functions.

use crate::{
    Body, FlowKey, MacAddr, Parsed, checksum, nat, parse,
    reply::{self, IcmpError, LEN_MAX, Sender},
    testkit::assert_valid_checksums,
};

/// A fuzz target: panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target, under the name of its corpus folder.
pub const ALL: [(&str, Target); 3] = [("parse", parses), ("rewrite", rewrites), ("reply", replies)];

/// Parses the bytes, and parses them as the head of a longer frame.
///
/// # Panics
/// If a fact points outside the bytes, or the longer frame says something else about the same packet.
pub fn parses(bytes: &[u8]) {
    let whole = parse(bytes, bytes.len());
    if let Ok(parsed) = whole {
        within(&parsed, bytes.len(), bytes.len());
        let longer = parse(bytes, bytes.len() + 100);
        assert_eq!(longer, whole, "bytes behind the packet are padding");
    }
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        if let Ok(parsed) = parse(&bytes[..cut], bytes.len()) {
            within(&parsed, cut, bytes.len());
            assert_eq!(parsed.key(), whole.ok().and_then(|parsed| parsed.key()), "segments change no tuple");
        }
    }
}

/// Every header that a parsed frame names lies in the head, and the packet in the frame.
fn within(parsed: &Parsed, head: usize, frame: usize) {
    assert!(usize::from(parsed.l3) <= head && usize::from(parsed.l4) <= head);
    assert!(parsed.frame_end() <= frame || parsed.l4 == 0);
    if let Body::Flow { key, .. } = parsed.body {
        assert!(usize::from(parsed.l4) + key.protocol().header_len() <= head);
        assert!(usize::from(parsed.l4_len()) >= key.protocol().header_len());
    }
    if let Body::Icmp(icmp) = parsed.body {
        assert!(icmp.inner.is_none_or(|inner| usize::from(inner.l4) + 8 <= head && inner.l3 > parsed.l4));
    }
}

/// Rewrites the bytes there and back, as a flow and as an ICMP error.
///
/// # Panics
/// If right checksums do not stay right, or the way back does not restore addresses and ports.
pub fn rewrites(bytes: &[u8]) {
    let Ok(parsed) = parse(bytes, bytes.len()) else { return };
    let mut frame = bytes.to_vec();
    match parsed.body {
        Body::Flow { key: crate::AnyKey::V4(from), .. } => {
            let to = FlowKey { src: from.dst, dst: [10, 1, 2, 3].into(), sport: !from.sport, ..from };
            nat::Rewrite::new(&from, &to).forward(&mut frame, &parsed);
            same_verdict(bytes, &parsed, &frame, to.into());
        }
        Body::Flow { key: crate::AnyKey::V6(from), .. } => {
            let to = FlowKey { src: from.dst, dst: 7.into(), dport: from.sport, ..from };
            nat::Rewrite::new(&from, &to).forward(&mut frame, &parsed);
            same_verdict(bytes, &parsed, &frame, to.into());
        }
        Body::Icmp(icmp) => {
            let Some(inner) = icmp.inner else { return };
            let right = checksum::is_right(&parsed, [bytes]);
            assert!(nat::rewrite_error(&mut frame, &parsed, inner.key.reversed()));
            let after = parse(&frame, frame.len()).expect("addresses and ports decide no validity");
            assert_eq!(checksum::is_right(&after, [&frame[..]]), right);
        }
        _ => nat::decrement_ttl(&mut frame, &parsed),
    }
}

/// A rewritten frame parses to its new key, and its transport checksum is right if it was right before.
fn same_verdict(before: &[u8], parsed: &Parsed, after: &[u8], key: crate::AnyKey) {
    let now = parse(after, after.len()).expect("addresses and ports decide no validity");
    assert_eq!(now.key(), Some(key));
    assert_eq!(checksum::is_right(&now, [after]), checksum::is_right(parsed, [before]));
}

/// Answers the bytes in every way.
///
/// # Panics
/// If an answer is no valid frame, or is itself an error about an error.
pub fn replies(bytes: &[u8]) {
    let Ok(parsed) = parse(bytes, bytes.len()) else { return };
    let (mac, mut out) = (MacAddr([2, 0, 0, 0, 0, 9]), [0; LEN_MAX]);
    let check = |out: &[u8], len: Option<usize>| {
        if let Some(len) = len {
            assert_valid_checksums(&out[..len]);
        }
    };
    let len = reply::tcp_reset(&mut out, bytes, &parsed);
    check(&out, len);
    let len = reply::neighbor_advertisement(&mut out, &parsed, mac);
    check(&out, len);
    if let Some(addrs) = parsed.addrs() {
        let from = Sender { mac, address: addrs.dst() };
        let len = reply::icmp_error(&mut out, bytes, &parsed, from, IcmpError::TooBig { mtu: 1280 });
        check(&out, len);
    }
    let mut frame = bytes.to_vec();
    if reply::echo_reply(&mut frame, &parsed) || reply::arp_reply(&mut frame, &parsed, mac) {
        parse(&frame, frame.len()).expect("a reply in place parses");
    }
}
