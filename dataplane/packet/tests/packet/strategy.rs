//! Frames of every shape the parser knows, with what it should find in them.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::{AnyKey, FlowKey, Protocol, TcpFlags, VlanTag, testkit::PacketBuilder};
use proptest::{option, prelude::*};

/// One of the three protocols.
pub(crate) fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(&Protocol::ALL[..])
}

/// IPv4 flow keys.
pub(crate) fn key_v4() -> impl Strategy<Value = FlowKey<Ipv4Addr>> {
    (any::<[u32; 2]>(), any::<[u16; 2]>(), protocol()).prop_map(|([src, dst], [sport, dport], protocol)| {
        FlowKey { src: src.into(), dst: dst.into(), sport, dport, protocol }
    })
}

/// IPv6 flow keys.
pub(crate) fn key_v6() -> impl Strategy<Value = FlowKey<Ipv6Addr>> {
    (any::<[u128; 2]>(), any::<[u16; 2]>(), protocol()).prop_map(|([src, dst], [sport, dport], protocol)| {
        FlowKey { src: src.into(), dst: dst.into(), sport, dport, protocol }
    })
}

/// Flow keys of both families.
pub(crate) fn key() -> impl Strategy<Value = AnyKey> {
    prop_oneof![key_v4().prop_map(AnyKey::V4), key_v6().prop_map(AnyKey::V6)]
}

/// Everything about a frame but its addresses and ports.
#[derive(Clone, Debug)]
pub(crate) struct Dress {
    pub(crate) vlan: Option<u16>,
    pub(crate) ttl: u8,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
    pub(crate) padded: bool,
}

impl Dress {
    /// Puts it on.
    pub(crate) fn on(&self, packet: PacketBuilder) -> PacketBuilder {
        let mut packet = packet.ttl(self.ttl).flags(TcpFlags(self.flags)).payload(&self.payload);
        packet = packet.ip_options(&self.options).tcp_options(&self.tcp_options);
        for (kind, body) in &self.extensions {
            packet = packet.extension(*kind, body);
        }
        if let Some(tag) = self.vlan {
            packet = packet.vlan(VlanTag(tag));
        }
        packet.pad_to(if self.padded { 60 } else { 0 })
    }
}

/// Any dress.
pub(crate) fn dress() -> impl Strategy<Value = Dress> {
    let words = |max: usize| prop::collection::vec(any::<[u8; 4]>(), 0..max).prop_map(|words| words.concat());
    let extension = (0usize..3).prop_map(|n| (60, vec![0; 6 + 8 * n]));
    (
        option::of(any::<u16>()),
        1u8..,
        any::<u8>(),
        prop_oneof![3 => Just(Vec::new()), 1 => words(11)],
        prop_oneof![1 => Just(Vec::new()), 1 => words(11)],
        prop::collection::vec(extension, 0..3),
        prop::collection::vec(any::<u8>(), 0..200),
        any::<bool>(),
    )
        .prop_map(|(vlan, ttl, flags, options, tcp_options, extensions, payload, padded)| Dress {
            vlan,
            ttl,
            flags,
            options,
            tcp_options,
            extensions,
            payload,
            padded,
        })
}
