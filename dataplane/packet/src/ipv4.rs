//! IPv4 header (RFC 791 §3.1). Options are skipped, never interpreted.

use std::{
    borrow::{Borrow, BorrowMut},
    net::Ipv4Addr,
};

use crate::{
    Fragment,
    bytes::{array, be16, put},
};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// The first 20 bytes of an IPv4 header; holding them is the proof that they are there.
#[derive(Clone, Copy, Debug)]
pub struct Header<B>(pub B);

impl<B: Borrow<[u8; HEADER_LEN]>> Header<B> {
    /// Version, 4 in a valid header.
    #[inline]
    pub fn version(&self) -> u8 {
        self.0.borrow()[0] >> 4
    }

    /// Bytes of the header with its options, as the header says.
    #[inline]
    pub fn header_len(&self) -> u16 {
        u16::from(self.0.borrow()[0] & 0x0f) * 4
    }

    /// Bytes of the packet.
    #[inline]
    pub fn total_len(&self) -> u16 {
        be16(self.0.borrow(), 2)
    }

    /// Identification.
    #[inline]
    pub fn id(&self) -> u16 {
        be16(self.0.borrow(), 4)
    }

    /// May not be fragmented.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.0.borrow()[6] & 0x40 != 0
    }

    /// Which part of a packet this is.
    #[inline]
    pub fn fragment(&self) -> Fragment {
        let field = be16(self.0.borrow(), 6);
        match (field & 0x1fff, field & 0x2000) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First { id: self.id().into() },
            (units, more) => Fragment::Later { id: self.id().into(), offset: units * 8, more: more != 0 },
        }
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.0.borrow()[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.0.borrow()[9]
    }

    /// Header checksum as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.0.borrow(), 10)
    }

    /// Sender.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        array(self.0.borrow(), 12).into()
    }

    /// Receiver.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        array(self.0.borrow(), 16).into()
    }
}

impl<B: BorrowMut<[u8; HEADER_LEN]>> Header<B> {
    /// Sets the bytes of the packet.
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        put(self.0.borrow_mut(), 2, len.to_be_bytes());
    }

    /// Sets the time to live.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.0.borrow_mut()[8] = ttl;
    }

    /// Sets the header checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.0.borrow_mut(), 10, checksum.to_be_bytes());
    }

    /// Sets the sender.
    #[inline]
    pub fn set_src(&mut self, address: Ipv4Addr) {
        put(self.0.borrow_mut(), 12, address.octets());
    }

    /// Sets the receiver.
    #[inline]
    pub fn set_dst(&mut self, address: Ipv4Addr) {
        put(self.0.borrow_mut(), 16, address.octets());
    }
}
