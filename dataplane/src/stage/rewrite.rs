//! A flow's packet gets its new addresses and ports, and loses one hop; checksums follow by deltas, or in full where
//! the sender left them unfinished.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::{Address, Parsed, nat};
use tables::flow::Rewrite;

/// An address family whose frames can be rewritten.
pub(crate) trait Forward: Address {
    /// Rewrites a frame of the flow and takes one off its TTL.
    fn forward(rewrite: &nat::Rewrite<Self>, head: &mut [u8], parsed: &Parsed);
}

impl Forward for Ipv4Addr {
    #[inline]
    fn forward(rewrite: &nat::Rewrite<Self>, head: &mut [u8], parsed: &Parsed) {
        rewrite.forward(head, parsed);
    }
}

impl Forward for Ipv6Addr {
    #[inline]
    fn forward(rewrite: &nat::Rewrite<Self>, head: &mut [u8], parsed: &Parsed) {
        rewrite.forward(head, parsed);
    }
}

/// The flow table's rewrite in the packet crate's words.
#[inline]
pub(crate) const fn of_flow<A: Copy>(rewrite: &Rewrite<A>) -> nat::Rewrite<A> {
    let Rewrite { to, ip_delta, l4_delta } = rewrite;
    nat::Rewrite { src: to.src, dst: to.dst, sport: to.sport, dport: to.dport, ip: *ip_delta, l4: *l4_delta }
}
