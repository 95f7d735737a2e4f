//! The eight bytes that ICMP (RFC 792) and ICMPv6 (RFC 4443) messages have in common.

use std::borrow::{Borrow, BorrowMut};

use crate::bytes::{be16, be32, put};

/// Bytes before the data of a message.
pub const HEADER_LEN: usize = 8;

/// The first 8 bytes of a message; holding them is the proof that they are there.
#[derive(Clone, Copy, Debug)]
pub struct Header<B>(pub B);

impl<B: Borrow<[u8; HEADER_LEN]>> Header<B> {
    /// Type.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.0.borrow()[0]
    }

    /// Code.
    #[inline]
    pub fn code(&self) -> u8 {
        self.0.borrow()[1]
    }

    /// Checksum as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.0.borrow(), 2)
    }

    /// The word whose meaning depends on the type: identifier and sequence, unused, or an MTU.
    #[inline]
    pub fn rest(&self) -> u32 {
        be32(self.0.borrow(), 4)
    }
}

impl<B: BorrowMut<[u8; HEADER_LEN]>> Header<B> {
    /// Sets type and code.
    #[inline]
    pub fn set_kind(&mut self, kind: u8, code: u8) {
        put(self.0.borrow_mut(), 0, [kind, code]);
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.0.borrow_mut(), 2, checksum.to_be_bytes());
    }
}
