//! In which order flows send: each as often as another, or some much more often than most.

use std::{fmt, str::FromStr};

use rand::{SeedableRng as _, rngs::SmallRng};
use rand_distr::{Distribution as _, Zipf};

use crate::{Random, shuffle, whole};

/// Choices that a skewed order repeats after, at least.
const CHOICES: usize = 1 << 20;

/// How often each flow sends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Popularity {
    /// All alike.
    #[default]
    Uniform,
    /// The n-th most popular in proportion to n to the power of minus this exponent.
    Zipf(f64),
}

impl Popularity {
    /// Flows by their numbers in the order of sending, over and over: the same in every run.
    #[must_use]
    pub fn order(self, flows: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..flows).collect();
        // Neighbours in the table of a gateway are not to be neighbours in time, nor the most popular in each other.
        shuffle(&mut numbers, &mut Random::new(1));
        let Self::Zipf(exponent) = self else { return numbers };
        let Ok(zipf) = Zipf::new(f64::from(flows.max(1)), exponent) else { return numbers };
        let mut random = SmallRng::seed_from_u64(1);
        let rank = |rank: f64| {
            let index = usize::try_from(whole(rank)).unwrap_or(0).saturating_sub(1);
            numbers.get(index).copied().unwrap_or(0)
        };
        (0..CHOICES.max(numbers.len())).map(|_| rank(zipf.sample(&mut random))).collect()
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// What a text of a popularity has wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PopularityError;

impl fmt::Display for PopularityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected `uniform`, `zipf` (exponent 1), or `zipf:EXPONENT` with one above 0 and up to 10",
        )
    }
}

impl std::error::Error for PopularityError {}

impl FromStr for Popularity {
    type Err = PopularityError;

    fn from_str(text: &str) -> Result<Self, PopularityError> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "zipf" => Ok(Self::Zipf(1.0)),
            Some(("zipf", exponent)) => {
                let exponent = exponent.parse().ok().filter(|exponent| *exponent > 0.0 && *exponent <= 10.0);
                Ok(Self::Zipf(exponent.ok_or(PopularityError)?))
            }
            _ => Err(PopularityError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_means_each_once_a_turn() {
        let mut order = Popularity::Uniform.order(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn the_most_popular_of_a_thousand_sends_as_often_as_zipf_says() {
        let order = Popularity::Zipf(1.0).order(1000);
        let mut counts = vec![0_u32; 1000];
        order.iter().for_each(|flow| counts[*flow as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // The harmonic number of 1000 is 7.485: the first has 1/7.485 of all, the second half as much.
        let share = |rank: usize| f64::from(counts[rank - 1]) / order.len() as f64;
        for (rank, want) in [(1, 0.1336), (2, 0.0668), (10, 0.01336)] {
            assert!((share(rank) / want - 1.0).abs() < 0.05, "{rank}: {}", share(rank));
        }
        assert!(counts[999] > 0, "the last is heard of, too");
    }

    #[test]
    fn texts_of_popularities() {
        for (text, want) in [
            ("uniform", Some(Popularity::Uniform)),
            ("zipf", Some(Popularity::Zipf(1.0))),
            ("zipf:0.9", Some(Popularity::Zipf(0.9))),
            ("zipf:0", None),
            ("zipf:inf", None),
            ("zipf:NaN", None),
            ("zipf:", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), want, "{text}");
        }
    }
}
