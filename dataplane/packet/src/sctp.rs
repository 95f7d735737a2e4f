//! SCTP common header (RFC 9260 §3.1). Chunks are not read.

use std::borrow::{Borrow, BorrowMut};

use crate::{
    bytes::{array, be16, be32, put},
    crc32c,
};

/// Bytes of the common header.
pub const HEADER_LEN: usize = 12;

/// The 12 bytes of an SCTP common header; holding them is the proof that they are there.
#[derive(Clone, Copy, Debug)]
pub struct Header<B>(pub B);

impl<B: Borrow<[u8; HEADER_LEN]>> Header<B> {
    /// Sender's port.
    #[inline]
    pub fn sport(&self) -> u16 {
        be16(self.0.borrow(), 0)
    }

    /// Receiver's port.
    #[inline]
    pub fn dport(&self) -> u16 {
        be16(self.0.borrow(), 2)
    }

    /// Verification tag.
    #[inline]
    pub fn tag(&self) -> u32 {
        be32(self.0.borrow(), 4)
    }

    /// CRC32c as it stands.
    #[inline]
    pub fn checksum(&self) -> u32 {
        u32::from_le_bytes(array(self.0.borrow(), 8))
    }
}

impl<B: BorrowMut<[u8; HEADER_LEN]>> Header<B> {
    /// Sets the ports and patches the CRC32c of a packet of `len` bytes in all; a wrong CRC stays wrong.
    pub fn set_ports(&mut self, sport: u16, dport: u16, len: u16) {
        let bytes = self.0.borrow_mut();
        let ([a, b], [c, d]) = (sport.to_be_bytes(), dport.to_be_bytes());
        let (old, new) = (array(bytes, 0), [a, b, c, d]);
        if old != new {
            let crc = crc32c::patch_first(u32::from_le_bytes(array(bytes, 8)), old, new, len);
            put(bytes, 0, new);
            put(bytes, 8, crc.to_le_bytes());
        }
    }
}
