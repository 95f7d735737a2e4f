//! Datagrams in parts, in the plainest way: cut by their sender or a router, put together by their receiver byte by byte.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use packet::{AnyAddrs, Body, Fragment, Parsed, Protocol, parse, testkit::PacketBuilder};

/// The facts of a frame that carries UDP, or a part of it.
pub(crate) fn is_udp(parsed: &Parsed) -> bool {
    match parsed.body {
        Body::Flow { key, .. } => key.protocol() == Protocol::Udp,
        Body::OtherIp { protocol, .. } => protocol == Protocol::Udp.number(),
        _ => false,
    }
}

/// The packet, or part, in parts of at most so many bytes each.
pub(crate) fn cut(frame: &[u8], mtu: u16, id: u32) -> Vec<Vec<u8>> {
    let parsed = parse(frame, frame.len()).expect("what is sent parses");
    let addrs = parsed.addrs().expect("IP");
    let headers = if matches!(addrs, AnyAddrs::V4 { .. }) { 20 } else { 48 };
    let room = usize::from((mtu - headers) & !7);
    let (offset, more) = match parsed.fragment {
        Fragment::Whole => (0, false),
        Fragment::First { .. } => (0, true),
        Fragment::Later { offset, more, .. } => (offset, more),
    };
    let payload = &frame[parsed.l4.into()..parsed.frame_end()];
    let count = payload.chunks(room).len();
    let part = |(n, bytes): (usize, &[u8])| {
        let start = offset + u16::try_from(n * room).expect("a short datagram");
        PacketBuilder::ip(addrs.src(), addrs.dst(), Protocol::Udp.number())
            .macs(parsed.dst_mac, parsed.src_mac)
            .ttl(parsed.ttl)
            .payload(bytes)
            .fragment(id, start, more || n + 1 < count)
            .build()
    };
    payload.chunks(room).enumerate().map(part).collect()
}

/// An IPv4 packet that may be cut on its way, under this name.
pub(crate) fn allow_cutting(frame: &mut [u8], l3: usize, id: u16) {
    frame[l3 + 4..][..2].copy_from_slice(&id.to_be_bytes());
    frame[l3 + 6..][..2].fill(0);
    frame[l3 + 10..][..2].fill(0);
    let sum = packet::checksum::ipv4_header(&frame[l3..l3 + 20]);
    frame[l3 + 10..][..2].copy_from_slice(&sum.to_be_bytes());
}

/// The name of a datagram.
pub(crate) fn name_of(parsed: &Parsed) -> Option<Name> {
    let addrs = parsed.addrs()?;
    match parsed.fragment {
        Fragment::Whole => None,
        Fragment::First { id } | Fragment::Later { id, .. } => Some((addrs.src(), addrs.dst(), id)),
    }
}

/// Sender, receiver and identification.
type Name = (IpAddr, IpAddr, u32);

/// Datagrams of which parts have come, each with its bytes and where it ends.
#[derive(Default)]
pub(crate) struct Joiner(HashMap<Name, (BTreeMap<usize, u8>, Option<usize>)>);

impl Joiner {
    /// A part has come; gives the packet when all of it is there. One that is repeated, or was cut elsewhere when it was, says
    /// the same.
    pub(crate) fn join(&mut self, parsed: &Parsed, frame: &[u8]) -> Option<Vec<u8>> {
        let name = name_of(parsed)?;
        let (start, last) = match parsed.fragment {
            Fragment::Later { offset, more, .. } => (usize::from(offset), !more),
            _ => (0, false),
        };
        let payload = &frame[parsed.l4.into()..parsed.frame_end()];
        let (bytes, end) = self.0.entry(name).or_default();
        for (at, byte) in (start..).zip(payload) {
            let known = *bytes.entry(at).or_insert(*byte);
            assert_eq!(known, *byte, "byte {at} of {name:?} is another one in another part");
        }
        if last {
            let found = start + payload.len();
            assert_eq!(*end.get_or_insert(found), found, "{name:?} has two ends");
        }
        if end.is_none_or(|end| bytes.len() < end) {
            return None;
        }
        let (bytes, _) = self.0.remove(&name)?;
        let bytes: Vec<u8> = bytes.into_values().collect();
        let (src, dst, _) = name;
        let whole = PacketBuilder::ip(src, dst, Protocol::Udp.number()).ttl(parsed.ttl).payload(&bytes);
        Some(whole.macs(parsed.dst_mac, parsed.src_mac).build())
    }
}
