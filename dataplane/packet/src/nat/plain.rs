//! The rewrite of plain packets, by words.

use crate::{
    Family, Protocol,
    bytes::{be16, put},
    checksum::Delta,
    ether,
    plain::{Ends, V4_START, V6_START},
};

/// How the plain packets of one direction of a flow change: what [`Rewrite`](super::Rewrite) says, in words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlainRewrite<E> {
    /// New sender and receiver.
    pub ends: E,
    /// New ports, the sender's in the upper half.
    pub ports: u32,
    /// Change of the sum over the addresses.
    pub ip: Delta,
    /// Change of the sum over addresses and ports.
    pub l4: Delta,
}

impl<E: Ends> PlainRewrite<E> {
    /// Rewrites the untagged frame of a plain packet of the flow: puts on these Ethernet addresses, and takes one off the
    /// TTL, which is not 0. False, and nothing written, if `head` is shorter than the packet's headers.
    #[inline(always)]
    pub fn forward(&self, head: &mut [u8], protocol: Protocol, macs: [u8; 12]) -> bool {
        // One proof of length: all that is written has a constant place in it.
        match E::FAMILY {
            Family::V4 => {
                head.first_chunk_mut::<V4_START>().map(|head| self.write(head, protocol, macs)).is_some()
            }
            Family::V6 => {
                head.first_chunk_mut::<V6_START>().map(|head| self.write(head, protocol, macs)).is_some()
            }
        }
    }

    #[inline(always)]
    fn write<const N: usize>(&self, head: &mut [u8; N], protocol: Protocol, macs: [u8; 12]) {
        put(head, 0, macs);
        let l3 = ether::HEADER_LEN;
        let (ttl, l4) = match E::FAMILY {
            Family::V4 => {
                let delta = self.ip.and(Delta::TTL_DECREMENT);
                put(head, l3 + 10, delta.apply(be16(head, l3 + 10)).to_be_bytes());
                (l3 + 8, l3 + 20)
            }
            Family::V6 => (l3 + 7, l3 + 40),
        };
        head[ttl] = head[ttl].wrapping_sub(1);
        self.ends.write(head, l3);
        put(head, l4, self.ports.to_be_bytes());
        let at = l4 + if protocol == Protocol::Udp { 6 } else { 16 };
        let stored = be16(head, at);
        let patched = match protocol {
            Protocol::Udp => self.l4.apply_udp(stored),
            _ => self.l4.apply(stored),
        };
        put(head, at, patched.to_be_bytes());
    }
}
