//! Echo replies and ICMP errors (RFC 792, RFC 1812 §4.3, RFC 4443).

use std::net::IpAddr;

use super::{Link, TTL, Writer};
use crate::{
    AnyAddrs, Body, Fragment, MacAddr, MacClass, Parsed,
    bytes::{be16, chunk_mut},
    checksum::{Delta, Sum},
    ether, icmp, ipv4, ipv6,
};

/// Why a packet was not delivered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IcmpError {
    /// Its receiver's neighbour does not answer.
    HostUnreachable,
    /// There is no route to its receiver.
    NoRoute,
    /// Nobody serves its port.
    PortUnreachable,
    /// It is longer than the link it must take; `mtu` bytes fit.
    TooBig {
        /// Bytes of an IP packet that fit.
        mtu: u16,
    },
    /// It took too many hops.
    TtlExceeded,
}

/// Who sends an ICMP error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sender {
    /// Ethernet address of the port.
    pub mac: MacAddr,
    /// An address of the family of the packet.
    pub address: IpAddr,
}

impl IcmpError {
    /// Type, code and the word behind the checksum.
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (3, 0, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::TooBig { mtu } => (3, 4, mtu as u32),
            Self::TtlExceeded => (11, 0, 0),
        }
    }

    /// Type, code and the word behind the checksum.
    const fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (1, 0, 0),
            Self::HostUnreachable => (1, 3, 0),
            Self::PortUnreachable => (1, 4, 0),
            Self::TooBig { mtu } => (2, 0, mtu as u32),
            Self::TtlExceeded => (3, 0, 0),
        }
    }
}

/// False for packets that must not be answered by an error: errors themselves, redirects, fragments that may be of one,
/// later fragments, and what came from or went to more than one station (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
#[must_use]
pub fn may_be_answered(parsed: &Parsed) -> bool {
    let single = |address: IpAddr| {
        let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        !(address.is_multicast() || address.is_unspecified() || broadcast)
    };
    let Some(addrs) = parsed.addrs() else { return false };
    let is_error = match parsed.body {
        Body::Icmp(icmp) => icmp.is_error() || icmp.is_redirect(),
        // A fragment yields no ICMP type.
        Body::OtherIp { protocol: 1 | 58, .. } => true,
        _ => false,
    };
    !is_error
        && !matches!(parsed.fragment, Fragment::Later { .. })
        && parsed.dst_mac.class() == MacClass::Unicast
        && parsed.src_mac.class() == MacClass::Unicast
        && single(addrs.src())
        && single(addrs.dst())
        && !addrs.src().is_loopback()
}

/// Tells the sender of a packet why it was not delivered, and quotes it as far as the rules allow: 576 bytes in all
/// over IPv4 (RFC 1812 §4.3.2.3), 1,280 over IPv6 (RFC 4443 §2.4 c).
///
/// `head` is the frame that was parsed, not yet rewritten.
pub fn icmp_error(
    out: &mut [u8],
    head: &[u8],
    parsed: &Parsed,
    from: Sender,
    error: IcmpError,
) -> Option<usize> {
    if !may_be_answered(parsed) {
        return None;
    }
    let quoted = head.get(parsed.l3.into()..parsed.frame_end().min(head.len()))?;
    let link = Link { dst: parsed.src_mac, src: from.mac, vlan: parsed.vlan };
    match (parsed.addrs()?, from.address) {
        (AnyAddrs::V4 { src: client, .. }, IpAddr::V4(us)) => {
            let quoted = &quoted[..quoted.len().min(576 - ipv4::HEADER_LEN - icmp::HEADER_LEN)];
            let mut writer = Writer::frame(out, link, ether::IPV4)?;
            writer.ipv4(us, client, 1, icmp::HEADER_LEN + quoted.len())?;
            message(&mut writer, Sum::new(), error.v4(), quoted)?;
            writer.finish()
        }
        (AnyAddrs::V6 { src: client, .. }, IpAddr::V6(us)) => {
            let quoted = &quoted[..quoted.len().min(1280 - ipv6::HEADER_LEN - icmp::HEADER_LEN)];
            let len = icmp::HEADER_LEN + quoted.len();
            let mut writer = Writer::frame(out, link, ether::IPV6)?;
            writer.ipv6(us, client, (58, TTL), len)?;
            let sum = Sum::pseudo(AnyAddrs::V6 { src: us, dst: client }, 58, u16::try_from(len).ok()?);
            message(&mut writer, sum, error.v6(), quoted)?;
            writer.finish()
        }
        _ => None,
    }
}

/// The message behind the IP header; `sum` already holds the pseudo header.
fn message(
    writer: &mut Writer<'_>,
    mut sum: Sum,
    (kind, code, rest): (u8, u8, u32),
    quoted: &[u8],
) -> Option<()> {
    let at = writer.len;
    writer.put(&[kind, code, 0, 0])?;
    writer.put(&rest.to_be_bytes())?;
    writer.put(quoted)?;
    sum.add(writer.since(at));
    writer.patch(at + 2, sum.checksum())
}

/// Turns an echo request into its reply, in place; false, and nothing changed, for any other frame and for a request to
/// more than one station.
pub fn echo_reply(head: &mut [u8], parsed: &Parsed) -> bool {
    let Body::Icmp(request) = parsed.body else { return false };
    if !request.is_echo_request() || !may_be_answered(parsed) {
        return false;
    }
    let Some(bytes) = chunk_mut(head, parsed.l4.into()) else { return false };
    let mut message = icmp::Header(bytes);
    let (old, new) = match request.addrs {
        AnyAddrs::V4 { .. } => (8u8, 0u8),
        AnyAddrs::V6 { .. } => (128, 129),
    };
    // Exchanging the addresses changes no sum. Over a message of nothing but zeros, which has no pseudo header to make
    // up for it, a checksum of 0 does not add up; 0xffff always does (RFC 1624 §3).
    let delta = Delta::of_u16(u16::from(old) << 8, u16::from(new) << 8);
    let checksum = match delta.apply(message.checksum()) {
        0 => 0xffff,
        checksum => checksum,
    };
    message.set_checksum(checksum);
    message.set_kind(new, 0);
    swap_addresses(head, parsed, request.addrs);
    ether::set_macs(head, parsed.src_mac, parsed.dst_mac)
}

/// Exchanges the addresses of the IP header and starts its TTL anew.
fn swap_addresses(head: &mut [u8], parsed: &Parsed, addrs: AnyAddrs) {
    match addrs {
        AnyAddrs::V4 { src, dst } => {
            let Some(bytes) = chunk_mut::<{ ipv4::HEADER_LEN }>(head, parsed.l3.into()) else { return };
            let old = be16(bytes, 8);
            let mut ip = ipv4::Header(bytes);
            ip.set_ttl(TTL);
            ip.set_checksum(Delta::of_u16(old, u16::from(TTL) << 8 | (old & 0xff)).apply(ip.checksum()));
            ip.set_src(dst);
            ip.set_dst(src);
        }
        AnyAddrs::V6 { src, dst } => {
            let Some(bytes) = chunk_mut(head, parsed.l3.into()) else { return };
            let mut ip = ipv6::Header(bytes);
            ip.set_hop_limit(TTL);
            ip.set_src(dst);
            ip.set_dst(src);
        }
    }
}
