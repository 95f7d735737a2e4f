//! Address and port rewrite of a parsed frame, with checksums patched by deltas made once a flow.
//!
//! A [`Parsed`] is the proof that its headers lie inside the frame, so nothing here fails on the frame it came from.
//! Handed another frame, these functions change nothing they cannot reach, and never panic.

mod error;
mod mss;
mod plain;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use error::rewrite_error;
pub use mss::clamp_mss;
pub use plain::PlainRewrite;

use crate::{
    Address, Body, FlowKey, Parsed, Protocol,
    bytes::{be16, chunk_mut, put},
    checksum::Delta,
    ipv4, ipv6, sctp,
};

/// How the packets of one direction of a flow change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rewrite<A> {
    /// New sender.
    pub src: A,
    /// New receiver.
    pub dst: A,
    /// New port of the sender.
    pub sport: u16,
    /// New port of the receiver.
    pub dport: u16,
    /// Change of the sum over the addresses: what the IPv4 header checksum sees.
    pub ip: Delta,
    /// Change of the sum over addresses and ports: what the transport checksum sees.
    pub l4: Delta,
}

impl<A: Address> Rewrite<A> {
    /// What turns packets of `from` into packets of `to`.
    #[must_use]
    pub fn new(from: &FlowKey<A>, to: &FlowKey<A>) -> Self {
        let ip = Delta::of_addr_change(from.src, to.src).and(Delta::of_addr_change(from.dst, to.dst));
        let ports = Delta::of_u16(from.sport, to.sport).and(Delta::of_u16(from.dport, to.dport));
        Self { src: to.src, dst: to.dst, sport: to.sport, dport: to.dport, ip, l4: ip.and(ports) }
    }

    /// The key that packets of this protocol have afterwards.
    #[inline]
    #[must_use]
    pub const fn key(&self, protocol: Protocol) -> FlowKey<A> {
        let Self { src, dst, sport, dport, .. } = *self;
        FlowKey { src, dst, sport, dport, protocol }
    }
}

impl Rewrite<Ipv4Addr> {
    /// Rewrites an IPv4 frame of the flow and takes one off its TTL (a TTL of 0 stays).
    #[inline(always)]
    pub fn forward(&self, head: &mut [u8], parsed: &Parsed) {
        let Some(bytes) = chunk_mut(head, parsed.l3.into()) else { return };
        let mut ip = ipv4::Header(bytes);
        let hop = if ip.ttl() == 0 { Delta::NONE } else { Delta::TTL_DECREMENT };
        ip.set_ttl(ip.ttl().saturating_sub(1));
        self.write(ip, hop);
        rewrite_l4(head, parsed, self.l4, self.sport, self.dport);
    }

    /// Rewrites an IPv4 frame of the flow; the TTL stays.
    #[inline]
    pub fn apply(&self, head: &mut [u8], parsed: &Parsed) {
        let Some(bytes) = chunk_mut(head, parsed.l3.into()) else { return };
        self.write(ipv4::Header(bytes), Delta::NONE);
        rewrite_l4(head, parsed, self.l4, self.sport, self.dport);
    }

    #[inline]
    fn write(&self, mut ip: ipv4::Header<&mut [u8; ipv4::HEADER_LEN]>, hop: Delta) {
        ip.set_checksum(self.ip.and(hop).apply(ip.checksum()));
        ip.set_src(self.src);
        ip.set_dst(self.dst);
    }
}

impl Rewrite<Ipv6Addr> {
    /// Rewrites an IPv6 frame of the flow and takes one off its hop limit (0 stays).
    #[inline(always)]
    pub fn forward(&self, head: &mut [u8], parsed: &Parsed) {
        decrement_ttl(head, parsed);
        self.apply(head, parsed);
    }

    /// Rewrites an IPv6 frame of the flow; the hop limit stays.
    #[inline]
    pub fn apply(&self, head: &mut [u8], parsed: &Parsed) {
        let Some(bytes) = chunk_mut(head, parsed.l3.into()) else { return };
        let mut ip = ipv6::Header(bytes);
        ip.set_src(self.src);
        ip.set_dst(self.dst);
        rewrite_l4(head, parsed, self.l4, self.sport, self.dport);
    }
}

/// Takes one off the TTL or hop limit, and patches the IPv4 header checksum; a TTL of 0 stays, and what is not IP.
#[inline]
pub fn decrement_ttl(head: &mut [u8], parsed: &Parsed) {
    if parsed.l4 == 0 {
        return;
    }
    let Some(bytes) = chunk_mut::<{ ipv4::HEADER_LEN }>(head, parsed.l3.into()) else { return };
    if bytes[0] >> 4 == 6 {
        bytes[7] = bytes[7].saturating_sub(1);
        return;
    }
    let mut ip = ipv4::Header(bytes);
    if ip.ttl() > 0 {
        ip.set_ttl(ip.ttl() - 1);
        ip.set_checksum(Delta::TTL_DECREMENT.apply(ip.checksum()));
    }
}

/// Ports and checksum of the transport header of a flow's frame.
#[inline(always)]
fn rewrite_l4(head: &mut [u8], parsed: &Parsed, delta: Delta, sport: u16, dport: u16) {
    let Body::Flow { key, .. } = &parsed.body else { return };
    let l4 = usize::from(parsed.l4);
    match key.protocol() {
        Protocol::Tcp => {
            let Some(bytes) = chunk_mut::<18>(head, l4) else { return };
            put(bytes, 16, delta.apply(be16(bytes, 16)).to_be_bytes());
            put(bytes, 0, sport.to_be_bytes());
            put(bytes, 2, dport.to_be_bytes());
        }
        Protocol::Udp => {
            let Some(bytes) = chunk_mut::<8>(head, l4) else { return };
            put(bytes, 6, delta.apply_udp(be16(bytes, 6)).to_be_bytes());
            put(bytes, 0, sport.to_be_bytes());
            put(bytes, 2, dport.to_be_bytes());
        }
        Protocol::Sctp => {
            let Some(bytes) = chunk_mut(head, l4) else { return };
            sctp::Header(bytes).set_ports(sport, dport, parsed.l4_len());
        }
    }
}
