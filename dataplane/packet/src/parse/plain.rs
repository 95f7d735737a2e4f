//! The straight line for plain traffic: whole, valid TCP and UDP over IPv4 without options or IPv6 without extension
//! headers. Anything else is nothing here, and goes the general way.

use crate::{
    Address, AnyKey, Body, FlowKey, Fragment, Parsed, Protocol, TcpFlags, VlanTag,
    bytes::{be16, chunk},
    checksum, ether, ipv4, ipv6, tcp,
};

/// The part of a frame before the packet.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) eth: &'a [u8; ether::HEADER_LEN],
    pub(super) vlan: Option<VlanTag>,
    /// Its length.
    pub(super) len: u16,
}

/// Reads the IPv4 packet in `bytes`; `room` bytes of the frame lie behind the link header.
#[inline(always)]
pub(super) fn v4(link: Link<'_>, bytes: &[u8], room: usize, out: &mut Parsed) -> Option<()> {
    let ip = ipv4::Header(bytes.first_chunk()?);
    // Version 4 with a header of 5 words, no more fragments and offset 0.
    if ip.0[0] != 0x45 || be16(ip.0, 6) & 0x3fff != 0 {
        return None;
    }
    let ip_len = ip.total_len();
    let l4_len = ip_len.checked_sub(20)?;
    if usize::from(ip_len) > room {
        return None;
    }
    let l4 = transport(bytes, ipv4::HEADER_LEN, l4_len, ip.protocol())?;
    let key =
        FlowKey { src: ip.src(), dst: ip.dst(), sport: l4.sport, dport: l4.dport, protocol: l4.protocol };
    *out = Parsed {
        l3: link.len,
        l4: link.len + 20,
        ip_len,
        vlan: link.vlan,
        ttl: ip.ttl(),
        dont_fragment: ip.dont_fragment(),
        ip_checksum_right: checksum::ipv4_header(ip.0) == 0,
        unfinished: l4.is_unfinished(&key),
        fragment: Fragment::Whole,
        dst_mac: ether::Header(link.eth).dst(),
        src_mac: ether::Header(link.eth).src(),
        body: Body::Flow { key: AnyKey::V4(key), tcp_flags: l4.flags },
    };
    Some(())
}

/// Reads the IPv6 packet in `bytes`; `room` bytes of the frame lie behind the link header.
#[inline(always)]
pub(super) fn v6(link: Link<'_>, bytes: &[u8], room: usize, out: &mut Parsed) -> Option<()> {
    let ip = ipv6::Header(bytes.first_chunk()?);
    let l4_len = ip.payload_len();
    let ip_len = l4_len.checked_add(40)?;
    if ip.version() != 6 || usize::from(ip_len) > room {
        return None;
    }
    let l4 = transport(bytes, ipv6::HEADER_LEN, l4_len, ip.next_header())?;
    let key =
        FlowKey { src: ip.src(), dst: ip.dst(), sport: l4.sport, dport: l4.dport, protocol: l4.protocol };
    *out = Parsed {
        l3: link.len,
        l4: link.len + 40,
        ip_len,
        vlan: link.vlan,
        ttl: ip.hop_limit(),
        dont_fragment: true,
        ip_checksum_right: true,
        unfinished: l4.is_unfinished(&key),
        fragment: Fragment::Whole,
        dst_mac: ether::Header(link.eth).dst(),
        src_mac: ether::Header(link.eth).src(),
        body: Body::Flow { key: AnyKey::V6(key), tcp_flags: l4.flags },
    };
    Some(())
}

/// What a transport header tells.
struct Transport {
    sport: u16,
    dport: u16,
    protocol: Protocol,
    flags: TcpFlags,
    /// As stored.
    checksum: u16,
    /// Bytes that the checksum covers.
    len: u16,
}

impl Transport {
    #[inline(always)]
    fn is_unfinished<A: Address>(&self, key: &FlowKey<A>) -> bool {
        checksum::is_pseudo_sum(self.checksum, key, self.len)
    }
}

/// The header at `at` of an IP payload of `len` bytes, if all of it is valid and at hand.
#[inline(always)]
fn transport(bytes: &[u8], at: usize, len: u16, protocol: u8) -> Option<Transport> {
    match protocol {
        6 => {
            let header: &[u8; tcp::HEADER_LEN] = chunk(bytes, at)?;
            let tcp = tcp::Header(header);
            let offset = usize::from(tcp.header_len());
            let valid = offset >= tcp::HEADER_LEN && offset <= len.into() && at + offset <= bytes.len();
            valid.then(|| Transport {
                sport: be16(header, 0),
                dport: be16(header, 2),
                protocol: Protocol::Tcp,
                flags: tcp.flags(),
                checksum: be16(header, 16),
                len,
            })
        }
        17 => {
            let header: &[u8; 8] = chunk(bytes, at)?;
            let udp_len = be16(header, 4);
            (udp_len >= 8 && udp_len <= len).then(|| Transport {
                sport: be16(header, 0),
                dport: be16(header, 2),
                protocol: Protocol::Udp,
                flags: TcpFlags::NONE,
                checksum: be16(header, 6),
                len: udp_len,
            })
        }
        _ => None,
    }
}
