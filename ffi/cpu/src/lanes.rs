//! Eight words compared with one at once.

/// A bit for each of the eight words that equals `word`, the first word's lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[must_use]
pub fn equal_lanes(words: &[u32; 8], word: u32) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi32, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set_epi32, _mm_set1_epi32,
        _mm_setzero_si128,
    };
    let [a, b, c, d, e, f, g, h] = words.map(u32::cast_signed);
    // SAFETY: nothing here touches memory, and SSE2 is part of the x86-64 baseline.
    unsafe {
        let wanted = _mm_set1_epi32(word.cast_signed());
        let low = _mm_cmpeq_epi32(_mm_set_epi32(d, c, b, a), wanted);
        let high = _mm_cmpeq_epi32(_mm_set_epi32(h, g, f, e), wanted);
        // All ones stay all ones when they are narrowed: a byte for each word.
        let bytes = _mm_packs_epi16(_mm_packs_epi32(low, high), _mm_setzero_si128());
        _mm_movemask_epi8(bytes).cast_unsigned()
    }
}

/// A bit for each of the eight words that equals `word`, the first word's lowest.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
#[must_use]
pub fn equal_lanes(words: &[u32; 8], word: u32) -> u32 {
    one_by_one(words, word)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(words: &[u32; 8], word: u32) -> u32 {
    words.iter().enumerate().fold(0, |bits, (at, other)| bits | u32::from(*other == word) << at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_at_once_is_one_by_one() {
        // Every subset of the lanes, for words that are all ones, all zeroes, and half of either.
        for (word, other) in [(u32::MAX, 0), (0, u32::MAX), (0xffff_0000, 0xffff), (7, 0x8000_0007)] {
            for subset in 0..256 {
                let lanes = std::array::from_fn(|at| if subset >> at & 1 == 1 { word } else { other });
                assert_eq!(equal_lanes(&lanes, word), subset);
                assert_eq!(one_by_one(&lanes, word), subset);
            }
        }
    }
}
