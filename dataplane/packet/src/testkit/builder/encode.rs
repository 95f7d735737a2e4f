//! The bytes of each layer.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Checksum, PacketBuilder};
use crate::{
    AnyAddrs, AnyKey, Protocol,
    checksum::{Sum, ipv4_header},
    crc32c, ether,
};

const FRAGMENT_HEADER: u8 = 44;

impl PacketBuilder {
    pub(super) fn transport(&self, key: AnyKey) -> Vec<u8> {
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
    pub(super) fn message(&self, addrs: AnyAddrs, protocol: u8) -> Vec<u8> {
        let mut bytes = self.payload.clone();
        let checksum = match (addrs, protocol) {
            (AnyAddrs::V4 { .. }, 1) => ipv4_header(&bytes),
            (AnyAddrs::V6 { .. }, 58) => self.sum(addrs, protocol, &bytes),
            _ => return bytes,
        };
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    pub(super) fn network(&self, addrs: AnyAddrs, protocol: u8, payload: Vec<u8>) -> (u16, Vec<u8>) {
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
