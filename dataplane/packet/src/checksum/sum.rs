//! Sums over bytes, in as many pieces as they come.

use super::{fold, halves};
use crate::{Address, AnyAddrs, ipv4};

/// A running sum over bytes; pieces may have odd lengths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    words: u64,
    /// An odd number of bytes was added: the next one is the lower half of a word.
    odd: bool,
}

impl Sum {
    /// Nothing added.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: 0, odd: false }
    }

    /// Adds the pseudo header of a transport protocol (RFC 9293 §3.1, RFC 8200 §8.1); `len` covers header and payload.
    #[inline]
    #[must_use]
    pub fn pseudo(addrs: AnyAddrs, protocol: u8, len: u16) -> Self {
        match addrs {
            AnyAddrs::V4 { src, dst } => Self::pseudo_of(src, dst, protocol, len),
            AnyAddrs::V6 { src, dst } => Self::pseudo_of(src, dst, protocol, len),
        }
    }

    /// The same where the family is known.
    #[inline]
    pub(super) fn pseudo_of<A: Address>(src: A, dst: A, protocol: u8, len: u16) -> Self {
        let addresses = halves(src.words()) + halves(dst.words());
        Self { words: addresses + u64::from(protocol) + u64::from(len), odd: false }
    }

    /// Adds a word.
    #[inline]
    pub const fn add_u16(&mut self, word: u16) {
        self.words += word as u64;
    }

    /// Adds bytes.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let sum = of_bytes(bytes);
        self.words += u64::from(if self.odd { sum.swap_bytes() } else { sum });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// The sum.
    #[inline]
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.words)
    }

    /// The checksum of what was added.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The folded sum of bytes. Words are read in the machine's order and swapped once at the end (RFC 1071 §2 B).
#[inline]
fn of_bytes(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    u16::from_be(fold(sum + u64::from(u32::from_ne_bytes(last))))
}

/// The checksum of an IPv4 header with its options: 0 over one whose stored checksum is right.
#[inline]
#[must_use]
pub fn ipv4_header(header: &[u8]) -> u16 {
    // Nearly every header has no options; over a known length there is no loop.
    !<&[u8; ipv4::HEADER_LEN]>::try_from(header).map_or_else(|_| of_bytes(header), |plain| of_bytes(plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 word for word.
    fn naive(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded")
    }

    proptest! {
        #[test]
        fn pieces_sum_to_the_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..6)) {
            let mut sum = Sum::new();
            pieces.iter().for_each(|piece| sum.add(piece));
            prop_assert_eq!(sum.folded(), naive(&pieces.concat()));
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let mut sum = Sum::new();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }
}
