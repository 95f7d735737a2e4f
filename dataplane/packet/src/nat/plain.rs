//! The rewrite of plain packets, by words.

use crate::{
    Family, Protocol,
    bytes::{be16, chunk_mut, put},
    checksum::Delta,
    ether, ipv4, ipv6,
    plain::{Ends, V4_START, V6_START},
};

/// Where an untagged frame's IPv4 header without options ends.
const V4_IP: usize = ether::HEADER_LEN + ipv4::HEADER_LEN;
/// Where its IPv6 header ends.
const V6_IP: usize = ether::HEADER_LEN + ipv6::HEADER_LEN;

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

    /// The same for any untagged frame of the flow, be it with options or extension headers or a part of a datagram;
    /// `transport` says what header begins where in the frame, if one is in it. False, and nothing written, also for SCTP.
    #[inline(always)]
    pub fn forward_any(&self, head: &mut [u8], transport: Option<(Protocol, u16)>, macs: [u8; 12]) -> bool {
        match E::FAMILY {
            Family::V4 => self.write_any::<V4_IP>(head, transport, macs),
            Family::V6 => self.write_any::<V6_IP>(head, transport, macs),
        }
    }

    #[inline(always)]
    fn write_any<const N: usize>(
        &self,
        head: &mut [u8],
        transport: Option<(Protocol, u16)>,
        macs: [u8; 12],
    ) -> bool {
        if head.len() < N {
            return false;
        }
        let written = match transport {
            None => true,
            Some((protocol, l4)) => self.write_transport(head, (protocol, l4.into())),
        };
        written && head.first_chunk_mut::<N>().map(|start| self.write_ip(start, macs)).is_some()
    }

    #[inline(always)]
    fn write_transport(&self, head: &mut [u8], (protocol, l4): (Protocol, usize)) -> bool {
        match protocol {
            Protocol::Tcp => chunk_mut::<18>(head, l4).map(|header| self.write_l4(header, 0, protocol)),
            Protocol::Udp => chunk_mut::<8>(head, l4).map(|header| self.write_l4(header, 0, protocol)),
            Protocol::Sctp => None,
        }
        .is_some()
    }

    #[inline(always)]
    fn write<const N: usize>(&self, head: &mut [u8; N], protocol: Protocol, macs: [u8; 12]) {
        self.write_ip(head, macs);
        let l4 = match E::FAMILY {
            Family::V4 => V4_IP,
            Family::V6 => V6_IP,
        };
        self.write_l4(head, l4, protocol);
    }

    #[inline(always)]
    fn write_ip<const N: usize>(&self, head: &mut [u8; N], macs: [u8; 12]) {
        put(head, 0, macs);
        let l3 = ether::HEADER_LEN;
        let ttl = match E::FAMILY {
            Family::V4 => {
                let delta = self.ip.and(Delta::TTL_DECREMENT);
                put(head, l3 + 10, delta.apply(be16(head, l3 + 10)).to_be_bytes());
                l3 + 8
            }
            Family::V6 => l3 + 7,
        };
        head[ttl] = head[ttl].wrapping_sub(1);
        self.ends.write(head, l3);
    }

    /// The transport header at `l4`.
    #[inline(always)]
    fn write_l4<const N: usize>(&self, head: &mut [u8; N], l4: usize, protocol: Protocol) {
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
