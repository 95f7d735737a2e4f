//! ARP for IPv4 over Ethernet (RFC 826).

use std::borrow::Borrow;

use crate::{
    Arp, ArpOperation, MacAddr,
    bytes::{array, be16},
    ether,
};

/// Bytes of a packet for IPv4 over Ethernet.
pub const PACKET_LEN: usize = 28;

/// The 28 bytes of an ARP packet; holding them is the proof that they are there.
#[derive(Clone, Copy, Debug)]
pub struct Packet<B>(pub B);

impl<B: Borrow<[u8; PACKET_LEN]>> Packet<B> {
    /// What the packet says; nothing if it is not Ethernet over IPv4 or neither request nor reply.
    pub fn facts(&self) -> Option<Arp> {
        let bytes = self.0.borrow();
        let shape = (be16(bytes, 0), be16(bytes, 2), bytes[4], bytes[5]);
        if shape != (1, ether::IPV4, 6, 4) {
            return None;
        }
        let operation = match be16(bytes, 6) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return None,
        };
        Some(Arp {
            operation,
            sender_mac: MacAddr(array(bytes, 8)),
            sender_ip: array(bytes, 14).into(),
            target_mac: MacAddr(array(bytes, 18)),
            target_ip: array(bytes, 24).into(),
        })
    }
}

impl Arp {
    /// The packet that says this.
    #[must_use]
    pub const fn bytes(&self) -> [u8; PACKET_LEN] {
        let operation = match self.operation {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
        };
        let [a, b, c, d, e, f] = self.sender_mac.0;
        let [g, h, i, j] = self.sender_ip.octets();
        let [k, l, m, n, o, p] = self.target_mac.0;
        let [q, r, s, t] = self.target_ip.octets();
        [0, 1, 8, 0, 6, 4, 0, operation, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]
    }
}
