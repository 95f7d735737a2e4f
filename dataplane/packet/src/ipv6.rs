//! IPv6 header and the walk over extension headers (RFC 8200 §3, §4).

use std::{
    borrow::{Borrow, BorrowMut},
    net::Ipv6Addr,
};

use crate::{
    Fragment, ParseError,
    bytes::{array, be16, be32, chunk, put},
};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Extension headers that are walked at most.
pub const EXTENSIONS_MAX: usize = 8;
/// Bytes of extension headers that are walked at most.
pub const EXTENSION_BYTES_MAX: usize = 256;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// The extension header of parts of a datagram (RFC 8200 §4.5).
pub(crate) const FRAGMENT: u8 = 44;
/// Its bytes.
pub(crate) const FRAGMENT_LEN: usize = 8;
const DESTINATION_OPTIONS: u8 = 60;

/// The 40 bytes of an IPv6 header; holding them is the proof that they are there.
#[derive(Clone, Copy, Debug)]
pub struct Header<B>(pub B);

impl<B: Borrow<[u8; HEADER_LEN]>> Header<B> {
    /// Version, 6 in a valid header.
    #[inline]
    pub fn version(&self) -> u8 {
        self.0.borrow()[0] >> 4
    }

    /// Bytes behind this header, extension headers among them.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        be16(self.0.borrow(), 4)
    }

    /// Protocol of what follows.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.0.borrow()[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.0.borrow()[7]
    }

    /// Sender.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        array::<16, HEADER_LEN>(self.0.borrow(), 8).into()
    }

    /// Receiver.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        array::<16, HEADER_LEN>(self.0.borrow(), 24).into()
    }
}

impl<B: BorrowMut<[u8; HEADER_LEN]>> Header<B> {
    /// Sets the bytes behind this header.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        put(self.0.borrow_mut(), 4, len.to_be_bytes());
    }

    /// Sets the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hop_limit: u8) {
        self.0.borrow_mut()[7] = hop_limit;
    }

    /// Sets the sender.
    #[inline]
    pub fn set_src(&mut self, address: Ipv6Addr) {
        put(self.0.borrow_mut(), 8, address.octets());
    }

    /// Sets the receiver.
    #[inline]
    pub fn set_dst(&mut self, address: Ipv6Addr) {
        put(self.0.borrow_mut(), 24, address.octets());
    }
}

/// Where the walk over extension headers ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Payload {
    /// Protocol found there.
    pub(crate) protocol: u8,
    /// Where it begins in the frame.
    pub(crate) at: usize,
    /// Whether the packet is whole; a fragment's payload is not walked any further.
    pub(crate) fragment: Fragment,
    /// A fragment header was met, be it that of an atomic fragment.
    pub(crate) fragment_header: bool,
}

/// Walks the extension headers from `at` on; the packet ends at `end` (both offsets in the frame).
///
/// A routing header with segments left stops the walk with itself as the protocol: the final receiver, which the
/// transport checksum covers, is not the one in the IP header then.
///
/// # Errors
/// Too many headers, or headers outside the packet or the head.
pub(crate) fn walk(head: &[u8], at: usize, end: usize, protocol: u8) -> Result<Payload, ParseError> {
    let mut here = Payload { protocol, at, fragment: Fragment::Whole, fragment_header: false };
    for _ in 0..=EXTENSIONS_MAX {
        match here.protocol {
            // Hop-by-hop options come first or not at all (RFC 8200 §4.1).
            HOP_BY_HOP if here.at == at => {}
            ROUTING | FRAGMENT | DESTINATION_OPTIONS => {}
            _ => return Ok(here),
        }
        if here.at + 8 > end {
            return Err(ParseError::Truncated);
        }
        let bytes: &[u8; 8] = chunk(head, here.at).ok_or(ParseError::SplitHeader)?;
        let len = match here.protocol {
            FRAGMENT => FRAGMENT_LEN,
            ROUTING if bytes[3] != 0 => return Ok(here),
            _ => (usize::from(bytes[1]) + 1) * 8,
        };
        if here.protocol == FRAGMENT {
            here.fragment = fragment(bytes);
            here.fragment_header = true;
        }
        here = Payload { protocol: bytes[0], at: here.at + len, ..here };
        if here.at > end {
            return Err(ParseError::Truncated);
        }
        if here.at > head.len() {
            return Err(ParseError::SplitHeader);
        }
        if here.at - at > EXTENSION_BYTES_MAX {
            return Err(ParseError::ExtensionHeaders);
        }
        if here.fragment != Fragment::Whole {
            return Ok(here);
        }
    }
    Err(ParseError::ExtensionHeaders)
}

/// What a fragment header says (RFC 8200 §4.5); offset 0 and no more fragments is an atomic fragment (RFC 6946).
#[inline]
pub(crate) fn fragment(bytes: &[u8; FRAGMENT_LEN]) -> Fragment {
    let (field, id) = (be16(bytes, 2), be32(bytes, 4));
    match (field & 0xfff8, field & 1) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First { id },
        (offset, more) => Fragment::Later { id, offset, more: more != 0 },
    }
}
