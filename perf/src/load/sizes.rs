//! How long frames are: one size, or a mix of some.

use std::{fmt, str::FromStr};

use crate::{Random, shuffle};

/// What a frame has on a wire beyond what is handed to a port: the check sequence.
pub const FCS_LEN: u16 = 4;
/// The sizes that RFC 2544 names for Ethernet (section 9.1).
pub const RFC2544: [u16; 7] = [64, 128, 256, 512, 1024, 1280, 1518];
/// Sizes and shares of the simple Internet mix: 40, 576 and 1500 bytes of IP as 7 : 4 : 1.
const IMIX: [(u16, usize); 3] = [(64, 7), (594, 4), (1518, 1)];
/// Frames that a mix repeats after; shares are whole numbers of them.
const SHARES_MAX: usize = 1024;

/// Sizes of frames in the order of sending, with the check sequence, over and over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sizes {
    text: String,
    cycle: Vec<u16>,
}

impl Sizes {
    /// Frames of one size.
    #[must_use]
    pub fn of(size: u16) -> Self {
        Self { text: size.to_string(), cycle: vec![size] }
    }

    /// The simple Internet mix.
    #[must_use]
    pub fn imix() -> Self {
        Self::mix("imix", &IMIX)
    }

    fn mix(text: &str, shares: &[(u16, usize)]) -> Self {
        let mut cycle: Vec<u16> =
            shares.iter().flat_map(|(size, share)| std::iter::repeat_n(*size, *share)).collect();
        // In a row, long frames would come in bursts.
        shuffle(&mut cycle, &mut Random::new(3));
        Self { text: text.to_owned(), cycle }
    }

    /// One cycle of the sizes.
    #[must_use]
    pub fn cycle(&self) -> &[u16] {
        &self.cycle
    }

    /// The shortest.
    #[must_use]
    pub fn min(&self) -> u16 {
        self.cycle.iter().copied().min().unwrap_or(0)
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> u16 {
        self.cycle.iter().copied().max().unwrap_or(0)
    }

    /// The mean, in bytes.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.cycle.iter().map(|size| f64::from(*size)).sum::<f64>() / self.cycle.len().max(1) as f64
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a text of sizes has wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SizesError;

impl fmt::Display for SizesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected bytes of a frame with its check sequence from 64 to 1518, `imix`, or SIZE:SHARE pairs such as \
             64:7,594:4,1518:1 with shares of {SHARES_MAX} together"
        )
    }
}

impl std::error::Error for SizesError {}

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        let size = |text: &str| text.parse().ok().filter(|size| (64..=1518).contains(size)).ok_or(SizesError);
        if text == "imix" {
            return Ok(Self::imix());
        }
        if !text.contains(':') {
            return Ok(Self::of(size(text)?));
        }
        let shares = text.split(',').map(|pair| {
            let (bytes, share) = pair.split_once(':').ok_or(SizesError)?;
            let share = share.parse().ok().filter(|share| (1..=SHARES_MAX).contains(share));
            Ok((size(bytes)?, share.ok_or(SizesError)?))
        });
        let shares: Vec<(u16, usize)> = shares.collect::<Result<_, SizesError>>()?;
        if shares.iter().map(|(_, share)| share).sum::<usize>() > SHARES_MAX {
            return Err(SizesError);
        }
        Ok(Self::mix(text, &shares))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_sizes() {
        for (text, want) in [
            ("64", Some((1, 64, 64))),
            ("1518", Some((1, 1518, 1518))),
            ("imix", Some((12, 64, 1518))),
            ("64:1,1518:3", Some((4, 64, 1518))),
            ("63", None),
            ("1519", None),
            ("", None),
            ("64:0", None),
            ("64:7,", None),
            ("64:1000,128:1000", None),
            ("many", None),
        ] {
            let sizes = text.parse::<Sizes>().ok();
            assert_eq!(sizes.map(|sizes| (sizes.cycle().len(), sizes.min(), sizes.max())), want, "{text}");
        }
    }

    #[test]
    fn the_mix_has_its_shares() {
        let sizes = Sizes::imix();
        let count = |size| sizes.cycle().iter().filter(|one| **one == size).count();
        assert_eq!([64, 594, 1518].map(count), [7, 4, 1]);
        assert!((sizes.mean() - 361.83).abs() < 0.01);
    }
}
