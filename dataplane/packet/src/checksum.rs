//! The Internet checksum (RFC 1071): full sums, incremental patches (RFC 1624), and checksums left to the hardware.
//!
//! A sum here is over 16-bit big-endian words in ones' complement arithmetic; a checksum is its complement.

mod l4;
mod sum;

pub use l4::{Field, is_right, is_unfinished, of_packet};
pub use sum::{Sum, ipv4_header};

use crate::Address;

/// Folds a sum of 16-bit words to 16 bits: added to itself with its halves exchanged, each half gets the carry of the
/// other.
#[inline]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Ones' complement addition of sums of words: the carry comes in again at the bottom.
#[inline]
pub(crate) const fn sum(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Ones' complement addition: the carry comes in again at the bottom.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// The change of a sum when some of the summed words change: `~m + m'` of RFC 1624, equation 3.
///
/// Made once a flow and applied to each of its packets. Deltas of several fields combine by [`Delta::and`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changes.
    pub const NONE: Self = Self(0);

    /// A 16-bit field changes.
    #[inline]
    #[must_use]
    pub const fn of_u16(old: u16, new: u16) -> Self {
        Self(add(!old, new))
    }

    /// An address changes.
    #[inline]
    #[must_use]
    pub fn of_addr_change<A: Address>(old: A, new: A) -> Self {
        let (old, new) = (word_sum(old.words()), word_sum(new.words()));
        Self::of_u16(old, new)
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// One hop: TTL less 1, in the upper half of its word.
    pub const TTL_DECREMENT: Self = Self(0xfeff);

    /// The change that takes this one back.
    #[inline]
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// The checksum (TCP, IPv4, ICMP) after the change.
    #[inline]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !add(!checksum, self.0)
    }

    /// The UDP checksum after the change: 0, which says that there is none, stays, and is never made (RFC 768).
    #[inline]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            patched => patched,
        }
    }

    /// The value, for records that pack it.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The delta of a packed value.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// Folded sum of an address in network order.
#[inline]
pub(crate) fn word_sum(address: [u64; 2]) -> u16 {
    fold(halves(address))
}

/// Sum of an address by halves of its words, not folded: less than 2^34.
#[inline]
pub(crate) const fn halves([high, low]: [u64; 2]) -> u64 {
    (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_follows_rfc_1624() {
        // RFC 1624 §4: header checksum 0xdd2f, a field changes from 0x5555 to 0x3285.
        assert_eq!(Delta::of_u16(0x5555, 0x3285).apply(0xdd2f), 0);
        assert_eq!(Delta::of_u16(0x5555, 0x3285).inverse().apply(0), 0xdd2f);
        assert_eq!(Delta::NONE.apply(0x1234), 0x1234);
    }

    #[test]
    fn udp_zero_stays_and_is_never_made() {
        assert_eq!(Delta::of_u16(1, 2).apply_udp(0), 0);
        assert_eq!(Delta::of_u16(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }
}
