//! ICMP and ICMPv6, with the packet that an error quotes.

use super::ip::{Place, key, offset};
use crate::{AnyAddrs, Fragment, Icmp, Inner, ParseError, Protocol, bytes::chunk, icmp, ipv4, ipv6};

/// Reads the message at `place`.
pub(super) fn facts(head: &[u8], place: Place, addrs: AnyAddrs) -> Result<Icmp, ParseError> {
    let header = icmp::Header(place.chunk(head)?);
    let mut facts = Icmp { addrs, kind: header.kind(), code: header.code(), inner: None };
    if facts.is_error() {
        // The quotation may be cut anywhere; what lies outside the packet or the head does not count as there.
        let end = place.end.min(head.len());
        let quoted = head.get(..end).unwrap_or_default();
        facts.inner = match addrs {
            AnyAddrs::V4 { .. } => inner_v4(quoted, place.at + icmp::HEADER_LEN),
            AnyAddrs::V6 { .. } => inner_v6(quoted, place.at + icmp::HEADER_LEN),
        };
    }
    Ok(facts)
}

fn inner_v4(quoted: &[u8], l3: usize) -> Option<Inner> {
    let ip = ipv4::Header(chunk(quoted, l3)?);
    let header_len = usize::from(ip.header_len());
    if ip.version() != 4 || header_len < ipv4::HEADER_LEN || matches!(ip.fragment(), Fragment::Later { .. }) {
        return None;
    }
    inner(quoted, l3, l3 + header_len, AnyAddrs::V4 { src: ip.src(), dst: ip.dst() }, ip.protocol())
}

fn inner_v6(quoted: &[u8], l3: usize) -> Option<Inner> {
    let ip = ipv6::Header(chunk(quoted, l3)?);
    if ip.version() != 6 {
        return None;
    }
    let found = ipv6::walk(quoted, l3 + ipv6::HEADER_LEN, quoted.len(), ip.next_header()).ok()?;
    if matches!(found.fragment, Fragment::Later { .. }) {
        return None;
    }
    inner(quoted, l3, found.at, AnyAddrs::V6 { src: ip.src(), dst: ip.dst() }, found.protocol)
}

fn inner(quoted: &[u8], l3: usize, l4: usize, addrs: AnyAddrs, protocol: u8) -> Option<Inner> {
    let protocol = Protocol::try_from(protocol).ok()?;
    // RFC 792: eight bytes of the transport header are always quoted.
    let start: &[u8; 8] = chunk(quoted, l4)?;
    let ports = start.first_chunk::<4>()?;
    Some(Inner { key: key(addrs, ports, protocol), l3: offset(l3).ok()?, l4: offset(l4).ok()? })
}
