//! From frame to facts in one pass. Any bytes are accepted; none make it panic, loop or read outside the head.
//!
//! Plain TCP and UDP, and parts of datagrams, take a straight line (`plain`); everything else goes the general way, which
//! gives the same answer for those too (a property test holds the two together).

mod fragment;
mod icmp;
mod ip;
mod nd;
mod plain;

pub use self::fragment::first_fragment;
pub use self::plain::facts_of_plain;
use self::plain::{Link, is_part, is_part_v6, part, part_v6, plain};
use crate::{
    Arp, Body, Fragment, ParseError, Parsed, VlanTag, arp,
    bytes::{be16, chunk},
    checksum, ether,
};

/// Reads the facts of a frame.
///
/// `head` is the contiguous first segment, `frame_len` the bytes of the whole frame (less than `head.len()` counts as
/// `head.len()`).
///
/// # Errors
/// The reason for which the frame must be dropped.
#[inline]
pub fn parse(head: &[u8], frame_len: usize) -> Result<Parsed, ParseError> {
    let mut parsed = Parsed::NOTHING;
    parse_into(head, frame_len, &mut parsed)?;
    Ok(parsed)
}

/// Reads the facts of a frame to where they are to be kept: what [`parse`] gives, without a copy of its hundred bytes.
///
/// # Errors
/// The reason for which the frame must be dropped; `out` says nothing then.
#[inline(always)]
pub fn parse_into(head: &[u8], frame_len: usize, out: &mut Parsed) -> Result<(), ParseError> {
    let frame_len = frame_len.max(head.len());
    if let Some((eth, packet)) = head.split_first_chunk() {
        let (link, room) = (Link { eth, vlan: None, len: 14 }, frame_len - 14);
        let ether_type = ether::Header(eth).ether_type();
        let known = match ether_type {
            ether::IPV4 if is_part(packet) => part(link, packet, room, out),
            ether::IPV6 if is_part_v6(packet) => part_v6(link, packet, room, out),
            _ => plain(link, (ether_type, packet), room, out),
        };
        if known.is_some() {
            return Ok(());
        }
    }
    less_plain(Frame { head, len: frame_len }, out)
}

/// Plain packets behind a tag, then all the rest.
#[inline(never)]
fn less_plain(frame: Frame<'_>, out: &mut Parsed) -> Result<(), ParseError> {
    if plain_tagged(frame, out).is_none() {
        *out = general(frame)?;
    }
    Ok(())
}

#[inline(always)]
fn plain_tagged(frame: Frame<'_>, out: &mut Parsed) -> Option<()> {
    let (eth, tagged) = frame.head.split_first_chunk()?;
    let (tag, packet) = tagged.split_first_chunk::<4>()?;
    if ether::Header(eth).ether_type() != ether::VLAN {
        return None;
    }
    let (link, room) = (Link { eth, vlan: Some(VlanTag(be16(tag, 0))), len: 18 }, frame.len - 18);
    plain(link, (be16(tag, 2), packet), room, out)
}

/// Every frame, one layer after the other.
#[inline(never)]
fn general(frame: Frame<'_>) -> Result<Parsed, ParseError> {
    let eth = ether::Header(frame.chunk(0)?);
    let (mut ether_type, mut l3, mut vlan) = (eth.ether_type(), ether::HEADER_LEN, None);
    if ether_type == ether::VLAN {
        let tag: &[u8; 4] = frame.chunk(l3)?;
        (vlan, ether_type, l3) = (Some(VlanTag(be16(tag, 0))), be16(tag, 2), l3 + 4);
    }
    let mut parsed = Parsed {
        l3: if vlan.is_some() { 18 } else { 14 },
        vlan,
        l4: 0,
        ip_len: 0,
        ttl: 0,
        dont_fragment: false,
        ip_checksum_right: true,
        unfinished: false,
        fragment: Fragment::Whole,
        dst_mac: eth.dst(),
        src_mac: eth.src(),
        body: Body::OtherEther(ether_type),
    };
    match ether_type {
        ether::IPV4 => ip::v4(frame, l3, &mut parsed)?,
        ether::IPV6 => ip::v6(frame, l3, &mut parsed)?,
        ether::ARP => parsed.body = Body::Arp(arp_facts(frame, l3)?),
        behind if ether::is_tag(behind) => return Err(ParseError::StackedVlan),
        _ => {}
    }
    parsed.unfinished = checksum::is_unfinished(&parsed, frame.head);
    Ok(parsed)
}

/// The bytes at hand, and how long the whole frame is.
#[derive(Clone, Copy)]
struct Frame<'a> {
    head: &'a [u8],
    len: usize,
}

impl<'a> Frame<'a> {
    /// The `N` bytes at `at`.
    fn chunk<const N: usize>(self, at: usize) -> Result<&'a [u8; N], ParseError> {
        chunk(self.head, at).ok_or(if at + N <= self.len {
            ParseError::SplitHeader
        } else {
            ParseError::Truncated
        })
    }
}

fn arp_facts(frame: Frame<'_>, at: usize) -> Result<Arp, ParseError> {
    arp::Packet(frame.chunk(at)?).facts().ok_or(ParseError::BadArp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::PacketBuilder;

    #[test]
    fn the_straight_line_and_the_general_way_agree() {
        for (src, dst) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fe80::1]:1", "[fe80::2]:2")] {
            let (tcp, udp) = (PacketBuilder::tcp(src, dst), PacketBuilder::udp(src, dst));
            let parts = [(0, true), (64, true), (64, false)];
            let parts = parts.map(|(offset, more)| udp.clone().fragment(0x0304, offset, more));
            for packet in [tcp, udp].into_iter().chain(parts) {
                let packet = packet.payload(b"payload");
                for packet in [packet.clone(), packet.vlan(VlanTag(0x2007))] {
                    let bytes = packet.build();
                    let want = general(Frame { head: &bytes, len: bytes.len() });
                    assert_eq!(parse(&bytes, bytes.len()), want);
                    // Every byte in turn takes every value; what one way refuses, both do, for the same reason.
                    for at in 12..bytes.len() {
                        let mut bytes = bytes.clone();
                        for value in 0..=u8::MAX {
                            bytes[at] = value;
                            let want = general(Frame { head: &bytes, len: bytes.len() });
                            assert_eq!(parse(&bytes, bytes.len()), want, "byte {at} = {value}");
                        }
                    }
                }
            }
        }
    }
}
