//! UDP header (RFC 768).

use std::borrow::{Borrow, BorrowMut};

use crate::bytes::{be16, put};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// The 8 bytes of a UDP header; holding them is the proof that they are there.
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

    /// Bytes of header and payload, as the header says.
    #[inline]
    pub fn len(&self) -> u16 {
        be16(self.0.borrow(), 4)
    }

    /// True if the datagram has no payload.
    #[inline]
    pub fn is_empty(&self) -> bool {
        usize::from(self.len()) <= HEADER_LEN
    }

    /// Checksum as it stands; 0 says that there is none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.0.borrow(), 6)
    }
}

impl<B: BorrowMut<[u8; HEADER_LEN]>> Header<B> {
    /// Sets the ports.
    #[inline]
    pub fn set_ports(&mut self, sport: u16, dport: u16) {
        put(self.0.borrow_mut(), 0, sport.to_be_bytes());
        put(self.0.borrow_mut(), 2, dport.to_be_bytes());
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.0.borrow_mut(), 6, checksum.to_be_bytes());
    }
}
