//! A frame, layer by layer, with right lengths and checksums.

mod encode;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{AnyAddrs, AnyKey, Arp, ArpOperation, MacAddr, Protocol, TcpFlags, VlanTag, ether, ndp};

/// Builds a frame; every setter returns the builder, [`build`](Self::build) the bytes.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    dst_mac: MacAddr,
    src_mac: MacAddr,
    vlan: Option<VlanTag>,
    min_len: usize,
    ttl: u8,
    dont_fragment: bool,
    fragment: Option<(u32, u16, bool)>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    content: Content,
    flags: TcpFlags,
    /// SCTP's verification tag.
    tag: Option<u32>,
    seq: u32,
    ack: u32,
    tcp_options: Vec<u8>,
    checksum: Checksum,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Content {
    Arp(Arp),
    Flow(AnyKey),
    Ip(AnyAddrs, u8),
    Other(u16),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Checksum {
    Right,
    Absent,
    Unfinished,
}

impl PacketBuilder {
    /// A packet of this flow: for TCP an ACK.
    #[must_use]
    pub fn flow(key: AnyKey) -> Self {
        Self::new(Content::Flow(key))
    }

    /// A TCP segment between two `address:port` texts.
    ///
    /// # Panics
    /// If a text is no socket address, or they are of two families.
    #[must_use]
    pub fn tcp(src: &str, dst: &str) -> Self {
        Self::flow(key(src, dst, Protocol::Tcp))
    }

    /// A UDP datagram between two `address:port` texts.
    ///
    /// # Panics
    /// If a text is no socket address, or they are of two families.
    #[must_use]
    pub fn udp(src: &str, dst: &str) -> Self {
        Self::flow(key(src, dst, Protocol::Udp))
    }

    /// An SCTP packet between two `address:port` texts.
    ///
    /// # Panics
    /// If a text is no socket address, or they are of two families.
    #[must_use]
    pub fn sctp(src: &str, dst: &str) -> Self {
        Self::flow(key(src, dst, Protocol::Sctp))
    }

    /// An ICMP or ICMPv6 message: type, code, and everything behind the checksum (at least four bytes).
    ///
    /// # Panics
    /// If the addresses are of two families.
    #[must_use]
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Self {
        let addrs = addrs(src, dst);
        let protocol = if matches!(addrs, AnyAddrs::V4 { .. }) { 1 } else { 58 };
        Self::new(Content::Ip(addrs, protocol)).payload(&[&[kind, code, 0, 0], rest].concat())
    }

    /// An echo request.
    ///
    /// # Panics
    /// If the addresses are of two families.
    #[must_use]
    pub fn ping(src: IpAddr, dst: IpAddr, id: u16, sequence: u16, data: &[u8]) -> Self {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        Self::icmp(src, dst, kind, 0, &[&id.to_be_bytes()[..], &sequence.to_be_bytes(), data].concat())
    }

    /// IP with another protocol; the payload is set by [`payload`](Self::payload).
    ///
    /// # Panics
    /// If the addresses are of two families.
    #[must_use]
    pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8) -> Self {
        Self::new(Content::Ip(addrs(src, dst), protocol))
    }

    /// An ARP request, sent to everybody.
    #[must_use]
    pub fn arp_request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        let operation = ArpOperation::Request;
        let arp = Arp { operation, sender_mac, sender_ip, target_mac: MacAddr::ZERO, target_ip };
        Self::arp(arp).macs(MacAddr::BROADCAST, sender_mac)
    }

    /// An ARP packet.
    #[must_use]
    pub fn arp(arp: Arp) -> Self {
        Self::new(Content::Arp(arp)).macs(arp.target_mac, arp.sender_mac)
    }

    /// A neighbour solicitation, sent to the group of the target; without a source address it is a probe (RFC 4862).
    #[must_use]
    pub fn neighbor_solicitation(sender_mac: MacAddr, src: Ipv6Addr, target: Ipv6Addr) -> Self {
        let group = ndp::solicited_node(target);
        let mut rest = [&[0; 4][..], &target.octets()].concat();
        if !src.is_unspecified() {
            rest.extend([1, 1]);
            rest.extend(sender_mac.0);
        }
        Self::icmp(src.into(), group.into(), 135, 0, &rest)
            .macs(MacAddr::of_ipv6_multicast(group), sender_mac)
            .ttl(255)
    }

    /// A frame of another EtherType (or 802.3 length).
    #[must_use]
    pub fn ether(ether_type: u16) -> Self {
        Self::new(Content::Other(ether_type))
    }

    fn new(content: Content) -> Self {
        Self {
            dst_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            src_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            vlan: None,
            min_len: 0,
            ttl: 64,
            dont_fragment: false,
            fragment: None,
            options: Vec::new(),
            extensions: Vec::new(),
            content,
            flags: TcpFlags::ACK,
            tag: None,
            seq: 1,
            ack: 1,
            tcp_options: Vec::new(),
            checksum: Checksum::Right,
            payload: Vec::new(),
        }
    }

    /// Ethernet receiver and sender.
    #[must_use]
    pub fn macs(self, dst_mac: MacAddr, src_mac: MacAddr) -> Self {
        Self { dst_mac, src_mac, ..self }
    }

    /// An 802.1Q tag.
    #[must_use]
    pub fn vlan(self, tag: VlanTag) -> Self {
        Self { vlan: Some(tag), ..self }
    }

    /// Ethernet padding up to this many bytes (60 on a wire, without the frame check sequence).
    #[must_use]
    pub fn pad_to(self, min_len: usize) -> Self {
        Self { min_len, ..self }
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// The IPv4 DF bit.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        Self { dont_fragment: true, ..self }
    }

    /// Part of a fragmented packet: identification, offset in bytes (a multiple of 8), whether more follow.
    #[must_use]
    pub fn fragment(self, id: u32, offset: u16, more: bool) -> Self {
        Self { fragment: Some((id, offset, more)), ..self }
    }

    /// IPv4 options, a multiple of four bytes and at most 40.
    #[must_use]
    pub fn ip_options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// One more IPv6 extension header: its type, and its bytes behind the length (6 plus a multiple of 8).
    #[must_use]
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Self {
        self.extensions.push((kind, body.to_vec()));
        self
    }

    /// The verification tag of SCTP; else it is 7, and 0 before an INIT.
    #[must_use]
    pub fn tag(self, tag: u32) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// TCP flags.
    #[must_use]
    pub fn flags(self, flags: TcpFlags) -> Self {
        Self { flags, ..self }
    }

    /// TCP sequence and acknowledgment numbers.
    #[must_use]
    pub fn numbers(self, seq: u32, ack: u32) -> Self {
        Self { seq, ack, ..self }
    }

    /// TCP options, a multiple of four bytes and at most 40.
    #[must_use]
    pub fn tcp_options(self, options: &[u8]) -> Self {
        Self { tcp_options: options.to_vec(), ..self }
    }

    /// A UDP checksum of 0: none.
    #[must_use]
    pub fn without_checksum(self) -> Self {
        Self { checksum: Checksum::Absent, ..self }
    }

    /// A transport checksum left to hardware, as Linux leaves it (`CHECKSUM_PARTIAL`).
    #[must_use]
    pub fn unfinished_checksum(self) -> Self {
        Self { checksum: Checksum::Unfinished, ..self }
    }

    /// What follows the last header.
    #[must_use]
    pub fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// The frame.
    ///
    /// # Panics
    /// If a part is too long for its length field.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let (ether_type, packet) = match self.content {
            Content::Arp(arp) => (ether::ARP, arp.bytes().to_vec()),
            Content::Flow(key) => self.network(key.addrs(), key.protocol().number(), self.transport(key)),
            Content::Ip(addrs, protocol) => self.network(addrs, protocol, self.message(addrs, protocol)),
            Content::Other(ether_type) => (ether_type, self.payload.clone()),
        };
        let mut frame = [self.dst_mac.0, self.src_mac.0].concat();
        if let Some(tag) = self.vlan {
            frame.extend(ether::VLAN.to_be_bytes());
            frame.extend(tag.0.to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        frame.resize(frame.len().max(self.min_len), 0);
        frame
    }
}

fn key(src: &str, dst: &str, protocol: Protocol) -> AnyKey {
    let end = |text: &str| -> SocketAddr { text.parse().expect("address:port") };
    AnyKey::new(end(src), end(dst), protocol).expect("two addresses of one family")
}

fn addrs(src: IpAddr, dst: IpAddr) -> AnyAddrs {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => AnyAddrs::V4 { src, dst },
        (IpAddr::V6(src), IpAddr::V6(dst)) => AnyAddrs::V6 { src, dst },
        _ => panic!("two addresses of one family"),
    }
}
