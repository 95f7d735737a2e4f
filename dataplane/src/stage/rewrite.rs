//! A flow's packet gets its new addresses and ports, and loses one hop; checksums follow by deltas, or in full where
//! the sender left them unfinished.

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::{Address, Parsed, nat::Rewrite, plain::Ends};

/// An address family whose frames can be rewritten.
pub(crate) trait Forward: Address {
    /// Two of its addresses in words.
    type Ends: Ends;

    /// Rewrites a frame of the flow and takes one off its TTL.
    fn forward(rewrite: &Rewrite<Self>, head: &mut [u8], parsed: &Parsed);
}

impl Forward for Ipv4Addr {
    type Ends = u64;

    #[inline(always)]
    fn forward(rewrite: &Rewrite<Self>, head: &mut [u8], parsed: &Parsed) {
        rewrite.forward(head, parsed);
    }
}

impl Forward for Ipv6Addr {
    type Ends = [u64; 4];

    #[inline(always)]
    fn forward(rewrite: &Rewrite<Self>, head: &mut [u8], parsed: &Parsed) {
        rewrite.forward(head, parsed);
    }
}
