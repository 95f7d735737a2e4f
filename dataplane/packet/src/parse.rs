//! From frame to facts in one pass. Any bytes are accepted; none make it panic, loop or read outside the head.
//!
//! Plain IPv4 TCP and UDP take a straight line through `plain_ipv4`; everything else goes the general way, which gives
//! the same answer for those too (a property test holds the two together).

mod icmp;
mod ip;
mod nd;

use crate::{
    AnyKey, Arp, Body, FlowKey, Fragment, ParseError, Parsed, Protocol, TcpFlags, VlanTag, arp,
    bytes::{be16, chunk},
    ether, ipv4, tcp,
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
    match plain_ipv4(head, frame_len) {
        Some(parsed) => Ok(parsed),
        None => general(head, frame_len),
    }
}

/// Where IPv4 begins in an untagged frame, and where its payload does without options.
const L3: usize = ether::HEADER_LEN;
const L4: usize = L3 + ipv4::HEADER_LEN;

/// Untagged, whole, valid IPv4 without options over TCP or UDP, or nothing.
#[inline]
fn plain_ipv4(head: &[u8], frame_len: usize) -> Option<Parsed> {
    let bytes = head.first_chunk::<{ L4 + 8 }>()?;
    let (eth, rest) = (ether::Header(head.first_chunk()?), chunk(head, L3)?);
    let ip = ipv4::Header(rest);
    // EtherType IPv4, version 4 with a header of 5 words, no more fragments and offset 0.
    if be16(bytes, 12) != ether::IPV4 || bytes[L3] != 0x45 || be16(bytes, L3 + 6) & 0x3fff != 0 {
        return None;
    }
    let ip_len = ip.total_len();
    let l4_len = usize::from(ip_len).checked_sub(ipv4::HEADER_LEN)?;
    if usize::from(ip_len) + L3 > frame_len.max(head.len()) {
        return None;
    }
    let (protocol, tcp_flags) = match ip.protocol() {
        6 => {
            let tcp = tcp::Header(chunk(head, L4)?);
            let offset = usize::from(tcp.header_len());
            if offset < tcp::HEADER_LEN || offset > l4_len || L4 + offset > head.len() {
                return None;
            }
            (Protocol::Tcp, tcp.flags())
        }
        17 => {
            let len = usize::from(be16(bytes, L4 + 4));
            if len < 8 || len > l4_len {
                return None;
            }
            (Protocol::Udp, TcpFlags::NONE)
        }
        _ => return None,
    };
    let key = FlowKey {
        src: ip.src(),
        dst: ip.dst(),
        sport: be16(bytes, L4),
        dport: be16(bytes, L4 + 2),
        protocol,
    };
    Some(Parsed {
        l3: 14,
        l4: 34,
        ip_len,
        vlan: None,
        ttl: ip.ttl(),
        dont_fragment: ip.dont_fragment(),
        fragment: Fragment::Whole,
        dst_mac: eth.dst(),
        src_mac: eth.src(),
        body: Body::Flow { key: AnyKey::V4(key), tcp_flags },
    })
}

/// Every frame, one layer after the other.
#[inline(never)]
fn general(head: &[u8], frame_len: usize) -> Result<Parsed, ParseError> {
    let frame = Frame { head, len: frame_len.max(head.len()) };
    let eth = ether::Header(frame.chunk(0)?);
    let (mut ether_type, mut l3, mut vlan) = (eth.ether_type(), L3, None);
    if ether_type == ether::VLAN {
        let tag: &[u8; 4] = frame.chunk(L3)?;
        (vlan, ether_type, l3) = (Some(VlanTag(be16(tag, 0))), be16(tag, 2), L3 + 4);
    }
    let mut parsed = Parsed {
        l3: if vlan.is_some() { 18 } else { 14 },
        l4: 0,
        ip_len: 0,
        vlan,
        ttl: 0,
        dont_fragment: false,
        fragment: Fragment::Whole,
        dst_mac: eth.dst(),
        src_mac: eth.src(),
        body: Body::OtherEther(ether_type),
    };
    match ether_type {
        ether::IPV4 => ip::v4(frame, l3, &mut parsed)?,
        ether::IPV6 => ip::v6(frame, l3, &mut parsed)?,
        ether::ARP => parsed.body = Body::Arp(arp_facts(frame, l3)?),
        ether::VLAN | ether::SERVICE_VLAN | ether::OLD_STACKED_VLAN => return Err(ParseError::StackedVlan),
        _ => {}
    }
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
