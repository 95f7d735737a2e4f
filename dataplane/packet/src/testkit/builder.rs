//! A frame, layer by layer, with right lengths and checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    AnyAddrs, AnyKey, Arp, ArpOperation, MacAddr, Protocol, TcpFlags, VlanTag,
    checksum::{Sum, ipv4_header},
    crc32c, ether, ndp,
};

const FRAGMENT_HEADER: u8 = 44;

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

    fn transport(&self, key: AnyKey) -> Vec<u8> {
        let mut bytes = [key.sport().to_be_bytes(), key.dport().to_be_bytes()].concat();
        let at = match key.protocol() {
            Protocol::Tcp => {
                bytes.extend([self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat());
                let words =
                    u8::try_from(5 + self.tcp_options.len() / 4).expect("at most 40 bytes of options");
                bytes.extend([words << 4, self.flags.0, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(&self.tcp_options);
                16
            }
            Protocol::Udp => {
                bytes.extend(len16(8 + self.payload.len()));
                bytes.extend([0; 2]);
                6
            }
            Protocol::Sctp => {
                // As it must be: none with an INIT.
                let init = self.payload.first() == Some(&1);
                let tag = self.tag.unwrap_or(if init { 0 } else { 7 });
                bytes.extend(tag.to_be_bytes());
                bytes.extend([0; 4]);
                8
            }
        };
        bytes.extend(&self.payload);
        if key.protocol() == Protocol::Sctp {
            if self.checksum == Checksum::Right {
                let crc = crc32c::finish(crc32c::update(crc32c::START, &bytes));
                bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            return bytes;
        }
        let checksum = self.sum(key.addrs(), key.protocol().number(), &bytes);
        let checksum = if checksum == 0 && key.protocol() == Protocol::Udp { 0xffff } else { checksum };
        let absent = self.checksum == Checksum::Absent;
        bytes[at..at + 2].copy_from_slice(&if absent { 0 } else { checksum }.to_be_bytes());
        bytes
    }

    /// The checksum of a transport packet whose own field is 0.
    fn sum(&self, addrs: AnyAddrs, protocol: u8, bytes: &[u8]) -> u16 {
        let mut sum = Sum::pseudo(addrs, protocol, u16::try_from(bytes.len()).expect("a short packet"));
        if self.checksum == Checksum::Unfinished {
            return sum.folded();
        }
        sum.add(bytes);
        sum.checksum()
    }

    /// The payload of other protocols, ICMP with its checksum.
    fn message(&self, addrs: AnyAddrs, protocol: u8) -> Vec<u8> {
        let mut bytes = self.payload.clone();
        let checksum = match (addrs, protocol) {
            (AnyAddrs::V4 { .. }, 1) => ipv4_header(&bytes),
            (AnyAddrs::V6 { .. }, 58) => self.sum(addrs, protocol, &bytes),
            _ => return bytes,
        };
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn network(&self, addrs: AnyAddrs, protocol: u8, payload: Vec<u8>) -> (u16, Vec<u8>) {
        match addrs {
            AnyAddrs::V4 { src, dst } => (ether::IPV4, self.v4(src, dst, protocol, &payload)),
            AnyAddrs::V6 { src, dst } => (ether::IPV6, self.v6(src, dst, protocol, &payload)),
        }
    }

    fn v4(&self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let (id, offset, more) = self.fragment.unwrap_or((0x1234, 0, false));
        let field = (offset / 8) | (u16::from(more) << 13) | (u16::from(self.dont_fragment) << 14);
        let words = u8::try_from(header_len / 4).expect("at most 40 bytes of options");
        let mut bytes = vec![0x40 | words, 0];
        bytes.extend(len16(header_len + payload.len()));
        bytes.extend(u16::try_from(id).expect("an IPv4 identification").to_be_bytes());
        bytes.extend(field.to_be_bytes());
        bytes.extend([self.ttl, protocol, 0, 0]);
        bytes.extend([src.octets(), dst.octets()].concat());
        bytes.extend(&self.options);
        let checksum = ipv4_header(&bytes);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn v6(&self, src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if let Some((id, offset, more)) = self.fragment {
            // The reserved byte stands where other headers have their length.
            let body =
                [(offset | u16::from(more)).to_be_bytes().to_vec(), id.to_be_bytes().to_vec()].concat();
            extensions.push((FRAGMENT_HEADER, body));
        }
        let mut kinds = extensions.iter().map(|(kind, _)| *kind).chain([protocol]);
        let first = kinds.next().expect("at least the protocol");
        let mut chain = Vec::new();
        for (next, (_, body)) in kinds.zip(&extensions) {
            chain.extend([next, u8::try_from((body.len() + 2) / 8 - 1).expect("a short extension header")]);
            chain.extend(body);
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(len16(chain.len() + payload.len()));
        bytes.extend([first, self.ttl]);
        bytes.extend([src.octets(), dst.octets()].concat());
        bytes.extend(chain);
        bytes.extend(payload);
        bytes
    }
}

fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("a packet of at most 65,535 bytes").to_be_bytes()
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
