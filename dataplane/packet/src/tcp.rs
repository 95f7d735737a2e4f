//! TCP header (RFC 9293 §3.1). Not here: the phase machine, which lives with the flow table.

use std::{
    borrow::{Borrow, BorrowMut},
    fmt,
};

use crate::bytes::{be16, be32, put};

/// The eight flag bits of a TCP header.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// What packets without TCP have.
    pub const NONE: Self = Self(0);

    /// True if every flag of `flags` is set.
    #[inline]
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// FIN is set.
    #[inline]
    #[must_use]
    pub const fn fin(self) -> bool {
        self.contains(Self::FIN)
    }

    /// SYN is set.
    #[inline]
    #[must_use]
    pub const fn syn(self) -> bool {
        self.contains(Self::SYN)
    }

    /// RST is set.
    #[inline]
    #[must_use]
    pub const fn rst(self) -> bool {
        self.contains(Self::RST)
    }

    /// PSH is set.
    #[inline]
    #[must_use]
    pub const fn psh(self) -> bool {
        self.contains(Self::PSH)
    }

    /// ACK is set.
    #[inline]
    #[must_use]
    pub const fn ack(self) -> bool {
        self.contains(Self::ACK)
    }

    /// A client's opening segment: SYN without ACK, FIN or RST.
    #[inline]
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::FIN.0 | Self::RST.0) == Self::SYN.0
    }

    /// A segment that a connection of which nobody knows can begin with: a client's SYN, or one from its middle. Not an
    /// answer to a SYN, an end or a reset, nor what no sender sends (SYN with FIN, neither SYN nor ACK).
    #[inline]
    #[must_use]
    pub const fn begins(self) -> bool {
        let steering = self.0 & (Self::SYN.0 | Self::ACK.0 | Self::FIN.0 | Self::RST.0);
        steering == Self::SYN.0 || steering == Self::ACK.0
    }

    /// A segment that opens, ends or resets a connection: SYN, FIN or RST.
    #[inline]
    #[must_use]
    pub const fn steers(self) -> bool {
        self.0 & (Self::SYN.0 | Self::FIN.0 | Self::RST.0) != 0
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in "FSRPAUEC".chars().enumerate() {
            if self.0 >> bit & 1 == 1 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// The first 20 bytes of a TCP header; holding them is the proof that they are there.
#[derive(Clone, Copy, Debug)]
pub struct Header<B>(pub B);

impl<'a> Header<&'a [u8; HEADER_LEN]> {
    /// The header at this offset of a frame, if its bytes are there.
    #[inline]
    #[must_use]
    pub fn at(head: &'a [u8], l4: u16) -> Option<Self> {
        crate::bytes::chunk(head, l4.into()).map(Self)
    }
}

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

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        be32(self.0.borrow(), 4)
    }

    /// Acknowledgment number.
    #[inline]
    pub fn ack(&self) -> u32 {
        be32(self.0.borrow(), 8)
    }

    /// Bytes of the header with its options, as the header says.
    #[inline]
    pub fn header_len(&self) -> u16 {
        u16::from(self.0.borrow()[12] >> 4) * 4
    }

    /// Flags.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.0.borrow()[13])
    }

    /// Checksum as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.0.borrow(), 16)
    }
}

impl<B: BorrowMut<[u8; HEADER_LEN]>> Header<B> {
    /// Sets the ports.
    #[inline]
    pub fn set_ports(&mut self, sport: u16, dport: u16) {
        put(self.0.borrow_mut(), 0, sport.to_be_bytes());
        put(self.0.borrow_mut(), 2, dport.to_be_bytes());
    }

    /// Sets the sequence and acknowledgment numbers.
    #[inline]
    pub fn set_numbers(&mut self, seq: u32, ack: u32) {
        put(self.0.borrow_mut(), 4, seq.to_be_bytes());
        put(self.0.borrow_mut(), 8, ack.to_be_bytes());
    }

    /// Sets the flags, and the header length to that of a header without options.
    #[inline]
    pub fn set_flags(&mut self, flags: TcpFlags) {
        put(self.0.borrow_mut(), 12, [5 << 4, flags.0]);
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.0.borrow_mut(), 16, checksum.to_be_bytes());
    }
}
