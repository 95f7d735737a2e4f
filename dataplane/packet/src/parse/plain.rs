//! The straight line: what is [`Plain`] has all its facts from that; and so, nearly, do parts of datagrams.

use crate::{
    AnyAddrs, Body, Family, Fragment, Parsed, VlanTag,
    bytes::ne16,
    checksum, ether, ipv4, ipv6,
    plain::{Ends, Plain, Shape, V4_BEGIN, V4_FRAGMENT},
};

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
    let begin = packet.first_chunk()?;
    match ether_type {
        ether::IPV4 => put_facts::<u64>(&Plain::of_packet(packet, (room, true))?, link, begin, out),
        ether::IPV6 => put_facts::<[u64; 4]>(&Plain::of_packet(packet, (room, true))?, link, begin, out),
        _ => return None,
    }
    Some(())
}

/// The IPv4 packet in `packet`, if it is one, is a part of a datagram: its offset is not 0, or more follow.
#[inline(always)]
pub(super) fn is_part(packet: &[u8]) -> bool {
    packet.first_chunk::<8>().is_some_and(|begin| ne16(begin, 6) & V4_FRAGMENT != 0)
}

/// Reads the fragment of an IPv4 packet without options in `packet`.
#[inline(always)]
pub(super) fn part(link: Link<'_>, packet: &[u8], room: usize, out: &mut Parsed) -> Option<()> {
    let bytes: &[u8; ipv4::HEADER_LEN] = packet.first_chunk()?;
    let ip = ipv4::Header(bytes);
    let (fragment, ip_len) = (ip.fragment(), ip.total_len());
    let fits = (ipv4::HEADER_LEN..=room).contains(&usize::from(ip_len));
    if bytes[0] != V4_BEGIN || !fits {
        return None;
    }
    *out = Parsed {
        l3: link.len,
        l4: link.len + ip.header_len(),
        ip_len,
        vlan: link.vlan,
        ttl: ip.ttl(),
        dont_fragment: ip.dont_fragment(),
        ip_checksum_right: checksum::ipv4_header(bytes) == 0,
        unfinished: false,
        fragment,
        dst_mac: ether::Header(link.eth).dst(),
        src_mac: ether::Header(link.eth).src(),
        body: Body::OtherIp { addrs: AnyAddrs::V4 { src: ip.src(), dst: ip.dst() }, protocol: ip.protocol() },
    };
    Some(())
}

/// The IPv6 packet in `packet`, if it is one, begins with the header of fragments.
#[inline(always)]
pub(super) fn is_part_v6(packet: &[u8]) -> bool {
    packet.first_chunk::<8>().is_some_and(|begin| begin[6] == ipv6::FRAGMENT)
}

/// Reads the fragment of an IPv6 packet in `packet` that has no other extension header in front of it.
#[inline(always)]
pub(super) fn part_v6(link: Link<'_>, packet: &[u8], room: usize, out: &mut Parsed) -> Option<()> {
    /// Both headers.
    const LEN: u16 = 48;
    let (bytes, behind) = packet.split_first_chunk()?;
    let (ip, header) = (ipv6::Header(bytes), behind.first_chunk()?);
    let ip_len = ip.payload_len().checked_add(40)?;
    let (fragment, fits) = (ipv6::fragment(header), (usize::from(LEN)..=room).contains(&usize::from(ip_len)));
    if ip.version() != 6 || fragment == Fragment::Whole || !fits {
        return None;
    }
    *out = Parsed {
        l3: link.len,
        l4: link.len + LEN,
        ip_len,
        vlan: link.vlan,
        ttl: ip.hop_limit(),
        dont_fragment: true,
        ip_checksum_right: true,
        unfinished: false,
        fragment,
        dst_mac: ether::Header(link.eth).dst(),
        src_mac: ether::Header(link.eth).src(),
        body: Body::OtherIp { addrs: AnyAddrs::V6 { src: ip.src(), dst: ip.dst() }, protocol: header[0] },
    };
    Some(())
}

/// Puts down the facts of the untagged frame beginning with `head` that was seen to have a plain packet of this shape with
/// nothing wrong with its checksums: what [`parse`](crate::parse) would read. `None`, and `out` as it was, for the head of
/// another frame.
#[inline]
pub fn facts_of_plain(shape: Shape, head: &[u8], out: &mut Parsed) -> Option<()> {
    let (eth, packet) = head.split_first_chunk()?;
    let (link, begin, protocol) =
        (Link { eth, vlan: None, len: 14 }, packet.first_chunk()?, shape.protocol());
    match shape {
        Shape::V4Tcp | Shape::V4Udp => put_facts::<u64>(&Plain::again(head, protocol)?, link, begin, out),
        Shape::V6Tcp | Shape::V6Udp => {
            put_facts::<[u64; 4]>(&Plain::again(head, protocol)?, link, begin, out)
        }
    }
    Some(())
}

#[inline(always)]
fn put_facts<E: Ends>(plain: &Plain<E>, link: Link<'_>, begin: &[u8; 8], out: &mut Parsed) {
    *out = Parsed {
        l3: link.len,
        l4: link.len + plain.header_len(),
        ip_len: plain.ip_len,
        vlan: link.vlan,
        ttl: plain.ttl,
        dont_fragment: E::FAMILY == Family::V6 || begin[6] & 0x40 != 0,
        ip_checksum_right: plain.ip_checksum_right,
        unfinished: plain.unfinished,
        fragment: Fragment::Whole,
        dst_mac: ether::Header(link.eth).dst(),
        src_mac: ether::Header(link.eth).src(),
        body: Body::Flow { key: plain.ends.key(plain.protocol, plain.ports), tcp_flags: plain.flags },
    };
}
