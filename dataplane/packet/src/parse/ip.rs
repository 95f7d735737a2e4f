//! The IP layers of the general way, and the transport headers behind them.

use super::{Frame, icmp, nd};
use crate::{
    AnyAddrs, AnyKey, Body, FlowKey, Fragment, ParseError, Parsed, Protocol, TcpFlags,
    bytes::{be16, chunk},
    checksum, ipv4, ipv6, sctp, tcp,
};

const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;

/// Reads the IPv4 packet at `l3`.
pub(super) fn v4(frame: Frame<'_>, l3: usize, parsed: &mut Parsed) -> Result<(), ParseError> {
    let ip = ipv4::Header(frame.chunk(l3)?);
    let (header_len, total_len) = (usize::from(ip.header_len()), usize::from(ip.total_len()));
    if ip.version() != 4 {
        return Err(ParseError::BadIpVersion);
    }
    if header_len < ipv4::HEADER_LEN || header_len > total_len {
        return Err(ParseError::BadIpv4HeaderLen);
    }
    let (l4, end) = (l3 + header_len, l3 + total_len);
    if end > frame.len {
        return Err(ParseError::Truncated);
    }
    if l4 > frame.head.len() {
        return Err(ParseError::SplitHeader);
    }
    parsed.l4 = offset(l4)?;
    parsed.ip_checksum_right =
        frame.head.get(l3..l4).is_some_and(|header| checksum::ipv4_header(header) == 0);
    parsed.ip_len = ip.total_len();
    parsed.ttl = ip.ttl();
    parsed.dont_fragment = ip.dont_fragment();
    parsed.fragment = ip.fragment();
    let addrs = AnyAddrs::V4 { src: ip.src(), dst: ip.dst() };
    parsed.body = payload(frame, Place { at: l4, end }, parsed, addrs, ip.protocol())?;
    Ok(())
}

/// Reads the IPv6 packet at `l3`.
pub(super) fn v6(frame: Frame<'_>, l3: usize, parsed: &mut Parsed) -> Result<(), ParseError> {
    let ip = ipv6::Header(frame.chunk(l3)?);
    if ip.version() != 6 {
        return Err(ParseError::BadIpVersion);
    }
    let ip_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
    let end = l3 + ip_len;
    if end > frame.len {
        return Err(ParseError::Truncated);
    }
    let found = ipv6::walk(frame.head, l3 + ipv6::HEADER_LEN, end, ip.next_header())?;
    parsed.l4 = offset(found.at)?;
    parsed.ip_len = u16::try_from(ip_len).map_err(|_| ParseError::TooLong)?;
    parsed.ttl = ip.hop_limit();
    parsed.dont_fragment = true;
    parsed.fragment = found.fragment;
    let addrs = AnyAddrs::V6 { src: ip.src(), dst: ip.dst() };
    parsed.body = payload(frame, Place { at: found.at, end }, parsed, addrs, found.protocol)?;
    // RFC 6980 §5: even in an atomic fragment.
    if found.fragment_header && matches!(parsed.body, Body::Nd(_)) {
        return Err(ParseError::BadNd);
    }
    Ok(())
}

/// Where the IP payload lies in the frame.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) at: usize,
    pub(super) end: usize,
}

impl Place {
    /// The `N` bytes at its beginning.
    pub(super) fn chunk<const N: usize>(self, head: &[u8]) -> Result<&[u8; N], ParseError> {
        if self.at + N > self.end {
            return Err(ParseError::ShortL4);
        }
        chunk(head, self.at).ok_or(ParseError::SplitHeader)
    }

    fn len(self) -> usize {
        self.end - self.at
    }
}

fn payload(
    frame: Frame<'_>,
    place: Place,
    parsed: &Parsed,
    addrs: AnyAddrs,
    protocol: u8,
) -> Result<Body, ParseError> {
    if parsed.fragment != Fragment::Whole {
        return Ok(Body::OtherIp { addrs, protocol });
    }
    match (Protocol::try_from(protocol), addrs, protocol) {
        (Ok(protocol), ..) => flow(frame.head, place, addrs, protocol),
        (_, AnyAddrs::V4 { .. }, ICMPV4) => Ok(Body::Icmp(icmp::facts(frame.head, place, addrs)?)),
        (_, AnyAddrs::V6 { src, dst }, ICMPV6) => match nd::facts(frame.head, place, parsed.ttl, (src, dst))?
        {
            Some(nd) => Ok(Body::Nd(nd)),
            None => Ok(Body::Icmp(icmp::facts(frame.head, place, addrs)?)),
        },
        _ => Ok(Body::OtherIp { addrs, protocol }),
    }
}

fn flow(head: &[u8], place: Place, addrs: AnyAddrs, protocol: Protocol) -> Result<Body, ParseError> {
    let mut tcp_flags = TcpFlags::NONE;
    match protocol {
        Protocol::Tcp => {
            let tcp = tcp::Header(place.chunk(head)?);
            let offset = usize::from(tcp.header_len());
            if offset < tcp::HEADER_LEN || offset > place.len() {
                return Err(ParseError::BadTcpOffset);
            }
            if place.at + offset > head.len() {
                return Err(ParseError::SplitHeader);
            }
            tcp_flags = tcp.flags();
        }
        Protocol::Udp => {
            let len = usize::from(be16(place.chunk::<8>(head)?, 4));
            if len < 8 || len > place.len() {
                return Err(ParseError::BadUdpLength);
            }
        }
        Protocol::Sctp => {
            let header = place.chunk::<{ sctp::HEADER_LEN }>(head)?;
            let behind = place.at + header.len();
            let chunks = head.get(behind..place.end.min(head.len())).unwrap_or_default();
            tcp_flags = sctp::flags(sctp::Header(header).tag(), chunks);
        }
    }
    let ports: &[u8; 4] = place.chunk(head)?;
    Ok(Body::Flow { key: key(addrs, ports, protocol), tcp_flags })
}

/// The key of these addresses and the two ports on the wire.
pub(super) fn key(addrs: AnyAddrs, ports: &[u8; 4], protocol: Protocol) -> AnyKey {
    let (sport, dport) = (be16(ports, 0), be16(ports, 2));
    match addrs {
        AnyAddrs::V4 { src, dst } => AnyKey::V4(FlowKey { src, dst, sport, dport, protocol }),
        AnyAddrs::V6 { src, dst } => AnyKey::V6(FlowKey { src, dst, sport, dport, protocol }),
    }
}

/// An offset in the frame as it is stored.
pub(super) fn offset(at: usize) -> Result<u16, ParseError> {
    u16::try_from(at).map_err(|_| ParseError::TooLong)
}
