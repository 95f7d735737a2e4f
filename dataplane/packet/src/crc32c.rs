//! CRC32c, the checksum of SCTP (RFC 9260 §6.8, appendix A), and its patch when the ports change.
//!
//! A CRC is linear: changing bytes changes it by the CRC of the difference, which needs the distance to the end but none
//! of the bytes between. So a port rewrite costs the same for every packet length.

/// The Castagnoli polynomial, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Tables for eight bytes at a time: entry `[k][b]` is the CRC of byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();
/// `x^(8 * 2^k)`: what appending 2^k zero bytes multiplies a remainder by.
static ZERO_BYTES: [u32; 16] = zero_bytes();

/// State before the first byte.
pub const START: u32 = !0;

/// State after more bytes.
#[must_use]
pub fn update(state: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words.iter().fold(state, |state, word| {
        let [a, b, c, d, e, f, g, h] = *word;
        let [a, b, c, d] = (state ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        let entry = |zeros: usize, byte: u8| TABLES[zeros][usize::from(byte)];
        let low = entry(7, a) ^ entry(6, b) ^ entry(5, c) ^ entry(4, d);
        low ^ entry(3, e) ^ entry(2, f) ^ entry(1, g) ^ entry(0, h)
    });
    rest.iter()
        .fold(state, |state, byte| (state >> 8) ^ TABLES[0][usize::from(state.to_le_bytes()[0] ^ byte)])
}

/// The CRC in a state.
#[must_use]
pub const fn finish(state: u32) -> u32 {
    !state
}

/// The CRC after the first four of `len` bytes changed from `old` to `new`.
#[must_use]
pub fn patch_first(crc: u32, old: [u8; 4], new: [u8; 4], len: u16) -> u32 {
    let difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let powers = ZERO_BYTES.iter().enumerate().filter(|(bit, _)| len >> bit & 1 == 1);
    crc ^ powers.fold(difference, |product, (_, power)| multiply(product, *power))
}

/// Product of two polynomials modulo ours.
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut b, mut bit) = (0, b, 1 << 31);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = times_x(b);
        bit >>= 1;
    }
    product
}

const fn times_x(value: u32) -> u32 {
    if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 }
}

const fn zero_bytes() -> [u32; 16] {
    // x^8 in this bit order.
    let mut powers = [1 << (31 - 8); 16];
    let mut k = 1;
    while k < 16 {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
}

#[expect(clippy::cast_possible_truncation, reason = "the index of a table of 256")]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut zeros = 0;
        while zeros < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = times_x(crc);
                bit += 1;
            }
            tables[zeros][byte] = crc;
            zeros += 1;
        }
        byte += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| times_x(crc)))
    }

    #[test]
    fn known_values() {
        // RFC 3720 appendix B.4.
        assert_eq!(finish(update(START, &[0; 32])), 0x8a91_36aa);
        assert_eq!(finish(update(START, b"123456789")), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn tables_equal_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..100) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(finish(update(update(START, a), b)), naive(&bytes));
        }

        #[test]
        fn a_patch_equals_a_full_recompute(mut bytes in prop::collection::vec(any::<u8>(), 4..3000), new: [u8; 4]) {
            let (crc, old) = (naive(&bytes), *bytes.first_chunk().expect("four bytes"));
            bytes[..4].copy_from_slice(&new);
            let len = u16::try_from(bytes.len()).expect("short");
            prop_assert_eq!(patch_first(crc, old, new, len), naive(&bytes));
        }
    }
}
