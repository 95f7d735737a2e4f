//! The straight line: what is [`Plain`] has all its facts from that.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{AnyKey, Body, Family, FlowKey, Fragment, Parsed, VlanTag, ether, plain::Plain};

/// The part of a frame before the packet.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) eth: &'a [u8; ether::HEADER_LEN],
    pub(super) vlan: Option<VlanTag>,
    /// Its length.
    pub(super) len: u16,
}

/// Reads the plain packet of this type in `packet`; `room` bytes of the frame lie behind the link header.
#[inline(always)]
pub(super) fn plain(
    link: Link<'_>,
    (ether_type, packet): (u16, &[u8]),
    room: usize,
    out: &mut Parsed,
) -> Option<()> {
    let mut plain = Plain::NOTHING;
    plain.read(ether_type, packet, room)?;
    put_facts(&plain, link, packet.first_chunk()?, out);
    Some(())
}

/// Puts down the facts of the untagged frame beginning with `head` whose plain packet has these words: what
/// [`parse`](crate::parse) would read. `None`, and `out` as it was, for a head without the packet's first bytes: that of
/// another frame.
#[inline]
pub fn facts_of_plain(plain: &Plain, head: &[u8], out: &mut Parsed) -> Option<()> {
    let (eth, packet) = head.split_first_chunk()?;
    put_facts(plain, Link { eth, vlan: None, len: 14 }, packet.first_chunk()?, out);
    Some(())
}

#[inline(always)]
fn put_facts(plain: &Plain, link: Link<'_>, packet: &[u8; 8], out: &mut Parsed) {
    *out = Parsed {
        l3: link.len,
        l4: link.len + if plain.family == Family::V4 { 20 } else { 40 },
        ip_len: plain.ip_len,
        vlan: link.vlan,
        ttl: plain.ttl,
        dont_fragment: plain.family == Family::V6 || packet[6] & 0x40 != 0,
        ip_checksum_right: plain.ip_checksum_right,
        unfinished: plain.unfinished,
        fragment: Fragment::Whole,
        dst_mac: ether::Header(link.eth).dst(),
        src_mac: ether::Header(link.eth).src(),
        body: Body::Flow { key: key(plain), tcp_flags: plain.flags },
    };
}

#[inline(always)]
fn key(plain: &Plain) -> AnyKey {
    let [first, second, third, fourth] = plain.addresses;
    let [s0, s1, d0, d1] = plain.ports.to_be_bytes();
    let (sport, dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let protocol = plain.protocol;
    match plain.family {
        Family::V4 => {
            let [a, b, c, d, e, f, g, h] = first.to_be_bytes();
            let (src, dst) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            AnyKey::V4(FlowKey { src, dst, sport, dport, protocol })
        }
        Family::V6 => {
            let address = |high, low| Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
            let (src, dst) = (address(first, second), address(third, fourth));
            AnyKey::V6(FlowKey { src, dst, sport, dport, protocol })
        }
    }
}
