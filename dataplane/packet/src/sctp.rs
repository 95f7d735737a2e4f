//! SCTP common header (RFC 9260 §3.1), and what the chunks behind it do to the association. Of their contents only the
//! tags are read: an association has one address at each end here.

use std::borrow::{Borrow, BorrowMut};

use crate::{
    TcpFlags,
    bytes::{array, be16, be32, chunk, put},
    crc32c,
};

/// Bytes of the common header.
pub const HEADER_LEN: usize = 12;

/// Chunks of one packet that are looked at: control chunks come first, and few go together (RFC 9260 §6.10).
const CHUNKS_MAX: usize = 8;
/// Chunk types (RFC 9260 §3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;

/// What the chunks of a packet do to its association, as flags of TCP would: INIT opens as a SYN does, SHUTDOWN and its
/// answer close the two ways as FINs do, ABORT resets; all the rest goes on as an ACK. An INIT with a verification tag is
/// nothing, as its receiver takes none (RFC 9260 §8.5.1).
#[must_use]
pub fn flags(tag: u32, chunks: &[u8]) -> TcpFlags {
    let Some((header, _)) = steering(chunks) else { return TcpFlags::ACK };
    match header[0] {
        INIT if tag == 0 => TcpFlags::SYN,
        INIT => TcpFlags::NONE,
        INIT_ACK => TcpFlags::SYN | TcpFlags::ACK,
        ABORT => TcpFlags::RST,
        _ => TcpFlags::FIN | TcpFlags::ACK,
    }
}

/// The chunk that steers the association, and what is behind its header; none before data.
fn steering(chunks: &[u8]) -> Option<(&[u8; 4], &[u8])> {
    let mut at = 0;
    for _ in 0..CHUNKS_MAX {
        let header = chunk::<4>(chunks, at)?;
        match header[0] {
            DATA => return None,
            INIT | INIT_ACK | ABORT | SHUTDOWN | SHUTDOWN_ACK => {
                return Some((header, chunks.get(at + 4..)?));
            }
            // A length below that of its own header says nothing of where the next chunk is.
            _ => at += usize::from(be16(header, 2).max(4)).next_multiple_of(4),
        }
    }
    None
}

/// The tags of a packet, from its common header on (RFC 9260 §8.5).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tags {
    /// The verification tag: that of the association's receiving side.
    pub carried: u32,
    /// With INIT and INIT ACK: the tag that packets to their sender must carry.
    pub initiate: u32,
    /// With ABORT: its sender knows no association, and carries the tag that it was sent (the T bit).
    pub reflected: bool,
}

impl Tags {
    /// Reads them; what is not there is 0.
    #[must_use]
    pub fn of(packet: &[u8]) -> Self {
        let Some(header) = chunk::<HEADER_LEN>(packet, 0) else { return Self::default() };
        let carried = Header(header).tag();
        let found = steering(packet.get(HEADER_LEN..).unwrap_or_default());
        let (initiate, reflected) = match found {
            Some(([INIT | INIT_ACK, ..], value)) => {
                (chunk::<4>(value, 0).map_or(0, |tag| be32(tag, 0)), false)
            }
            Some(([ABORT, flags, ..], _)) => (0, flags & 1 != 0),
            _ => (0, false),
        };
        Self { carried, initiate, reflected }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_steer_an_association() {
        let sack = [3, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
        for (name, chunks, want) in [
            ("INIT", &[1, 0, 0, 20][..], TcpFlags::SYN),
            ("INIT ACK", &[2, 0, 0, 20], TcpFlags::SYN | TcpFlags::ACK),
            ("COOKIE ECHO", &[10, 0, 0, 8, 1, 2, 3, 4], TcpFlags::ACK),
            ("ABORT", &[6, 0, 0, 4], TcpFlags::RST),
            ("SHUTDOWN", &[7, 0, 0, 8, 0, 0, 0, 1], TcpFlags::FIN | TcpFlags::ACK),
            ("SHUTDOWN ACK", &[8, 0, 0, 4], TcpFlags::FIN | TcpFlags::ACK),
            ("SHUTDOWN COMPLETE", &[14, 0, 0, 4], TcpFlags::ACK),
            ("a SHUTDOWN behind a SACK", &[&sack[..], &[7, 0, 0, 8]].concat(), TcpFlags::FIN | TcpFlags::ACK),
            ("an ABORT behind an odd length", &[9, 0, 0, 5, 0, 0, 0, 0, 6, 0, 0, 4], TcpFlags::RST),
            ("data that looks like an ABORT", &[0, 3, 0, 16, 6, 0, 0, 4], TcpFlags::ACK),
            ("chunks without length", &[9; 64], TcpFlags::ACK),
            ("chunks of length 0", &[9, 0, 0, 0, 6, 0, 0, 4], TcpFlags::RST),
            ("nothing", &[], TcpFlags::ACK),
        ] {
            assert_eq!(flags(0, chunks), want, "{name}");
            let tagged = if want == TcpFlags::SYN { TcpFlags::NONE } else { want };
            assert_eq!(flags(7, chunks), tagged, "{name} with a tag");
        }
    }

    #[test]
    fn tags_are_found_where_they_are() {
        let header = [0, 1, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0];
        let tags = |initiate, reflected| Tags { carried: 7, initiate, reflected };
        for (name, chunks, want) in [
            ("INIT", &[1, 0, 0, 20, 0, 0, 1, 2][..], tags(0x102, false)),
            ("INIT ACK", &[2, 0, 0, 20, 9, 0, 0, 0, 1], tags(0x0900_0000, false)),
            ("an INIT that ends", &[1, 0, 0, 20, 0, 0, 1], tags(0, false)),
            ("ABORT", &[6, 0, 0, 4], tags(0, false)),
            ("ABORT, reflected", &[6, 1, 0, 4], tags(0, true)),
            ("ABORT behind an ERROR", &[9, 0, 0, 5, 0, 0, 0, 0, 6, 1, 0, 4], tags(0, true)),
            ("SHUTDOWN", &[7, 1, 0, 8, 0, 0, 0, 1], tags(0, false)),
            ("DATA", &[0, 3, 0, 16, 6, 1, 0, 4], tags(0, false)),
            ("nothing", &[], tags(0, false)),
        ] {
            assert_eq!(Tags::of(&[&header[..], chunks].concat()), want, "{name}");
        }
        assert_eq!(Tags::of(&header[..11]), Tags::default());
    }
}
